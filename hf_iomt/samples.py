"""Samples read on the side, beside those that training reads."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from accelerate.data_loader import DataLoaderDispatcher
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset
from transformers.trainer_pt_utils import find_batch_size

from .attributes import replaced

if TYPE_CHECKING:
    from transformers import Trainer

# Batches as the model takes them, each with its number of samples.
Group: TypeAlias = list[tuple[Any, int]]


def draw_groups(trainer: Trainer, size: int, count: int, skip: int = 0, loader: Any = None) -> Iterator[Group]:
    """
    Groups of random samples, of map-style data no sample twice unless they are used up; the same for the
    same seed.

    A group is collated in batches no larger than in training, and of several data sets that are one after another
    (`ConcatDataset`) apart, because they may have other columns, and other losses. Each process gets its part. Of a
    loader that gives whole batches, a group has as many of them as it takes for its size.

    Args:
        trainer ([`~transformers.Trainer`]): Gives the data, the collator, the device and the seed.
        size (`int`): Samples of a group, over all processes.
        count (`int`): Samples in all, over all processes; the last group may be smaller.
        skip (`int`, *optional*, defaults to 0): Samples to leave out at the beginning. Data with fewer than that, or
            with too few after them, then begin again; without it they give what they have.
        loader (`DataLoader`, *optional*): Gives the data and the collator; that of training if left out.

    Raises:
        ValueError: There is no sample at all.
    """
    loader = trainer.callback_handler.train_dataloader if loader is None else loader
    groups = _of_batches if gives_batches(loader) else _of_samples
    empty = True
    for group in groups(trainer, loader, size, count, skip):
        empty = empty and not group
        yield group
    if empty:
        raise ValueError("`train_dataset` gives no sample to train on. Look at how it was filtered or split.")


def is_stream(dataset: Any) -> bool:
    """Whether a data set can only be read from its beginning; some of these know their length."""
    return isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    )


def gives_batches(loader: Any) -> bool:
    """Whether there are no single samples behind a loader: its data set makes the batches, or it is none of torch."""
    return not isinstance(loader, DataLoader) or (loader.batch_size is None and loader.batch_sampler is None)


def read(
    dataset: Any, loader: Any, seed: int, rows: Sequence[int] | None = None, repeated: bool = False
) -> Iterator[Any]:
    """
    Samples of a data set, in a worker where its loader has workers: those of training would share a file that was
    opened before they start, and each would read on where another one is.

    Args:
        dataset (`Dataset` or `IterableDataset`): The data.
        loader (`DataLoader`): Reads them otherwise.
        seed (`int`): Of the random numbers that are drawn while a worker reads.
        rows (`Sequence[int]`, *optional*): Which samples; those of a stream, from its beginning, if left out.
        repeated (`bool`, *optional*, defaults to `False`): Begin again at the end.
    """
    samples: Iterable[Any] = dataset if rows is None else (dataset[row] for row in rows)
    # A data set of rows without a length only seems to be a stream.
    alone = rows is None and not isinstance(dataset, IterableDataset)
    if not isinstance(loader, DataLoader) or loader.num_workers == 0 or alone:
        return _repeated(samples) if repeated else iter(samples)
    packed: DataLoader[Any] = DataLoader(
        dataset,
        sampler=rows,
        batch_size=None,
        collate_fn=_pack,
        num_workers=1,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        # Else the global one would go on.
        generator=torch.Generator().manual_seed(seed),
        # One start, however often a stream begins again.
        persistent_workers=True,
    )
    return map(pickle.loads, _repeated(packed) if repeated else packed)


def mean_loss(trainer: Trainer, inputs: Any, **kwargs: Any) -> torch.Tensor:
    """The training loss of a batch, a scalar with its gradient."""
    # A batch is a step of its own here. What Trainer's last step had, or none had yet, is no concern of its loss.
    if not hasattr(trainer, "current_gradient_accumulation_steps"):
        trainer.current_gradient_accumulation_steps = 1
    with (
        replaced(trainer, "current_gradient_accumulation_steps", 1),
        # Trainer would multiply by the number of devices, also where the model does not divide by what is on them all.
        replaced(trainer.args, "average_tokens_across_devices", False),
        trainer.compute_loss_context_manager(),
    ):
        # A copy, because losses may take labels out of the batch.
        loss = cast(torch.Tensor, trainer.compute_loss(trainer.model_wrapped, copy.copy(inputs), **kwargs))
    return loss.mean()


def count_items(trainer: Trainer, inputs: Any) -> dict[str, Any]:
    """The number of items of a batch, which losses may divide by: those of one device, whose losses are averaged."""
    args, devices = trainer.args, trainer.args.n_gpu
    # Of this process alone. The share of one of its devices would be rounded, so that is found below.
    with replaced(args, "average_tokens_across_devices", devices > 1):
        items: Any = trainer._get_num_items_in_batch([inputs], args.device)
    if devices > 1 and items is not None:
        # As many parts as `DataParallel` makes.
        items = items / len(torch.empty(find_batch_size(inputs) or devices).chunk(devices))
    return {"num_items_in_batch": items}


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        # A part of a larger tensor would take all of it along.
        return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL) if type(value) is torch.Tensor else NotImplemented


def _pack(sample: Any) -> bytes:
    """A sample without shared memory, of which each tensor would keep a file open, and there may be little."""
    file = io.BytesIO()
    _Packer(file, pickle.HIGHEST_PROTOCOL).dump(sample)
    return file.getvalue()


def _of_batches(trainer: Trainer, loader: Any, size: int, count: int, skip: int) -> Iterator[Group]:
    size, count, skip = (math.ceil(number / trainer.args.world_size) for number in (size, count, skip))
    # Accelerate's loaders tell its gradient state where training stands, and count epochs.
    batches = getattr(loader, "base_dataloader", loader)
    group: Group = []
    for batch in batches if skip == 0 else _repeated(batches):
        number = find_batch_size(batch) or trainer._train_batch_size
        if skip > 0:
            skip -= number
            continue
        group.append((trainer._prepare_inputs(batch), number))
        count -= number
        if count <= 0:
            break
        if sum(number for _, number in group) >= size:
            yield group
            group = []
    if group:
        yield group


def _of_samples(trainer: Trainer, loader: Any, size: int, count: int, skip: int) -> Iterator[Group]:
    groups = _of_rows
    if is_stream(loader.dataset):
        # Of a stream that one process reads for all, each has the whole; else its own part.
        groups = _of_whole_stream if isinstance(loader, DataLoaderDispatcher) else _of_stream
    for parts in groups(trainer, loader, size, count, skip):
        batches = [batch for part in parts for batch in _split(part, max(1, trainer._train_batch_size))]
        yield [(trainer._prepare_inputs(loader.collate_fn(batch)), len(batch)) for batch in batches]


def _of_rows(trainer: Trainer, loader: Any, size: int, count: int, skip: int) -> Iterator[list[list[Any]]]:
    dataset, seed = loader.dataset, trainer.args.seed
    order = np.random.default_rng(seed).permutation(len(dataset))
    chosen = order[:count] if skip == 0 else np.resize(np.roll(order, -skip), count if len(order) else 0)
    sources = _sources(dataset, chosen)
    groups = []
    for start in range(0, len(chosen), size):
        rows, of = chosen[start : start + size], sources[start : start + size]
        # In the order of their first rows. Processes must make equally many passes.
        groups.append([_own(trainer, rows[of == source]) for source in dict.fromkeys(of.tolist())])
    samples = read(dataset, loader, seed, [row for parts in groups for part in parts for row in part])
    for parts in groups:
        yield [list(itertools.islice(samples, len(part))) for part in parts]


def _of_stream(trainer: Trainer, loader: Any, size: int, count: int, skip: int) -> Iterator[list[list[Any]]]:
    processes = trainer.args.world_size
    begin, end = math.ceil(skip / processes), math.ceil((skip + count) / processes)
    samples = _stretch(trainer, loader, begin, end)
    while rows := list(itertools.islice(samples, math.ceil(size / processes))):
        yield [rows]


def _of_whole_stream(trainer: Trainer, loader: Any, size: int, count: int, skip: int) -> Iterator[list[list[Any]]]:
    samples = _stretch(trainer, loader, skip, skip + count)
    while rows := list(itertools.islice(samples, size)):
        yield [[rows[number] for number in _own(trainer, np.arange(len(rows)))]]


def _stretch(trainer: Trainer, loader: Any, begin: int, end: int) -> Iterator[Any]:
    samples = read(loader.dataset, loader, trainer.args.seed, repeated=begin > 0)
    return itertools.islice(samples, begin, end)


def _repeated(items: Iterable[Any]) -> Iterator[Any]:
    """Again and again from the beginning, unless there is nothing."""
    found = True
    while found:
        found = False
        for item in items:
            found = True
            yield item


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
