"""Overflows of fp16: steps that the gradient scaler leaves out, and how they differ from a candidate that diverges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .optim import count_broken
from .precision import widen

# A scaler starts at 2^16 and halves at each overflow. After so many in a row it is not the scale.
_MOST_SKIPPED = 20


class OverflowWatch:
    """
    Tells overflows, which are harmless and pass as the scale falls, from divergence.

    A step that was skipped has changed nothing. A candidate has diverged where the parameters are not finite, or
    where so many steps in a row overflow that no scale would help. What the scale lost to it comes back.

    Args:
        tensors (`Sequence[torch.Tensor]`): What training changes.
        reduce (`Callable[[torch.Tensor], torch.Tensor]`): Averages a tensor over the ranks.
        scaler (`GradScaler`, *optional*): The gradient scaler; without one nothing is skipped.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        reduce: Callable[[torch.Tensor], torch.Tensor],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._tensors = tensors
        self._reduce = reduce
        self._scaler = scaler
        self._scale: float | None = None
        self._skipped = 0
        self._lost = False

    def begin(self) -> None:
        """Note the scale that a candidate begins with."""
        self._skipped, self._lost = 0, False
        if self._scaler is not None:
            self._scale = self._scaler.get_scale()

    def expects(self, loss: torch.Tensor) -> bool:
        """Whether the step of this loss is going to be skipped, because the loss itself overflowed on some rank."""
        if self._scaler is None or self._lost:
            return False
        return not math.isfinite(self._reduce(widen(loss)).item())

    def after_step(self, skipped: bool) -> bool:
        """
        Count a step.

        Returns:
            Whether it was skipped because the candidate has diverged.
        """
        if not skipped:
            self._skipped = 0
            return False
        self._skipped += 1
        self._lost = self._skipped >= _MOST_SKIPPED or bool(self._reduce(count_broken(self._tensors)) > 0)
        if self._lost and self._scaler is not None and self._scale is not None:
            self._scaler.update(self._scale)
        return self._lost

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"scale": self._scale, "skipped": self._skipped, "lost": self._lost}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._scale, self._skipped, self._lost = state["scale"], state["skipped"], state["lost"]
