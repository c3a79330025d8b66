"""How a run is divided into cycles."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .training_args import IOMTTrainingArguments

logger = logging.getLogger(__name__)

# With fewer cycles than this after the race, cycles are shortened.
_LEAST_CYCLES = 4
# Of the cycles after the race at most one in this many is drawn by Eq. 3.
_INITIAL_SHARE = 6


def plan_cycles(args: IOMTTrainingArguments, steps: int, loader: Any) -> tuple[int, int]:
    """
    Switch step τ and initial cycles, shortened where there is no room for them.

    Args:
        args ([`IOMTTrainingArguments`]): What is asked for.
        steps (`int`): Steps after the race.
        loader (`DataLoader`): The training data, whose length counts where τ is a share of an epoch.

    Raises:
        ValueError: τ is a share of an epoch, but the data has no length.
    """
    tau, planned_cycles = float(args.iomt_switch_steps or 0), int(args.iomt_initial_cycles or 0)
    if tau < 1:
        try:
            epoch = len(loader) // args.gradient_accumulation_steps
        except TypeError:
            raise ValueError(
                f"`iomt_switch_steps={tau}` is a share of an epoch, but the training data has no length. "
                "Give a number of steps."
            ) from None
        tau = max(1, round(tau * epoch))
    switch_steps = max(1, min(int(tau), steps // _LEAST_CYCLES))
    cycles = max(1, steps // switch_steps)
    initial_cycles = min(planned_cycles, max(1, cycles // _INITIAL_SHARE))
    if (switch_steps, initial_cycles) != (int(tau), planned_cycles):
        logger.info("A short run: cycles of %d steps, %d of them drawn.", switch_steps, initial_cycles)
    return switch_steps, initial_cycles
