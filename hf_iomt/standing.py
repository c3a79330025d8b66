"""Where training stands by its losses, and what counts as damage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
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

    def end_of(self, losses: Sequence[float]) -> float:
        """
        The mean training loss of the second half of a cycle, and how sure it is; that of the first half stands for
        what is not known yet of the time before. Infinite where a loss is not finite.
        """
        if not all(map(math.isfinite, losses)):
            return math.inf
        middle = len(losses) // 2
        start, tail = statistics.fmean(losses[: middle + 1]), losses[middle:]
        self.initial = start if math.isinf(self.initial) else self.initial
        self.accepted = start if math.isinf(self.accepted) else self.accepted
        self.cycle_error = statistics.pstdev(tail) / math.sqrt(len(tail))
        return statistics.fmean(tail)

    def is_broken(self, loss: float, reference: float, margin: float = 1.0) -> bool:
        """Whether a loss is clearly worse than a reference, by `margin` times what counts as damage."""
        if not math.isfinite(loss):
            return True
        if not math.isfinite(self.initial):
            return False
        reference = min(reference, self.initial)
        progress = max(self.initial - reference, 0.0)
        return loss > reference + margin * max(_LOST_PROGRESS * progress, _LOST_START * abs(self.initial))
