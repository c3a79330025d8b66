"""Training and evaluation data of the examples: from the Hub, a local folder or a single file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from PIL import Image as PillowImage

# Reader of a single file by its suffix; folders and hub ids are recognised by `load_dataset` itself.
_READERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_HELD_OUT_SHARE = 0.1
# Names under which the data sets of GLUE and most others keep their texts.
_TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
)


@dataclass
class DataArguments:
    """What to train and evaluate on."""

    dataset: str = field(
        metadata={"help": "Hub id, a local folder with files such as train.parquet and test.parquet, or one file."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a data set with several, such as 'mrpc' of 'nyu-mll/glue'."}
    )
    eval_split: str | None = field(
        default=None,
        metadata={"help": "Split to evaluate on: 'validation', else 'test', else a tenth of the training data."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on this many rows, for a trial."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on this many rows, for a trial."})


def load_splits(arguments: DataArguments, shuffle: bool = True) -> tuple[Dataset, Dataset]:
    """
    Load what to train on and what to evaluate on.

    Args:
        arguments ([`DataArguments`]): Where the data is.
        shuffle (`bool`, *optional*, defaults to `True`): Whether rows that are left out or held out are random ones.
            Without, the first rows are kept and the last ones held out, as suits running text.

    Raises:
        ValueError: There is no such file, no split to train on, or no split of the name asked for.
    """
    data = _load(arguments)
    if "train" not in data:
        raise ValueError(
            f"{arguments.dataset!r} has no split 'train', only {', '.join(data)}. "
            "Name the files of a folder after their splits: train.parquet, test.parquet."
        )
    name = arguments.eval_split or next((split for split in ("validation", "test") if split in data), None)
    if name is None:
        data = data["train"].train_test_split(_HELD_OUT_SHARE, shuffle=shuffle, seed=0)
        name = "test"
    elif name not in data:
        raise ValueError(f"{arguments.dataset!r} has no split {name!r}: `--eval_split` can be {', '.join(data)}.")
    return (
        _first_rows(data["train"], arguments.max_train_samples, shuffle),
        _first_rows(data[name], arguments.max_eval_samples, shuffle),
    )


def encode_labels(train: Dataset, evaluation: Dataset, column: str) -> tuple[Dataset, Dataset, list[str]]:
    """
    Turn the labels into numbers from 0, in a column `label`.

    Returns:
        Both splits, and the names of the labels.

    Raises:
        ValueError: There is no such column, or rows to evaluate on have labels that the training data does not have.
    """
    if column not in train.column_names:
        raise ValueError(f"There is no column {column!r}: `--label_column` can be {', '.join(train.column_names)}.")
    if column != "label":
        train, evaluation = train.rename_column(column, "label"), evaluation.rename_column(column, "label")
    feature = train.features["label"]
    values = list(range(feature.num_classes)) if isinstance(feature, ClassLabel) else sorted(train.unique("label"))
    # Test splits of some benchmarks are published with the label -1.
    unknown = set(evaluation.unique("label")) - set(values)
    if unknown:
        raise ValueError(
            f"The rows to evaluate on have labels that the training data does not have, such as {min(unknown)!r}. "
            "Choose a labelled split with `--eval_split`."
        )
    if isinstance(feature, ClassLabel):
        return train, evaluation, list(feature.names)
    if values != list(range(len(values))):
        numbers = {value: number for number, value in enumerate(values)}
        train, evaluation = (
            split.map(lambda row: {"label": numbers[row["label"]]}, desc="Numbering the labels")
            for split in (train, evaluation)
        )
    return train, evaluation, [str(value) for value in values]


def find_text_columns(asked: Sequence[str] | None, present: Sequence[str]) -> tuple[str, ...]:
    """
    The one or two columns of texts: those asked for, else those with usual names.

    Raises:
        ValueError: There is no such column, or none with a usual name.
    """
    if asked is not None:
        missing = [column for column in asked if column not in present]
        if missing or len(asked) > 2:
            raise ValueError(f"`--text_columns` must be one or two of {', '.join(present)}, but got {asked}.")
        return tuple(asked)
    for columns in _TEXT_COLUMNS:
        if set(columns) <= set(present):
            return columns
    raise ValueError(
        f"No column of text has a usual name. Say which of {', '.join(present)} to read, with `--text_columns`."
    )


def _load(arguments: DataArguments) -> DatasetDict:
    path = Path(arguments.dataset)
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"Cannot read {str(path)!r}. Files may end in {', '.join(_READERS)}.")
        # Line breaks are part of a running text.
        options = {"keep_linebreaks": True} if path.suffix == ".txt" else {}
        return load_dataset(_READERS[path.suffix], data_files=str(path), **options)
    arrays = sorted(path.glob("*.npz")) if path.is_dir() else []
    if arrays:
        return DatasetDict({file.stem: _read_arrays(file) for file in arrays})
    return load_dataset(arguments.dataset, arguments.dataset_config)


def _read_arrays(file: Path) -> Dataset:
    """A split of pictures from NumPy arrays `image` of shape (n, height, width[, 3]), uint8, and `label` of (n,)."""
    with np.load(file) as arrays:
        images, labels = arrays["image"], arrays["label"].astype(int).tolist()
    names = [str(label) for label in range(max(labels) + 1)]
    return Dataset.from_dict(
        {"image": [PillowImage.fromarray(image) for image in images], "label": labels},
        features=Features({"image": Image(), "label": ClassLabel(names=names)}),
    )


def _first_rows(split: Dataset, rows: int | None, shuffle: bool) -> Dataset:
    if rows is None or rows >= len(split):
        return split
    return (split.shuffle(seed=0) if shuffle else split).select(range(rows))
