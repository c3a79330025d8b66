"""The probe: the loss on a few fixed training samples, the same at both ends of a cycle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .generators import preserved_generators
from .modes import kept_modes
from .precision import widen
from .running_metrics import kept_metrics
from .samples import Group, count_items, draw_groups, mean_loss
from .shards import reshard

if TYPE_CHECKING:
    from transformers import Trainer


class Probe:
    """
    Loss on a fixed random sample of the training data, or of other data, without dropout and without gradients.

    It is drawn when it is first called and kept on the device. Neither drawing nor calling it touches the state of
    any global random generator, the parameters, the running statistics or the metrics that the trainer sums up, so
    training goes on as if it had not been.

    Args:
        trainer ([`~transformers.Trainer`]): Gives the data, the collator, the model and the loss.
        samples (`int`): How many samples to draw over all processes; fewer where the data has fewer.
        groups (`int`, *optional*, defaults to 1): In how many groups of equal size the loss is measured.
        loader (`DataLoader`, *optional*): Gives the data and the collator; that of training if left out.
    """

    def __init__(self, trainer: Trainer, samples: int, groups: int = 1, loader: Any = None) -> None:
        self._trainer = trainer
        self._samples = samples
        self._loader = loader
        self._size = max(1, math.ceil(samples / groups))
        self._groups: list[Group] = []

    def __call__(self) -> NDArray[np.float64]:
        """The loss of each group now, of shape (groups,), averaged over ranks; infinity where it is not finite."""
        trainer = self._trainer
        with (
            preserved_generators(trainer.args.seed),
            torch.no_grad(),
            _evaluating(trainer, self._loader is None),
            kept_metrics(trainer),
        ):
            self._groups = self._groups or self._draw()
            losses = [self._group_loss(group) for group in self._groups]
        values = trainer.accelerator.reduce(torch.stack(losses), "mean").cpu().numpy()
        return np.where(np.isfinite(values), values, np.inf)

    def counts_items(self) -> bool:
        """Whether the loss divides by the `num_items_in_batch` that training passes, as Trainer takes it to do."""
        trainer = self._trainer
        with (
            preserved_generators(trainer.args.seed),
            torch.no_grad(),
            _evaluating(trainer, self._loader is None),
            kept_metrics(trainer),
        ):
            self._groups = self._groups or self._draw()
            inputs = self._groups[0][0][0]
            few, many = (self._loss(inputs, num_items_in_batch=self._items(count)) for count in (1, 1000))
        return float(many.abs()) < 0.5 * float(few.abs())

    def _items(self, count: int) -> torch.Tensor:
        items, devices = torch.tensor(count), self._trainer.args.n_gpu
        # As Trainer has it: `DataParallel` cuts tensors up, one row for each device.
        return items if devices <= 1 else items.expand(devices, 1)

    def _loss(self, inputs: Any, **kwargs: Any) -> torch.Tensor:
        return widen(mean_loss(self._trainer, inputs, **kwargs).detach())

    def _group_loss(self, group: Group) -> torch.Tensor:
        losses = [self._loss(inputs, **count_items(self._trainer, inputs)) for inputs, _ in group]
        if len(group) == 1:
            return losses[0]
        total = sum(count for _, count in group)
        return torch.stack([loss * (count / total) for loss, (_, count) in zip(losses, group, strict=True)]).sum()

    def _draw(self) -> list[Group]:
        return list(draw_groups(self._trainer, self._size, self._samples, loader=self._loader))


@contextmanager
def _evaluating(trainer: Trainer, on_training_data: bool) -> Iterator[None]:
    """
    Evaluation mode, except that on training data batch normalisation uses the batch's own statistics where it does so
    in training.

    A few steps into training the running statistics lag far behind the parameters, and would make a sound candidate
    look broken. They are put back afterwards.
    """
    model: nn.Module = trainer.model_wrapped
    normalising = [
        module
        for module in model.modules()
        if module.training
        and on_training_data
        and isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.track_running_stats
    ]
    with kept_modes(model):
        model.eval()
        saved = [(buffer, buffer.clone()) for module in normalising for buffer in module.buffers()]
        for module in normalising:
            module.train()
        try:
            yield
        finally:
            for buffer, value in saved:
                buffer.copy_(value)
            if trainer.is_fsdp_enabled:
                reshard(model)
