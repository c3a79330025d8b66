"""The probe: the loss on a few fixed training samples, the same at both ends of a cycle."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from .generators import preserved_generators
from .shards import reshard

if TYPE_CHECKING:
    from transformers import Trainer


class Probe:
    """
    Training loss on a fixed random sample of the training data, without dropout and without gradients.

    It is drawn when it is first called and kept on the device. Neither drawing nor calling it touches the state of
    any global random generator, the parameters or the running statistics, so training goes on as if it had not been.

    Args:
        trainer ([`~transformers.Trainer`]): Gives the data, the collator, the model and the loss.
        samples (`int`): How many samples to draw over all processes; fewer where the data has fewer.
        groups (`int`, *optional*, defaults to 1): In how many groups of equal size the loss is measured.
    """

    def __init__(self, trainer: Trainer, samples: int, groups: int = 1) -> None:
        self._trainer = trainer
        self._samples = samples
        self._size = max(1, math.ceil(samples / groups))
        self._batches: list[Any] = []

    def __call__(self) -> NDArray[np.float64]:
        """The loss of each group now, of shape (groups,), averaged over ranks; infinity where it is not finite."""
        trainer = self._trainer
        with preserved_generators(trainer.args.seed), torch.no_grad(), _evaluating(trainer) as model:
            if not self._batches:
                self._batches = self._draw()
            losses = []
            for inputs in self._batches:
                with trainer.compute_loss_context_manager():
                    # A copy, because losses may take labels out of the dictionary.
                    loss = cast(torch.Tensor, trainer.compute_loss(model, dict(inputs)))
                losses.append(loss.detach().mean().double())
        values = trainer.accelerator.reduce(torch.stack(losses), "mean").cpu().numpy()
        return np.where(np.isfinite(values), values, np.inf)

    def counts_items(self) -> bool:
        """Whether the loss divides by the `num_items_in_batch` that training passes, as Trainer takes it to do."""
        trainer = self._trainer
        with preserved_generators(trainer.args.seed), torch.no_grad(), _evaluating(trainer) as model:
            self._batches = self._batches or self._draw()
            with trainer.compute_loss_context_manager():
                few, many = (
                    cast(torch.Tensor, trainer.compute_loss(model, dict(self._batches[0]), num_items_in_batch=count))
                    for count in (torch.tensor(1), torch.tensor(1000))
                )
        return float(many.mean().abs()) < 0.5 * float(few.mean().abs())

    def _draw(self) -> list[Any]:
        trainer = self._trainer
        loader = cast(DataLoader[Any], trainer.callback_handler.train_dataloader)
        dataset: Any = loader.dataset
        if not is_stream(dataset):
            chosen = np.random.default_rng(trainer.args.seed).permutation(len(dataset))[: self._samples]
            groups = [chosen[start : start + self._size] for start in range(0, len(chosen), self._size)]
            chunks = [[dataset[index] for index in self._own(group)] for group in groups]
        else:
            rows = list(itertools.islice(dataset, math.ceil(self._samples / trainer.args.world_size)))
            size = math.ceil(self._size / trainer.args.world_size)
            chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [trainer._prepare_inputs(loader.collate_fn(chunk)) for chunk in chunks]

    def _own(self, group: NDArray[np.int64]) -> list[int]:
        """This process's part of a group; parts are of one size, so that their mean is that of all."""
        args = self._trainer.args
        size = math.ceil(len(group) / args.world_size)
        whole = np.resize(group, size * args.world_size)
        own: list[int] = whole[args.process_index * size :][:size].tolist()
        return own


def is_stream(dataset: Any) -> bool:
    """Whether a data set can only be read from its beginning; some of these know their length."""
    return isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    )


class _evaluating:
    """
    Evaluation mode, except that batch normalisation uses the batch's own statistics where it does so in training.

    A few steps into training the running statistics lag far behind the parameters, and would make a sound candidate
    look broken. They are put back afterwards.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._model: nn.Module = trainer.model_wrapped
        self._sharded = trainer.is_fsdp_enabled

    def __enter__(self) -> nn.Module:
        self._modes = [(module, module.training) for module in self._model.modules()]
        normalising = [
            module
            for module, training in self._modes
            if training and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        ]
        self._model.eval()
        self._saved = [(buffer, buffer.clone()) for module in normalising for buffer in module.buffers()]
        for module in normalising:
            module.train()
        return self._model

    def __exit__(self, *_: object) -> None:
        for buffer, value in self._saved:
            buffer.copy_(value)
        for module, training in self._modes:
            module.training = training
        if self._sharded:
            reshard(self._model)
