"""Data sets: their splits, read from `$HF_IOMT_DATA` or, where it does not hold them, from the hub."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATA_VARIABLE = "HF_IOMT_DATA"


@dataclass(frozen=True)
class Source:
    """Where a data set is found on the hub and what its columns are called."""

    kind: str
    hub: str
    configuration: str | None = None
    columns: tuple[str, ...] = ("image",)
    test_split: str = "test"
    validation_split: str | None = None


# The test splits of GLUE have no labels: there the validation split is what is tested on.
SOURCES: dict[str, Source] = {
    "usps": Source("images", "flwrlabs/usps"),
    "mnist": Source("images", "ylecun/mnist"),
    "cifar10": Source("images", "uoft-cs/cifar10", columns=("img",)),
    "stl10": Source("images", "tanganke/stl10"),
    "imagenet-a": Source("images", "barkermrl/imagenet-a"),
    "hymenoptera": Source("images", "nateraw/hymenoptera", test_split="validation"),
    "mrpc": Source("texts", "nyu-mll/glue", "mrpc", ("sentence1", "sentence2"), validation_split="validation"),
    "qqp": Source("texts", "nyu-mll/glue", "qqp", ("question1", "question2"), "validation"),
    "rte": Source("texts", "nyu-mll/glue", "rte", ("sentence1", "sentence2"), "validation"),
    "wnli": Source("texts", "nyu-mll/glue", "wnli", ("sentence1", "sentence2"), "validation"),
    "digits": Source("images", "scikit-learn"),
}


@dataclass
class Rows:
    """Samples as they were read: images as PIL images or texts as tuples of strings, and class labels."""

    items: list[Any]
    labels: list[int]

    def take(self, indices: Any) -> Rows:
        """The rows at these indices."""
        return Rows([self.items[index] for index in indices], [self.labels[index] for index in indices])


@dataclass
class Splits:
    """
    What is trained on, what choices are made by, and what is reported.

    No choice, be it of a learning rate, of a method or of a moment to stop, looks at `test`.
    """

    train: Rows
    validation: Rows
    test: Rows
    classes: int


@functools.lru_cache(maxsize=4)
def load_splits(name: str, train: int | None = None, validation: int = 500, test: int | None = None) -> Splits:
    """
    Read a data set and cut it down; the same rows for every seed.

    Args:
        name (`str`): One of `SOURCES`.
        train (`int`, *optional*): Samples to train on, at most.
        validation (`int`, defaults to 500): Samples to choose by, held out of the training data if need be.
        test (`int`, *optional*): Samples to test on, at most.

    Raises:
        SystemExit: The data set is not known.
    """
    if name not in SOURCES:
        raise SystemExit(f"Unknown data set {name!r}. Known: {', '.join(SOURCES)}.")
    source = SOURCES[name]
    if name == "digits":
        rows, tested = _digits()
    elif name == "imagenet-a":
        # It has one split.
        rows, tested = _cut(_read(name, "train"), 0.8)
    else:
        rows, tested = _read(name, "train"), _read(name, "test")
    order = np.random.default_rng(0).permutation(len(rows.labels))
    if source.validation_split is not None:
        held = _shuffled(_read(name, "validation"), validation)
    else:
        # A quarter at most: small sets need what they have.
        count = min(validation, len(order) // 4)
        held, order = rows.take(order[:count]), order[count:]
    return Splits(rows.take(order[:train]), held, _shuffled(tested, test), len(set(rows.labels)))


def _shuffled(rows: Rows, most: int | None) -> Rows:
    return rows.take(np.random.default_rng(1).permutation(len(rows.labels))[:most])


def _cut(rows: Rows, share: float) -> tuple[Rows, Rows]:
    order = np.random.default_rng(2).permutation(len(rows.labels))
    first = round(share * len(order))
    return rows.take(order[:first]), rows.take(order[first:])


def _digits() -> tuple[Rows, Rows]:
    """scikit-learn's digits, 8 × 8 pixels, 60 % to train."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    pictures = [Image.fromarray(np.uint8(np.minimum(row.reshape(8, 8) * 16, 255))) for row in pixels]
    rows = Rows(pictures, labels.tolist())
    train, test = train_test_split(np.arange(len(labels)), train_size=0.6, stratify=labels, random_state=0)
    return rows.take(train), rows.take(test)


def data_path() -> Path:
    """The folder of data sets, from `$HF_IOMT_DATA`."""
    if DATA_VARIABLE not in os.environ:
        raise SystemExit(f"No data: set {DATA_VARIABLE} to the folder that holds the data sets, one folder each.")
    return Path(os.environ[DATA_VARIABLE])


def _read(name: str, split: str) -> Rows:
    """One split, from a local file (`.npz` or `.parquet`) or from the hub."""
    from datasets import load_dataset
    from PIL import Image

    source = SOURCES[name]
    folder = Path(os.environ.get(DATA_VARIABLE, "")) / name
    if (folder / f"{split}.npz").exists():
        arrays = np.load(folder / f"{split}.npz")
        return Rows([Image.fromarray(picture) for picture in arrays["image"]], arrays["label"].astype(int).tolist())
    if (folder / f"{split}.parquet").exists():
        data = load_dataset("parquet", data_files=str(folder / f"{split}.parquet"), split="train")
    else:
        on_hub = {"test": source.test_split, "validation": source.validation_split}.get(split, split)
        data = load_dataset(source.hub, source.configuration, split=on_hub)
    labels = data["label" if "label" in data.column_names else "labels"]
    if source.kind == "images":
        column = source.columns[0] if source.columns[0] in data.column_names else "image"
        return Rows(list(data[column]), list(labels))
    return Rows(list(zip(*(data[column] for column in source.columns), strict=True)), list(labels))
