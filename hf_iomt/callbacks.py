"""Ties the loop of Algorithm 1 to the events of Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .log_level import follow_log_level
from .progress_line import ProgressLineCallback
from .tracker_legend import TrackerLegendCallback

if TYPE_CHECKING:
    from .trainer import IOMTTrainerMixin


def add_callbacks(trainer: IOMTTrainerMixin) -> None:
    """
    Add the callbacks of a trainer that interleaves: behind Trainer's own, because they show what this one decides.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer.
    """
    follow_log_level(trainer.args)
    for callback in (InterleavingCallback, TrackerLegendCallback, ProgressLineCallback):
        trainer.add_callback(callback(trainer))


class InterleavingCallback(TrainerCallback):
    """
    Tells the trainer's [`Interleaving`] when training begins, a step is made and training ends.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer that owns the interleaving.
    """

    def __init__(self, trainer: IOMTTrainerMixin) -> None:
        self._trainer = trainer
        self._stopping = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the initial parameters and start the race."""
        # The verbosity of transformers may have been changed since the trainer was made.
        follow_log_level(args)
        self._trainer.begin_record()
        self._trainer.begin_interleaving()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let a step be whole before training stops with a checkpoint: Trainer would break an accumulation off."""
        if self._trainer.postponed and control.should_training_stop:
            self._stopping, control.should_training_stop = True, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge a cycle at its end, before Trainer evaluates or saves what it led to."""
        interleaving = self._trainer.interleaving
        if interleaving is None:
            return
        interleaving.after_step(self._trainer.accelerator.optimizer_step_was_skipped)
        # Where a callback stops training before, a checkpoint of this step can still be resumed to the bit.
        if state.global_step >= state.max_steps:
            interleaving.finish()
        if self._trainer.end_step():
            control.should_save = False
        if self._stopping:
            self._stopping, control.should_training_stop = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a step that had no batches left."""
        self._trainer.end_step()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model in its best known state, unless Trainer has loaded its best checkpoint and so ended it."""
        if self._trainer.interleaving is not None:
            self._trainer.interleaving.finish()
            self._trainer.interleaving.release()
        self._trainer.end_record()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note an evaluation after training."""
        self._trainer.update_state_file()
