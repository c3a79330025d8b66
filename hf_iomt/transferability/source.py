"""What the source task's head predicts of a sample, in little memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

# Of a wide source space only so many classes of each sample are kept; the rest becomes one class more.
_KEPT_CLASSES = 1024


class SourceHead(Protocol):
    """The head of the source task, applied to what the backbone returned."""

    @property
    def per_token(self) -> bool:
        """Whether it predicts something of every token."""

    def __call__(self, backbone_output: Any, inputs: Mapping[str, Any], positions: torch.Tensor) -> torch.Tensor:
        """Logits of shape (B, M, Z) at `positions` of shape (B, M) where it is `per_token`, else (B, Z)."""


def most_probable(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The largest probabilities, and which source classes they belong to.

    Args:
        probabilities (`torch.Tensor` of shape (..., Z)): Distributions over the source classes.

    Returns:
        Two tensors of shape (..., min(Z, 1024)).
    """
    values, classes = probabilities.topk(min(probabilities.shape[-1], _KEPT_CLASSES))
    return values, classes


def sparse_probabilities(values: NDArray[np.floating], classes: NDArray[np.integer]) -> csr_array:
    """
    One row per sample of what `most_probable` gave, with what is left of the probability as the last class.

    Args:
        values (`NDArray` of shape (N, M)): Probabilities.
        classes (`NDArray` of shape (N, M)): Source classes from 0.
    """
    samples, width = values.shape
    rest = np.clip(1 - values.sum(axis=1, keepdims=True, dtype=np.float64), 0, None)
    last = int(classes.max()) + 1
    columns = np.hstack([classes, np.full((samples, 1), last)])
    rows = np.repeat(np.arange(samples), width + 1)
    return csr_array((np.hstack([values, rest]).ravel(), (rows, columns.ravel())), shape=(samples, last + 1))
