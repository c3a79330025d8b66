"""The probe: the loss on a few fixed training samples, the same at both ends of a cycle."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset

from .generators import preserved_generators
from .running_metrics import kept_metrics
from .shards import reshard

if TYPE_CHECKING:
    from transformers import Trainer


class Probe:
    """
    Training loss on a fixed random sample of the training data, without dropout and without gradients.

    It is drawn when it is first called and kept on the device. Neither drawing nor calling it touches the state of
    any global random generator, the parameters, the running statistics or the metrics that the trainer sums up, so
    training goes on as if it had not been. Samples of several data sets that are one after another (`ConcatDataset`)
    are collated apart, because they may have other columns, and other losses.

    Args:
        trainer ([`~transformers.Trainer`]): Gives the data, the collator, the model and the loss.
        samples (`int`): How many samples to draw over all processes; fewer where the data has fewer.
        groups (`int`, *optional*, defaults to 1): In how many groups of equal size the loss is measured.
    """

    def __init__(self, trainer: Trainer, samples: int, groups: int = 1) -> None:
        self._trainer = trainer
        self._samples = samples
        self._size = max(1, math.ceil(samples / groups))
        # By group: batches, each with its number of samples.
        self._groups: list[list[tuple[Any, int]]] = []

    def __call__(self) -> NDArray[np.float64]:
        """The loss of each group now, of shape (groups,), averaged over ranks; infinity where it is not finite."""
        trainer = self._trainer
        with preserved_generators(trainer.args.seed), torch.no_grad(), _evaluating(trainer), kept_metrics(trainer):
            self._groups = self._groups or self._draw()
            losses = [self._group_loss(group) for group in self._groups]
        values = trainer.accelerator.reduce(torch.stack(losses), "mean").cpu().numpy()
        return np.where(np.isfinite(values), values, np.inf)

    def counts_items(self) -> bool:
        """Whether the loss divides by the `num_items_in_batch` that training passes, as Trainer takes it to do."""
        trainer = self._trainer
        with preserved_generators(trainer.args.seed), torch.no_grad(), _evaluating(trainer), kept_metrics(trainer):
            self._groups = self._groups or self._draw()
            inputs = self._groups[0][0][0]
            few, many = (self._loss(inputs, num_items_in_batch=torch.tensor(count)) for count in (1, 1000))
        return float(many.abs()) < 0.5 * float(few.abs())

    def _loss(self, inputs: Any, **kwargs: Any) -> torch.Tensor:
        trainer = self._trainer
        with trainer.compute_loss_context_manager():
            # A copy, because losses may take labels out of the dictionary.
            loss = cast(torch.Tensor, trainer.compute_loss(trainer.model_wrapped, dict(inputs), **kwargs))
        return loss.detach().mean().double()

    def _items(self, inputs: Any) -> dict[str, Any]:
        """The number of items, which a loss function of the user's own may divide by."""
        if self._trainer.compute_loss_func is None:
            return {}
        return {"num_items_in_batch": self._trainer._get_num_items_in_batch([inputs], self._trainer.args.device)}

    def _group_loss(self, group: list[tuple[Any, int]]) -> torch.Tensor:
        losses = [self._loss(inputs, **self._items(inputs)) for inputs, _ in group]
        if len(group) == 1:
            return losses[0]
        total = sum(count for _, count in group)
        return torch.stack([loss * (count / total) for loss, (_, count) in zip(losses, group, strict=True)]).sum()

    def _draw(self) -> list[list[tuple[Any, int]]]:
        trainer = self._trainer
        loader = cast(DataLoader[Any], trainer.callback_handler.train_dataloader)
        dataset: Any = loader.dataset
        if not is_stream(dataset):
            chosen = np.random.default_rng(trainer.args.seed).permutation(len(dataset))[: self._samples]
            sources = _sources(dataset, chosen)
            groups = []
            for start in range(0, len(chosen), self._size):
                rows, of = chosen[start : start + self._size], sources[start : start + self._size]
                # In the order of their first rows. Processes must make equally many passes.
                parts = [self._own(rows[of == source]) for source in dict.fromkeys(of.tolist())]
                groups.append([[dataset[index] for index in part] for part in parts])
        else:
            processes = trainer.args.world_size
            stream = list(itertools.islice(dataset, math.ceil(self._samples / processes)))
            size = math.ceil(self._size / processes)
            groups = [[stream[start : start + size]] for start in range(0, len(stream), size)]
        if not any(itertools.chain.from_iterable(groups)):
            raise ValueError("`train_dataset` gives no sample to train on. Look at how it was filtered or split.")
        batches = [
            [batch for part in group for batch in _split(part, max(1, trainer._train_batch_size))] for group in groups
        ]
        return [
            [(trainer._prepare_inputs(loader.collate_fn(batch)), len(batch)) for batch in group] for group in batches
        ]

    def _own(self, group: NDArray[np.int64]) -> list[int]:
        """This process's part of a group; parts are of one size, so that their mean is that of all."""
        args = self._trainer.args
        size = math.ceil(len(group) / args.world_size)
        whole = np.resize(group, size * args.world_size)
        own: list[int] = whole[args.process_index * size :][:size].tolist()
        return own


def _split(rows: list[Any], most: int) -> list[list[Any]]:
    """Rows in equal batches no larger than in training, which may have no memory for more; nor of a single row."""
    count = min(math.ceil(len(rows) / most), max(1, len(rows) // 2))
    size = math.ceil(len(rows) / count)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _sources(dataset: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of several data sets each row comes from."""
    ends = dataset.cumulative_sizes if isinstance(dataset, ConcatDataset) else [len(dataset)]
    return np.searchsorted(ends, rows, side="right")


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

    def __enter__(self) -> None:
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

    def __exit__(self, *_: object) -> None:
        for buffer, value in self._saved:
            buffer.copy_(value)
        for module, training in self._modes:
            module.training = training
        if self._sharded:
            reshard(self._model)
