"""Samples read on the side, beside those that training reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from accelerate.data_loader import DataLoaderDispatcher
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset

if TYPE_CHECKING:
    from transformers import Trainer

# Batches as the model takes them, each with its number of samples.
Group: TypeAlias = list[tuple[Any, int]]


def draw_groups(trainer: Trainer, size: int, count: int, skip: int = 0, loader: Any = None) -> Iterator[Group]:
    """
    Groups of random samples, of map-style data no sample twice unless they are used up; the same for the
    same seed.

    A group is collated in batches no larger than in training, and of several data sets that are one after another
    (`ConcatDataset`) apart, because they may have other columns, and other losses. Each process gets its part.

    Args:
        trainer ([`~transformers.Trainer`]): Gives the data, the collator, the device and the seed.
        size (`int`): Samples of a group, over all processes.
        count (`int`): Samples in all, over all processes; the last group may be smaller.
        skip (`int`, *optional*, defaults to 0): Samples to leave out at the beginning.
        loader (`DataLoader`, *optional*): Gives the data and the collator; that of training if left out.

    Raises:
        ValueError: There is no sample at all.
    """
    loader = cast(DataLoader[Any], trainer.callback_handler.train_dataloader if loader is None else loader)
    dataset: Any = loader.dataset
    groups = _of_rows
    if is_stream(dataset):
        # Of a stream that one process reads for all, each has the whole; else its own part.
        groups = _of_whole_stream if isinstance(loader, DataLoaderDispatcher) else _of_stream
    empty = True
    for parts in groups(trainer, dataset, size, count, skip):
        batches = [batch for part in parts for batch in _split(part, max(1, trainer._train_batch_size))]
        empty = empty and not batches
        yield [(trainer._prepare_inputs(loader.collate_fn(batch)), len(batch)) for batch in batches]
    if empty:
        raise ValueError("`train_dataset` gives no sample to train on. Look at how it was filtered or split.")


def is_stream(dataset: Any) -> bool:
    """Whether a data set can only be read from its beginning; some of these know their length."""
    return isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    )


def mean_loss(trainer: Trainer, inputs: Any, **kwargs: Any) -> torch.Tensor:
    """The training loss of a batch, a scalar with its gradient."""
    with trainer.compute_loss_context_manager():
        # A copy, because losses may take labels out of the dictionary.
        loss = cast(torch.Tensor, trainer.compute_loss(trainer.model_wrapped, dict(inputs), **kwargs))
    return loss.mean()


def count_items(trainer: Trainer, inputs: Any) -> dict[str, Any]:
    """The number of items of a batch, which a loss function of the user's own may divide by."""
    if trainer.compute_loss_func is None:
        return {}
    return {"num_items_in_batch": trainer._get_num_items_in_batch([inputs], trainer.args.device)}


def _of_rows(trainer: Trainer, dataset: Any, size: int, count: int, skip: int) -> Iterator[list[list[Any]]]:
    order = np.random.default_rng(trainer.args.seed).permutation(len(dataset))
    chosen = order[:count] if skip == 0 else np.resize(np.roll(order, -skip), count if len(order) else 0)
    sources = _sources(dataset, chosen)
    for start in range(0, len(chosen), size):
        rows, of = chosen[start : start + size], sources[start : start + size]
        # In the order of their first rows. Processes must make equally many passes.
        parts = [_own(trainer, rows[of == source]) for source in dict.fromkeys(of.tolist())]
        yield [[dataset[index] for index in part] for part in parts]


def _of_stream(trainer: Trainer, dataset: Any, size: int, count: int, skip: int) -> Iterator[list[list[Any]]]:
    processes = trainer.args.world_size
    begin, end = math.ceil(skip / processes), math.ceil((skip + count) / processes)
    stream = itertools.islice(dataset, begin, end)
    while rows := list(itertools.islice(stream, math.ceil(size / processes))):
        yield [rows]


def _of_whole_stream(trainer: Trainer, dataset: Any, size: int, count: int, skip: int) -> Iterator[list[list[Any]]]:
    stream = itertools.islice(dataset, skip, skip + count)
    while rows := list(itertools.islice(stream, size)):
        yield [[rows[number] for number in _own(trainer, np.arange(len(rows)))]]


def _own(trainer: Trainer, group: NDArray[np.int64]) -> list[int]:
    """This process's part of a group; parts are of one size, so that their mean is that of all."""
    args = trainer.args
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
