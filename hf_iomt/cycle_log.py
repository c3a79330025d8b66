"""What happens in the cycles, as lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .selection import Choice, CycleRecord, as_dictionaries
from .step_shares import format_shares

logger = logging.getLogger(__name__)


def log_switch(step: int, before: str, after: str, choice: Choice) -> None:
    """From which candidate to which, and what the surrogate expects of it, where it has chosen."""
    why: str = choice.phase
    if choice.predicted_mean is not None:
        why += f": predicted score {choice.predicted_mean:.3g} ± {choice.predicted_std:.3g}, gain {choice.gain:.3g}"
    logger.info("Step %d: switched from %s to %s (%s).", step, before, after, why)


def log_rollback(step: int, record: CycleRecord, reason: str) -> None:
    """Which cycle was undone after a step, and why."""
    logger.info(
        "Step %d: rolled back the cycle of %s from step %d on: %s.", step, record.candidate, record.first_step, reason
    )


def log_end(step: int, records: Sequence[CycleRecord]) -> None:
    """Who made the steps up to this one, what was undone, and what choosing cost."""
    undone = [record.phase == "race" for record in records if record.rolled_back]
    logger.info(
        "Interleaving is over after %d steps: %s. Undone: %d in the race, %d after it. Choosing took %.1f s.",
        step,
        format_shares(as_dictionaries(list(records))),
        sum(undone),
        len(undone) - sum(undone),
        sum(record.seconds for record in records),
    )
