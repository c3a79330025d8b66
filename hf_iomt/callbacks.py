"""Ties the loop of Algorithm 1 to the events of Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from .trainer import IOMTTrainerMixin


class InterleavingCallback(TrainerCallback):
    """
    Tells the trainer's [`Interleaving`] when training begins, a step is made and training ends. Has no state.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer that owns the interleaving.
    """

    def __init__(self, trainer: IOMTTrainerMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the initial parameters and start the race."""
        self._trainer.begin_interleaving()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge a cycle at its end, before Trainer evaluates or saves what it led to."""
        interleaving = self._trainer.interleaving
        if interleaving is None:
            return
        interleaving.after_step()
        if control.should_training_stop or state.global_step >= state.max_steps:
            interleaving.finish()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the history beside the checkpoints."""
        self._trainer.save_history()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model in its best known state, unless Trainer has loaded its best checkpoint."""
        loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self._trainer.interleaving is not None and not loaded:
            self._trainer.interleaving.finish()
        self._trainer.save_history()
