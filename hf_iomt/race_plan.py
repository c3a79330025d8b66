"""Who races for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FINALISTS = 3
# A race takes at most this share of a run for each entrant, within these limits; a longer one is shortened.
_SHARE_PER_ENTRANT = 0.2 / 15
_SHARES = (0.1, 0.2)
# Of the forward passes of the run.
_PROBE_SHARE = 0.05


@dataclass(frozen=True)
class RacePlan:
    """
    Who races for how long.

    Args:
        entrants (`tuple[int, ...]`): Indices of the candidates that race.
        rungs (`tuple[int, ...]`): Steps that an entrant has made at the end of each rung, ascending.
        kept (`tuple[int, ...]`): How many entrants go on after each rung.
    """

    entrants: tuple[int, ...]
    rungs: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole race."""
        previous = (0, *self.rungs)
        return sum(
            count * (end - begin) for count, begin, end in zip(self._fields, previous, self.rungs, strict=False)
        )

    @property
    def probes(self) -> int:
        """How often the probe is measured, but for the few times at the start and the end."""
        return 2 * sum(self._fields[: len(self.rungs)])

    def probe_samples(self, samples: int) -> int:
        """Samples of the probe, 16 to 128, that keep its cost near a share of a run that trains on so many samples."""
        return round(min(max(_PROBE_SHARE * samples / self.probes, 16), 128))

    @property
    def _fields(self) -> tuple[int, ...]:
        return (len(self.entrants), *self.kept)


def plan_race(candidates: Sequence[int], race_steps: int, max_steps: int) -> RacePlan | None:
    """
    Plan a race in which the finalists make `race_steps` steps each.

    There are three rungs, at a quarter, a half and all of `race_steps`; the field shrinks by equal factors to three
    finalists. Up to three candidates race one rung of a quarter, which shows those that destroy the model. A race
    takes at most a tenth of the run for up to 7 candidates, rising to a fifth for 15 and more; a longer one is
    shortened in proportion, and where one step each is still too much, every k-th candidate races.

    Args:
        candidates (`Sequence[int]`): Indices of the candidates, the one that is trusted most first.
        race_steps (`int`): Steps of a finalist; 0 for no race.
        max_steps (`int`): Steps of the whole run.

    Returns:
        The plan, or `None` where there is nothing to race for or no room for it.
    """
    if race_steps == 0 or len(candidates) < 2:
        return None
    budget = int(min(max(_SHARE_PER_ENTRANT * len(candidates), _SHARES[0]), _SHARES[1]) * max_steps)
    stride = 1
    while stride <= len(candidates):
        entrants = tuple(candidates[::stride])
        count = len(entrants)
        # The first rung alone, a quarter of the length, would exceed the budget with more.
        for length in range(min(race_steps, 4 * budget // count + 3), 0, -1):
            quarter, half = max(1, round(length / 4)), max(1, round(length / 2))
            if count <= FINALISTS:
                plan = RacePlan(entrants, (quarter,), (count,))
            else:
                middle = max(FINALISTS, round(math.sqrt(FINALISTS * count)))
                # Equal rungs of a very short race are one rung.
                ends = sorted({quarter, half, length})
                kept = {1: (FINALISTS,), 2: (middle, FINALISTS), 3: (middle, FINALISTS, FINALISTS)}[len(ends)]
                plan = RacePlan(entrants, tuple(ends), kept)
            if plan.total_steps <= budget and len(entrants) > 1:
                return plan
        stride += 1
    return None
