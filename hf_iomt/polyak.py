"""The step length of Polyak: how large the learning rates of a linear head are, without a range test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from .optim import local_part

# Of the step length at the start, for a whole run with a decaying rate.
_SHARE = 0.2


class PolyakStep:
    """
    Measures the step length of Polyak for steps of the sign of the gradient, which those of AdamW are at first.

    Where a loss f is convex and its least value about 0, as that of a linear head, f / ‖g‖₁ is the length at which its
    tangent in that direction is 0 (Polyak, *Introduction to Optimization*, 1987). Some gradients at the same
    parameters tell it, while a few steps at rising rates show nothing there: no rate does harm within them. It depends
    on how many features there are, and how large: those of a ResNet ask for ten times the rate that those of a ViT do.

    Args:
        parameters (`Sequence[torch.Tensor]`): What trains; sharded ones may be among them.
        reduce (`Callable[[torch.Tensor], torch.Tensor]`): Mean over the processes.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        reduce: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
    ) -> None:
        self._parameters = parameters
        self._reduce = reduce
        self._loss = self._size = 0.0

    @torch.no_grad()
    def add(self, loss: torch.Tensor) -> None:
        """
        Take the parameters' present gradients; those that are not finite are left out, all of the batch.

        Args:
            loss (`torch.Tensor`): The loss that they are the gradients of, a scalar.
        """
        gradients = [item.grad for item in self._parameters if item.grad is not None]
        if not gradients:
            return
        parts = [local_part(item) for item in gradients]
        device = parts[0].device
        size = torch.stack([part.abs().sum(dtype=torch.float32).to(device) for part in parts]).sum()
        # Of sharded ones each process sees a part: what counts is the mean over the coordinates.
        seen = torch.full_like(size, sum(part.numel() for part in parts))
        value, size, seen = self._reduce(torch.stack([loss.detach().to(size), size, seen]))
        if math.isfinite(value) and math.isfinite(size):
            self._loss += float(value)
            self._size += float(size / seen) * sum(item.numel() for item in gradients)

    @property
    def learning_rate(self) -> float | None:
        """
        A fifth of the step length, at most 1. `None` where the loss is not positive, or no gradient says anything.
        """
        if self._loss <= 0 or self._size <= 0:
            return None
        return min(_SHARE * self._loss / self._size, 1.0)
