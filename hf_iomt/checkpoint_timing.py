"""Checkpoints between two steps only."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class CheckpointTimingMixin(_Base):
    """
    Puts a checkpoint that is asked for within a step off to the end of that step.

    Trainer itself saves between two steps. Others do not: the callback for SIGTERM saves as soon as it can, which may
    be between the backward pass and the step, where random numbers have been drawn and the loss has been taken. A run
    resumed from there would differ from one that was not stopped.

    Attributes:
        postponed (`tuple`, *optional*): Arguments of the checkpoint that was put off, while there is one.
    """

    _within_step = False
    # A step that is broken off leaves the losses of its first batches.
    _step_loss: torch.Tensor | None = None
    postponed: tuple[Any, ...] | None = None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of an optimizer step as Trainer does; with it the step begins."""
        self._within_step = True
        return super().get_batch_samples(*args, **kwargs)

    def end_step(self) -> bool:
        """Let checkpoints be written again; the callback calls it. Returns whether one was put off until now."""
        self._within_step, self._step_loss = False, None
        postponed, self.postponed = self.postponed, None
        if postponed is None:
            return False
        # Whoever asked for it may have made the folder of the step before.
        folder = os.path.join(self._get_output_dir(None), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step - 1}")
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        self._save_checkpoint(*postponed)
        return True

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self._within_step:
            self.postponed = (*args, *kwargs.values())
            return
        super()._save_checkpoint(*args, **kwargs)
