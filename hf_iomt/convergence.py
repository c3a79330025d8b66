"""[`ConvergenceCallback`]: ends training where the loss of the epochs has stopped changing."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

# In `state.log_history`, in the last log of an epoch that has a loss.
_MARK = "epoch_loss"


class ConvergenceCallback(TrainerCallback):
    """
    Ends training when the loss of an epoch has differed from that of the epoch before by less than a tolerance in
    several epochs in a row (section 5.1 of the paper). For [`~transformers.Trainer`] and [`IOMTTrainer`].

    The loss of an epoch is the mean over its optimizer steps, and over all processes, of the training loss as Trainer
    logs it. It is made of Trainer's own logs, which cost one wait for the device each. So that every log belongs to
    one epoch, and none is lost to a checkpoint, the callback asks for a log at the end of every epoch and with every
    evaluation and checkpoint, whatever the logging strategy. Steps of a race count like others; an epoch that a
    callback ends early, or that `max_steps` cuts, counts as one.

    An epoch never counts as unchanged where one of its losses, or the last norm of its gradients, is not finite. By
    default Trainer hides such losses (`logging_nan_inf_filter`), so that those of a model that has diverged look
    constant; the norm shows it.

    The losses of the epochs are in `state.log_history`, as `epoch_loss` of the last log of each. So they are in every
    checkpoint, and a resumed run goes on counting, also with another tolerance. One that goes on from the checkpoint
    of the epoch that ended training makes one more step, because Trainer asks callbacks only after steps.

    Args:
        tolerance (`float`, *optional*, defaults to 1e-4): Differences of losses below it are none; above 0.
        epochs (`int`, *optional*, defaults to 10): How many differences in a row must be below it, at least 1.

    Raises:
        ValueError: `tolerance` or `epochs` is out of its range.

    Example:

    ```python
    trainer = IOMTTrainer(model, args, train_dataset=train, callbacks=[ConvergenceCallback(epochs=3)])
    ```
    """

    def __init__(self, tolerance: float = 1e-4, epochs: int = 10) -> None:
        if not isinstance(tolerance, (int, float)) or isinstance(tolerance, bool) or not 0 < tolerance < math.inf:
            raise ValueError(f"`0 < tolerance < infinity` must hold, but got tolerance={tolerance!r}.")
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise ValueError(f"`epochs` must be a whole number and at least 1, but got epochs={epochs!r}.")
        self.tolerance = tolerance
        self.epochs = epochs
        self._first_epoch = 0.0
        self._ending = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the count of a checkpoint, also of one that was written in the last step of an epoch."""
        self._ending = False
        if state.num_train_epochs <= self.epochs:
            logger.warning(
                "ConvergenceCallback compares %d epochs with the one before each, but the run has %d: it cannot end "
                "early. Train for more epochs, or lower `epochs`.",
                self.epochs,
                state.num_train_epochs,
            )
        if state.epoch and state.epoch == math.floor(state.epoch):
            self._first_epoch = state.epoch - 1
            self._end_epoch(state, control)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note where the epoch begins: the history may have logs of earlier ones, without this callback."""
        self._first_epoch = math.floor(state.epoch or 0.0)
        self._ending = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log before what is measured so far is lost to a checkpoint."""
        if control.should_save or control.should_evaluate:
            control.should_log = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Decide, at once where the last step was logged, or after the log that this asks for."""
        losses = [entry for entry in state.log_history if "loss" in entry]
        if losses and losses[-1]["step"] == state.global_step:
            self._end_epoch(state, control)
        else:
            self._ending = control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide where this is the log of the end of an epoch."""
        if self._ending and "loss" in state.log_history[-1]:
            self._ending = False
            self._end_epoch(state, control)

    def _end_epoch(self, state: TrainerState, control: TrainerControl) -> None:
        logs: list[dict[str, Any]] = []
        counts: list[int] = []
        last_step = 0
        for entry in state.log_history:
            if "loss" not in entry:
                continue
            if entry["epoch"] > self._first_epoch:
                logs.append(entry)
                counts.append(int(entry["step"]) - last_step)
            if _MARK in entry:
                logs, counts = [], []
            last_step = int(entry["step"])
        if logs:
            # Only the last norm: those in between may be of steps that a gradient scaler left out.
            healthy = math.isfinite(logs[-1].get("grad_norm", 0.0))
            total = sum(entry["loss"] * count for entry, count in zip(logs, counts, strict=True))
            logs[-1][_MARK] = total / sum(counts) if healthy else math.nan
        means = [entry[_MARK] for entry in state.log_history if _MARK in entry][-self.epochs - 1 :]
        # False for what is no number.
        small = [abs(second - first) < self.tolerance for first, second in itertools.pairwise(means)]
        if len(small) == self.epochs and all(small):
            logger.info(
                "Converged: the loss has changed by less than %g in %d epochs in a row.", self.tolerance, self.epochs
            )
            control.should_training_stop = True
