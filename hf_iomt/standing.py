"""Where training stands by its losses, and what counts as damage."""

from __future__ import annotations

import math
from dataclasses import dataclass

# What counts as clearly worse than the best loss so far: having lost this share of the progress made, or this share of
# the loss at the start. Batches differ, so nothing less is taken for damage.
_LOST_PROGRESS = 0.5
_LOST_START = 0.2


@dataclass
class Standing:
    """
    Losses to compare with; infinite where there has been none.

    Args:
        initial (`float`): At the start of training.
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

    @property
    def charitable_end(self) -> float:
        """`cycle_end` with the benefit of the doubt, within limits: small batches make a cycle's mean uncertain."""
        return self.cycle_end - min(2 * self.cycle_error, _LOST_PROGRESS * abs(self.initial))

    def is_broken(self, loss: float, reference: float, margin: float = 1.0) -> bool:
        """Whether a loss is clearly worse than a reference and than at the start, by `margin` times what is damage."""
        return self.is_damaged(loss, min(reference, self.initial), margin)

    def is_damaged(self, loss: float, before: float, margin: float = 1.0) -> bool:
        """Whether a loss is clearly worse than before on the same samples, by `margin` times what counts as damage."""
        if not math.isfinite(loss):
            return True
        if not math.isfinite(self.initial):
            return False
        progress = max(self.initial - before, 0.0)
        return loss > before + margin * max(_LOST_PROGRESS * progress, _LOST_START * abs(self.initial))
