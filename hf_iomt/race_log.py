"""What happens in a race, as lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .optim import Candidate
from .race_plan import RacePlan

if TYPE_CHECKING:
    from .race import Branch

logger = logging.getLogger(__name__)


def log_entrants(plan: RacePlan, candidates: Sequence[Candidate]) -> None:
    """Who races, and how far."""
    logger.info(
        "Race of %d steps: %d entrants, %s steps each, then %s go on: %s.",
        plan.total_steps,
        len(plan.entrants),
        "/".join(map(str, plan.rungs)),
        "/".join(map(str, plan.kept)),
        "; ".join(candidates[index].name for index in plan.entrants),
    )


def log_rung(
    plan: RacePlan, rung: int, before: Sequence[Branch], after: Sequence[Branch], candidates: Sequence[Candidate]
) -> None:
    """
    Who is out after a rung, and why.

    Args:
        plan ([`RacePlan`]): The race.
        rung (`int`): Number of the rung that is over, from 0.
        before (`Sequence[Branch]`): Who ran in it.
        after (`Sequence[Branch]`): Who goes on, the best first.
        candidates (`Sequence[Candidate]`): All candidates, in their order.
    """
    # By identity: entrants hold tensors.
    kept = {id(branch) for branch in after}
    out = sorted((branch for branch in before if id(branch) not in kept), key=lambda branch: branch.loss)
    logger.info(
        "Race, rung %d of %d: going on with %s; out: %s.",
        rung + 1,
        len(plan.rungs),
        "; ".join(_describe(branch, candidates) for branch in after) or "none",
        "; ".join(_describe(branch, candidates) for branch in out) or "none",
    )


def _describe(branch: Branch, candidates: Sequence[Candidate]) -> str:
    name = candidates[branch.candidate].name
    return f"{name} (loss {branch.loss:.4g}{'' if branch.alive else ', did damage'})"
