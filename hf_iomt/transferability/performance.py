"""ω_p of Eq. 6: how well the pre-trained model does before it is tuned, in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .task import IGNORED, Task

# What `performance` computes for each task.
PERFORMANCE_NAMES: dict[Task, str] = {
    "classification": "accuracy",
    "multi_label": "micro F1",
    "regression": "R²",
    "tokens": "token accuracy",
    "language_model": "token accuracy",
}

# What an evaluation reports besides metrics.
_NO_METRICS = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
_PREFIX = "eval_"

# Names of metrics that are better when lower, and of those that are in per cent whatever their size.
_LOSSES = ("loss", "nll", "log_loss", "cross_entropy")
_RATES = ("wer", "cer", "ter", "eer", "error_rate", "error", "brier_score")
_DISTANCES = (
    *("mse", "rmse", "mae", "mape", "smape", "rmsle", "msle", "max_error", "edit_distance"),
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_log_error"),
)
_PER_CENT = ("sacrebleu", "chrf")


def performance_rows(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    What `performance` needs to know of each sample, of shape (B, S), so that logits need not be kept.

    Args:
        task (`Task`): The kind of labels.
        logits (`torch.Tensor` of shape (B, C), (B, K) or (B, T, C)): Predictions.
        labels (`torch.Tensor` of shape (B,), (B, K) or (B, T)): Labels, those of language models already aligned with
            the predictions. `IGNORED` marks what does not count.
    """
    if task == "regression":
        return torch.cat([logits.reshape(len(labels), -1), labels.reshape(len(labels), -1)], dim=1).float()
    if task == "multi_label":
        predicted, true = logits > 0, labels > 0.5
        return torch.stack([(predicted & true).sum(1), predicted.sum(1) + true.sum(1)], dim=1).float()
    valid = labels != IGNORED
    right = (logits.argmax(-1) == labels) & valid
    return torch.stack([right.reshape(len(labels), -1).sum(1), valid.reshape(len(labels), -1).sum(1)], dim=1).float()


def performance(task: Task, rows: torch.Tensor) -> float:
    """
    Accuracy of classes and tokens, micro F1 of several labels at a threshold of 0.5, or R² clipped to [0, 1].

    Args:
        task (`Task`): The kind of labels.
        rows (`torch.Tensor` of shape (N, S)): From `performance_rows`.

    Raises:
        ValueError: No label counts, or a prediction is not finite.
    """
    # Exact here, since some devices have no float64.
    exact = rows.cpu().numpy().astype(np.float64)
    if task == "regression":
        predictions, targets = np.split(exact, 2, axis=1)
        if len(exact) < 2 or not np.isfinite(exact).all():
            raise ValueError("R² needs two samples or more, and finite predictions and labels")
        # Imported when first used: it takes memory.
        from sklearn.metrics import r2_score

        return min(max(float(r2_score(targets, predictions)), 0.0), 1.0)
    right, total = exact.sum(axis=0).tolist()
    if total == 0:
        raise ValueError("no sample has a label that counts")
    return float(2 * right / total if task == "multi_label" else right / total)


def choose_metric(metrics: Mapping[str, Any], asked: str | None, best: str | None) -> str | None:
    """
    The metric that stands for ω_p, by its name in `metrics`.

    It is `asked`, else `best`, else the accuracy, else the first that there is. A loss is taken only where it is asked
    for.

    Args:
        metrics (`Mapping[str, Any]`): What an evaluation returned, with or without the prefix `eval_`.
        asked (`str`, *optional*): The user's choice.
        best (`str`, *optional*): The metric that chooses the best checkpoint.

    Returns:
        The name as in `metrics`, or `None` where there is none.

    Raises:
        ValueError: There is no metric of the name asked for.
    """
    names = {name.removeprefix(_PREFIX): name for name, value in metrics.items() if isinstance(value, (int, float))}
    if asked is not None:
        if asked.removeprefix(_PREFIX) not in names:
            usable = [name for name in names if name == "loss" or name not in _NO_METRICS]
            raise ValueError(
                f"`iomt_performance_metric={asked!r}` must be a number that the evaluation returns: "
                f"{', '.join(usable) or 'it returns none'}."
            )
        return names[asked.removeprefix(_PREFIX)]
    for name in ((best or "").removeprefix(_PREFIX), "accuracy", *names):
        if name in names and name not in _NO_METRICS and not name.endswith("_loss"):
            return names[name]
    return None


def map_metric(name: str, value: float, greater_is_better: bool | None = None) -> float:
    """
    Map a metric to [0, 1], where 1 is best.

    - Greater is better: the value, clipped. Above 1 it is taken for per cent; of a metric in per cent that is not
      known here by name, values below 1 % are taken for shares.
    - A loss (`loss`, `*_loss`, `nll`): exp(−loss), for a cross-entropy the mean probability of the truth.
    - `perplexity`: its inverse.
    - Rates of errors (such as `wer`, `cer`, `error_rate`): 1 − rate, clipped.
    - Distances (such as `mse`, `mae`, `edit_distance`), and what is said to be better when lower: 1 / (1 + value).

    Args:
        name (`str`): The metric's name, with or without the prefix `eval_`.
        value (`float`): Its value.
        greater_is_better (`bool`, *optional*): Whether it is; by default told by the name.

    Raises:
        ValueError: The value is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    plain = name.removeprefix(_PREFIX)
    if plain in _LOSSES or plain.endswith("_loss"):
        mapped = math.exp(-value) if value > 0 else 1.0
    elif plain == "perplexity":
        mapped = 1 / max(value, 1.0)
    elif plain in _RATES:
        mapped = 1 - value
    elif plain in _DISTANCES or greater_is_better is False:
        mapped = 1 / (1 + max(value, 0.0))
    else:
        mapped = value / 100 if value > 1 or plain in _PER_CENT else value
    return min(max(mapped, 0.0), 1.0)
