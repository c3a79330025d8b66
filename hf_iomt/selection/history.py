"""What was chosen in each cycle, why, and what came of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

HISTORY_NAME = "iomt_history.json"

Phase = Literal["race", "initial", "surrogate", "random", "cyclical", "commit"]
# Loggers draw numbers: a phase is logged as its position.
PHASES: tuple[str, ...] = get_args(Phase)


@dataclass
class CycleRecord:
    """
    One cycle: some steps with one candidate.

    Args:
        cycle (`int`): Number of the cycle, from 0.
        first_step (`int`): Optimizer step, from 1, with which the cycle began.
        last_step (`int`): Last step of the cycle, included.
        candidate (`str`): The candidate, in the grammar of a candidate list.
        family (`str`): Its family.
        learning_rate (`float`): The learning rate at the cycle's first step, schedule and damping included, the rise
            after a takeover left out.
        phase (`str`): `race`, `initial`, `surrogate`, or the ablations' `random`, `cyclical` and `commit`.
        score (`float`, *optional*): Eq. 2, in [-1, 1]; `None` where training ended within the cycle.
        predicted_mean (`float`, *optional*): What the surrogate expected of the score.
        predicted_std (`float`, *optional*): How sure it was.
        gain (`float`, *optional*): Eq. 7.
        rolled_back (`bool`): Whether the cycle was undone.
        held_out_loss (`float`, *optional*): The loss on held-out samples at its end, where it was measured.
        overfitted (`bool`): Whether this loss had risen, so that training went back from there to earlier parameters.
        seconds (`float`): Time spent on choosing the candidate and on judging the cycle.
    """

    cycle: int
    first_step: int
    last_step: int
    candidate: str
    family: str
    learning_rate: float
    phase: Phase
    score: float | None = None
    predicted_mean: float | None = None
    predicted_std: float | None = None
    gain: float | None = None
    rolled_back: bool = False
    held_out_loss: float | None = None
    overfitted: bool = False
    seconds: float = 0.0


def as_dictionaries(records: list[CycleRecord]) -> list[dict[str, Any]]:
    """The records as plain dictionaries."""
    return [asdict(record) for record in records]


def as_metrics(records: list[CycleRecord], candidate: int, learning_rate: float, switched: bool) -> dict[str, float]:
    """
    The present decision as numbers, for loggers.

    What is not there yet, and what is not finite, is left out: not every logger takes it.

    Args:
        records (`list[CycleRecord]`): The cycles so far, the present one last.
        candidate (`int`): Index of the active candidate.
        learning_rate (`float`): The learning rate that the last step used.
        switched (`bool`): Whether the cycle brought another candidate.
    """
    if not records:
        return {}
    scored = next((record for record in reversed(records) if record.score is not None), None)
    watched = next((record for record in reversed(records) if record.held_out_loss is not None), None)
    values = {
        "iomt/candidate": float(candidate),
        "iomt/learning_rate": learning_rate,
        "iomt/switch": float(switched),
        "iomt/selection_seconds": sum(item.seconds for item in records),
        "iomt/score": None if scored is None else scored.score,
        "iomt/predicted_score": records[-1].predicted_mean,
        "iomt/predicted_std": records[-1].predicted_std,
        "iomt/rollbacks": float(sum(record.rolled_back for record in records)),
        "iomt/held_out_loss": None if watched is None else watched.held_out_loss,
        "iomt/phase": float(PHASES.index(records[-1].phase)),
    }
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
