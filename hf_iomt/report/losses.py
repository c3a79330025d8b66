"""Losses and evaluations as Trainer logged them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .run import Run

# What Trainer logs beside the metrics of an evaluation.
_TIMES = (
    "runtime",
    "_per_second",
    "compilation_time",
    "model_preparation_time",
    "num_tokens",
    "num_input_tokens_seen",
)
# Windows of a smoothed curve: this share of its points, within these limits.
_SMOOTH_SHARE = 1 / 20
_SMOOTH_LIMITS = (3, 51)

Points = list[tuple[int, float]]


def training_losses(run: Run) -> Points:
    """Step and training loss of each log, the mean since the log before; losses may be infinite or no numbers."""
    points = ((entry.get("step"), _number(entry.get("loss"))) for entry in run.log_history)
    return [(int(step), value) for step, value in points if step is not None and value is not None]


def evaluations(run: Run) -> dict[str, Points]:
    """
    Step and value of each evaluation, by metric: `loss`, `accuracy`, ...; with several data sets `NAME_loss`, ....

    Where a step was evaluated more than once, the last counts.
    """
    found: dict[str, dict[int, float]] = {}
    for entry in run.log_history:
        for key, item in entry.items():
            value = _number(item)
            if key.startswith("eval_") and not key.endswith(_TIMES) and value is not None and "step" in entry:
                found.setdefault(key.removeprefix("eval_"), {})[int(entry["step"])] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def split_evaluations(run: Run) -> tuple[dict[str, Points], dict[str, Points]]:
    """The evaluations that are losses, and the others, the one that chooses the best model first."""
    found = evaluations(run)
    losses = {name: points for name, points in found.items() if is_loss(name)}
    others = {name: points for name, points in found.items() if not is_loss(name)}
    chosen = run.record.get("arguments", {}).get("metric_for_best_model") if run.record is not None else None
    first = str(chosen or "accuracy").removeprefix("eval_")
    return losses, dict(sorted(others.items(), key=lambda item: item[0] != first))


def is_loss(name: str) -> bool:
    """Whether a metric is a loss by its name."""
    return name == "loss" or name.endswith("_loss")


def final_metrics(run: Run) -> dict[str, float]:
    """The last value of each metric of the evaluations."""
    return {name: points[-1][1] for name, points in evaluations(run).items()}


def smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """
    A curve without its noise: the moving median, which single jumps do not bend, and of it the moving mean.

    What is not finite is left out of its window; where a whole window is not finite, so is the result.

    Args:
        values (`Sequence[float]`): The curve, in order.
    """
    width = round(min(max(len(values) * _SMOOTH_SHARE, _SMOOTH_LIMITS[0]), _SMOOTH_LIMITS[1])) | 1
    result = np.asarray(values, dtype=np.float64)
    for statistic in (np.median, np.mean):
        result = _moving(result, width, statistic)
    return result


def thin_out(points: Points, most: int) -> Points:
    """
    No more than an even number `most` of points: the least and the greatest of each stretch, so that no peak is lost.
    """
    if len(points) <= most:
        return points
    kept: Points = []
    for part in np.array_split(np.arange(len(points)), most // 2):
        rows = [points[index] for index in part]
        # What is not finite is neither least nor greatest.
        ends = [min(rows, key=lambda row: _ordered(row[1])), max(rows, key=lambda row: _ordered(row[1]))]
        kept += sorted(set(ends))
    return kept


def _moving(values: NDArray[np.float64], width: int, statistic: Any) -> NDArray[np.float64]:
    half = width // 2
    moved = np.full(len(values), np.nan)
    for index in range(len(values)):
        window = values[max(0, index - half) : index + half + 1]
        window = window[np.isfinite(window)]
        if len(window) > 0:
            moved[index] = statistic(window)
    return moved


def _ordered(value: float) -> float:
    return value if not math.isnan(value) else math.inf


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
