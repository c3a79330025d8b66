"""What the examples read, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from datasets import Dataset
from scripts import write_reviews


def test_unlabelled_rows_are_refused() -> None:
    import splits

    train, evaluation = Dataset.from_dict({"label": [0, 1]}), Dataset.from_dict({"label": [-1, -1]})
    with pytest.raises(ValueError, match="Choose a labelled split with `--eval_split`"):
        splits.encode_labels(train, evaluation, "label")


def test_words_become_numbers() -> None:
    import splits

    train, evaluation = Dataset.from_dict({"kind": ["no", "yes", "no"]}), Dataset.from_dict({"kind": ["yes"]})
    train, evaluation, names = splits.encode_labels(train, evaluation, "kind")
    assert (train["label"][:], evaluation["label"][:], names) == ([0, 1, 0], [1], ["no", "yes"])


def test_the_end_of_a_text_is_held_out(tmp_path: Path) -> None:
    import splits

    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {number}\n" for number in range(20)))
    train, evaluation = splits.load_splits(splits.DataArguments(str(file), max_train_samples=2), shuffle=False)
    assert train["text"][:] == ["line 0\n", "line 1\n"]
    assert evaluation["text"][:] == ["line 18\n", "line 19\n"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "{data}", "eval_split": "dev"}, "`--eval_split` can be train, test"),
        ({"dataset": "{data}/test.parquet", "eval_split": "test"}, "`--eval_split` can be train"),
        ({"dataset": "{data}/notes.md"}, "Files may end in .txt"),
    ],
)
def test_data_that_is_not_there(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    import splits

    write_reviews(tmp_path / "data")
    (tmp_path / "data" / "notes.md").touch()
    filled = {name: value.format(data=tmp_path / "data") for name, value in arguments.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        splits.load_splits(splits.DataArguments(**filled))


def test_a_metric_that_cannot_be_had() -> None:
    import metrics

    with pytest.raises(ValueError, match="'bleu' is neither a local path nor to be had from the Hub now"):
        metrics.classification_metrics(["bleu"], 2)


def test_columns_are_asked_for_where_none_has_a_usual_name() -> None:
    import splits

    assert splits.find_text_columns(None, ["idx", "question2", "question1"]) == ("question1", "question2")
    with pytest.raises(ValueError, match="Say which of headline, body to read, with `--text_columns`"):
        splits.find_text_columns(None, ["headline", "body"])
    with pytest.raises(ValueError, match="must be one or two of headline, body"):
        splits.find_text_columns(["title"], ["headline", "body"])
