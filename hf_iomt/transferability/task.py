"""What the labels of a task are, as far as its metrics must know."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

Task: TypeAlias = Literal["classification", "multi_label", "regression", "tokens", "language_model"]
"""What the labels of a task are: see `find_task`."""

# Labels that losses pass over.
IGNORED = -100

_PROBLEM_TYPES: dict[str, Task] = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def find_task(labels: torch.Tensor, logits: torch.Tensor | None, config: Any = None) -> Task:
    """
    Tell the task by its labels.

    `config.problem_type` decides where it is set and there is one row of labels per sample. Labels of the shape of the
    logits are `"multi_label"` where all are 0 or 1. Labels per token are those of a `"language_model"` where the
    logits are as wide as the vocabulary, else `"tokens"`.

    Args:
        labels (`torch.Tensor` of shape (B,), (B, K) or (B, T)): Labels of a batch.
        logits (`torch.Tensor` of shape (B, C), (B, K) or (B, T, C), *optional*): What the model made of it.
        config (`Any`, *optional*): The model's configuration.

    Raises:
        ValueError: The labels are of no kind that the metrics are defined for.
    """
    whole = not labels.is_floating_point()
    if labels.ndim == 2 and whole and logits is not None and logits.ndim == 3:
        return "language_model" if logits.shape[-1] >= _vocabulary(config) else "tokens"
    flat = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    named = _PROBLEM_TYPES.get(getattr(config, "problem_type", None) or "")
    if named is not None and labels.ndim <= 2:
        return named
    if flat:
        outputs = logits.shape[-1] if logits is not None and logits.ndim == 2 else getattr(config, "num_labels", None)
        return "classification" if whole and outputs != 1 else "regression"
    if logits is not None and labels.shape == logits.shape:
        return "multi_label" if bool(((labels == 0) | (labels == 1)).all()) else "regression"
    raise ValueError(
        f"the metrics are not defined for labels of shape {tuple(labels.shape)} with predictions of shape "
        f"{None if logits is None else tuple(logits.shape)}"
    )


def _vocabulary(config: Any) -> float:
    # The text part of a model for several kinds of input.
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "vocab_size", None) or float("inf")
