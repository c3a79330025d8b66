"""Where training stands by its losses, and what counts as damage."""

from __future__ import annotations

import math
from dataclasses import dataclass

# What counts as clearly worse than the best loss so far: having lost this share of the progress made, or this share of
# the scale of the losses. Batches differ, so nothing less is taken for damage.
_LOST_PROGRESS = 0.5
_LOST_START = 0.2


@dataclass
class Standing:
    """
    Losses to compare with; infinite where there has been none.

    Args:
        initial (`float`): At the start of training.
        spread (`float`): Standard deviation of single losses then: the scale of losses that begin near 0.
        accepted (`float`): At the end of the last cycle that was not undone.
        best (`float`): The least of these.
        cycle_end (`float`): At the end of the cycle that is judged.
        cycle_error (`float`): Standard error of `cycle_end`.
        degraded_cycles (`int`): Cycles in a row that ended far from the best.
    """

    initial: float = math.inf
    accepted: float = math.inf
    best: float = math.inf
    cycle_end: float = math.inf
    cycle_error: float = 0.0
    degraded_cycles: int = 0
    spread: float = 0.0

    def forget(self) -> None:
        """Forget all losses but those of the start of training."""
        self.accepted = self.best = self.cycle_end = math.inf
        self.cycle_error, self.degraded_cycles = 0.0, 0

    @property
    def scale(self) -> float:
        """What losses are compared by: the loss at the start, or where that is near 0, how much losses differ."""
        return max(abs(self.initial), self.spread)

    @property
    def charitable_end(self) -> float:
        """`cycle_end` with the benefit of the doubt, within limits: small batches make a cycle's mean uncertain."""
        return self.cycle_end - min(2 * self.cycle_error, _LOST_PROGRESS * self.scale)

    def is_broken(self, loss: float, reference: float, margin: float = 1.0) -> bool:
        """Whether a loss is clearly worse than a reference, by `margin` times what counts as damage."""
        if not math.isfinite(loss):
            return True
        if not math.isfinite(self.initial):
            return False
        reference = min(reference, self.initial)
        return loss > reference + margin * self._tolerance(reference)

    def has_lost(self, before: float, after: float) -> bool:
        """Whether the loss on the same few samples is clearly worse than before, however hard these samples are."""
        if not math.isfinite(after):
            return True
        if not math.isfinite(self.initial) or not math.isfinite(before):
            return False
        return after > before + self._tolerance(min(self.best, self.initial))

    def _tolerance(self, reference: float) -> float:
        return max(_LOST_PROGRESS * (self.initial - reference), _LOST_START * self.scale)
