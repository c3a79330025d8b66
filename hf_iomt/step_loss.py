"""The loss of an optimizer step: a mean, whatever Trainer has made of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Trainer

if TYPE_CHECKING:
    from .interleaving import Interleaving
    from .probe import Probe
    from .training_args import IOMTTrainingArguments

    _Base = Trainer
else:
    _Base = object


class StepLossMixin(_Base):
    """
    Passes the mean loss of every optimizer step on to [`Interleaving`].

    Trainer scales the losses of the batches of a step so that they add up to their mean, but for those that a model or
    `compute_loss_func` is to have divided by the number of items. One that has not leaves their sum, which Trainer has
    multiplied by the number of devices as well: neither would compare with the probe.
    """

    args: IOMTTrainingArguments
    interleaving: Interleaving | None
    _step_loss: torch.Tensor | None
    _counts_items: Callable[[], bool]

    def begin_losses(self, probe: Probe | None) -> None:
        """Begin with the first step; without a probe whoever is to divide is taken to have done so."""
        self._step_loss = None
        # Not before it is known that there is a number: without one a function may have nothing to divide.
        self._counts_items = cache(lambda: probe is None or probe.counts_items())

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Train on one batch as Trainer does, and pass the loss of the optimizer step on."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.interleaving is not None:
            self._step_loss = loss if self._step_loss is None else self._step_loss + loss
            if self.accelerator.sync_gradients:
                excess = self._excess(num_items_in_batch is not None)
                self.interleaving.after_backward(self._step_loss if excess == 1 else self._step_loss / excess)
                self._step_loss = None
        return loss

    @property
    def _devices(self) -> int:
        """Devices whose losses Trainer takes to be parts of a sum."""
        return self.args.world_size * max(1, self.args.n_gpu) if self.args.average_tokens_across_devices else 1

    def _excess(self, counted: bool) -> int:
        """How many times the mean the sum of the losses of the present step is."""
        # Where there is nothing to count, Trainer divides for a model, but not for a function.
        told = (self.model_accepts_loss_kwargs and counted) or self.compute_loss_func is not None
        excess = self.current_gradient_accumulation_steps * (self._devices if counted else 1)
        # Trainers of other libraries may say what they do themselves.
        if self.loss_is_scaled_for_ga is not None or not told or excess == 1:
            return 1
        return 1 if counted and self._counts_items() else excess
