"""[`OverfittingWatch`]: goes back, and on with smaller steps, where the loss on held-out samples rises."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .attributes import replaced
from .candidate_list import kind_of_tuning
from .optim import InterleavedOptimizer, Snapshot, trainable_tensors
from .probe import Probe

if TYPE_CHECKING:
    from .trainer import IOMTTrainerMixin

logger = logging.getLogger(__name__)

# The held-out loss is measured in this many groups, which show how uncertain its change is.
_GROUPS = 8
# It has risen where its mean is above the least by this share, and by this many standard errors of the change.
_RISEN = 0.1
_SIGNIFICANT = 1.0
# Learning rates are divided by this then.
_DIVISOR = 3.0
# What the measurements may cost: this share of the run's time.
_SHARE = 0.03
# A forward pass as a part of a step, by what is trained: with frozen layers there is less to do backwards.
_FORWARD = {"full": 1 / 3, "lora": 1 / 2, "head": 1.0}
# With fewer measurements, or samples, chance is all there is to see.
_LEAST_CHECKS = 4
_LEAST_SAMPLES = 64


def plan_checks(
    steps: int, epoch: int, per_step: int, samples: int, switch_steps: int, forward: float = 1 / 3
) -> tuple[int, int]:
    """
    How often the held-out loss is measured, and on how many samples, for 3 % of the run's time.

    Args:
        steps (`int`): Steps of the whole run.
        epoch (`int`): Steps of an epoch. A run that sees its samples once cannot overfit them.
        per_step (`int`): Samples that a step trains on.
        samples (`int`): Held-out samples, at most.
        switch_steps (`int`): Steps of a cycle.
        forward (`float`, *optional*): What a forward pass costs, as a part of a step.

    Returns:
        Steps from one measurement to the next, whole cycles, and the number of samples; `(0, 0)` where there are none.
    """
    affordable = _SHARE / forward * per_step * steps
    # One is made before training, one at the end of the first epoch, and one may be left over.
    count = min(samples, int(affordable / (_LEAST_CHECKS + 3)))
    # Groups of one size.
    count -= count % _GROUPS
    if count < _LEAST_SAMPLES or steps <= epoch:
        return 0, 0
    cycles = math.ceil((steps - epoch) / (affordable // count - 3) / switch_steps)
    period = cycles * switch_steps
    return (period, count) if period * (_LEAST_CHECKS - 1) <= steps - epoch else (0, 0)


class OverfittingWatch:
    """
    Watches the loss on held-out samples. Where it rises while the training loss still falls, the parameters with the
    least held-out loss come back, and all learning rates are divided by 3 from then on.

    Args:
        optimizer ([`~optim.InterleavedOptimizer`]): Its `damping` is lowered; its families forget their moments.
        tensors (`Sequence[torch.Tensor]`): What training changes.
        probe (`Callable[[], NDArray]`): Losses of shape (groups,) on fixed held-out samples.
        period (`int`): Steps from one measurement to the next.
        first (`int`): The step after which the first is made.

    Attributes:
        best_loss (`float`): The least mean held-out loss so far.
        best_step (`int`): The step after which it was measured.
    """

    def __init__(
        self,
        optimizer: InterleavedOptimizer,
        tensors: Sequence[torch.Tensor],
        probe: Callable[[], NDArray[np.float64]],
        period: int,
        first: int,
    ) -> None:
        self.best_loss = math.inf
        self.best_step = 0
        self._optimizer = optimizer
        self._tensors = tensors
        self._probe = probe
        self._period = period
        self._next = first
        self._best: Snapshot | None = None
        self._best_losses: NDArray[np.float64] = np.empty(0)
        self._training_loss = math.inf

    def state_dict(self) -> dict[str, Any]:
        """What later measurements are compared with, in plain values and tensors."""
        return {
            "best": None if self._best is None else self._best.values,
            "best_losses": self._best_losses.tolist(),
            "numbers": [self.best_loss, self.best_step, self._training_loss, self._next],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        best = state["best"]
        self._best = None if best is None else Snapshot.load(self._tensors, best, self._optimizer.storage)
        self._best_losses = np.asarray(state["best_losses"])
        self.best_loss, self.best_step, self._training_loss, self._next = state["numbers"]

    def is_due(self, step: int) -> bool:
        """Whether the held-out loss is to be measured after this step, the last one of a cycle."""
        return step >= self._next

    def check(self, step: int, training_losses: Sequence[float]) -> tuple[float | None, bool]:
        """
        Measure, and go back where the model overfits.

        Args:
            step (`int`): The step that was made last.
            training_losses (`Sequence[float]`): Those of the cycle that has ended; the second half counts.

        Returns:
            The held-out loss, `None` where it is not finite, and whether the best parameters came back.
        """
        self._next = step + self._period
        # Optimizers that evaluate other parameters than they train.
        self._optimizer.eval()
        try:
            losses = self._probe()
            overfitted = self._overfits(step, losses, statistics.fmean(training_losses[len(training_losses) // 2 :]))
        finally:
            self._optimizer.train()
        loss = float(losses.mean())
        return (loss if math.isfinite(loss) else None), overfitted

    def release(self) -> None:
        """Let go of the best parameters: they do not come back any more."""
        self._best = None

    def _overfits(self, step: int, losses: NDArray[np.float64], training_loss: float) -> bool:
        loss = float(losses.mean())
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._best_losses = loss, step, losses
            self._training_loss = training_loss
            # First, so that there are never two.
            self._best = None
            self._best = Snapshot(self._tensors, storage=self._optimizer.storage)
            return False
        # With a training loss that has risen as well it is not overfitting, but damage, which is somebody else's.
        if self._best is None or not training_loss < self._training_loss or not self._has_risen(losses):
            return False
        self._best.restore()
        for family in self._optimizer.families:
            self._optimizer.reset_family(family)
        self._optimizer.damping /= _DIVISOR
        logger.info(
            "Step %d: the held-out loss is %.4g, after %.4g at step %d, while the training loss has fallen: going "
            "back to the parameters of that step, with learning rates divided by %g, %.3g of the first.",
            step,
            loss,
            self.best_loss,
            self.best_step,
            _DIVISOR,
            self._optimizer.damping,
        )
        return True

    def _has_risen(self, losses: NDArray[np.float64]) -> bool:
        changes = losses - self._best_losses
        if not np.isfinite(changes).all():
            return True
        error = float(changes.std(ddof=1)) / math.sqrt(len(changes))
        return float(changes.mean()) > max(_RISEN * abs(self.best_loss), _SIGNIFICANT * error)


def make_watch(trainer: IOMTTrainerMixin, per_step: int, switch_steps: int) -> OverfittingWatch | None:
    """
    The watch over a run that begins, where it has evaluation data and sees its training data more than once.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer.
        per_step (`int`): Samples that a step trains on, over all processes.
        switch_steps (`int`): Steps of a cycle.
    """
    args, data = trainer.args, trainer.eval_dataset
    if isinstance(data, dict):
        data = next(iter(data.values()), None)
    if not args.iomt_overfitting_samples or data is None or len(trainer.interleaved_optimizer.candidates) == 1:
        return None
    try:
        batches = len(trainer.callback_handler.train_dataloader)  # type: ignore[arg-type]
        available = min(args.iomt_overfitting_samples, len(data))  # type: ignore[arg-type]
    except TypeError:
        # A stream, whose end nobody knows.
        return None
    epoch = math.ceil(batches / args.gradient_accumulation_steps)
    forward = _FORWARD[kind_of_tuning(trainer.trained_module())]
    period, samples = plan_checks(trainer.state.max_steps, epoch, per_step, available, switch_steps, forward)
    if not samples:
        return None
    try:
        # Workers that persist would be kept for the evaluations of other data, too.
        with replaced(args, "dataloader_persistent_workers", False):
            loader = trainer.get_eval_dataloader(data)
        probe = Probe(trainer, samples, _GROUPS, loader)
        # Before training, because a run should not end for it in the middle.
        obstacle = None if np.isfinite(probe()).all() else "its loss is not finite"
    except Exception as error:
        obstacle = f"{type(error).__name__}: {error}"
        # Other processes would wait for one that goes on alone.
        if trainer.accelerator.num_processes > 1:
            raise ValueError(
                f"`eval_dataset` cannot be watched for overfitting ({obstacle}). Mend it, or set "
                "`iomt_overfitting_samples=0`."
            ) from error
    if obstacle is not None:
        logger.warning(
            "`eval_dataset` is not watched for overfitting: %s. `iomt_overfitting_samples=0` turns the watch off.",
            obstacle,
        )
        return None
    logger.info("The held-out loss is measured every %d steps on %d samples of `eval_dataset`.", period, samples)
    tensors = trainable_tensors(trainer.trained_module())
    return OverfittingWatch(trainer.interleaved_optimizer, tensors, probe, period, max(0, epoch - period))
