from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hf_iomt.selection import HISTORY_NAME, CycleRecord, as_dictionaries, write_history


def make_record(cycle=0, **changes):
    values = {
        "cycle": cycle,
        "first_step": 25 * cycle + 1,
        "last_step": 25 * cycle + 25,
        "candidate": "adam:lr=0.001",
        "family": "adam",
        "learning_rate": 0.0005,
        "phase": "surrogate",
    }
    return CycleRecord(**{**values, **changes})


def test_a_record_survives_the_file(tmp_path):
    records = [make_record(0, phase="initial"), make_record(1, score=-0.25, predicted_mean=0.1, rolled_back=True)]
    path = tmp_path / HISTORY_NAME
    write_history(as_dictionaries(records), path)
    assert [CycleRecord(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))] == records


def test_dictionaries_have_every_field_and_are_copies():
    record = make_record(score=0.5)
    (entry,) = as_dictionaries([record])
    assert set(entry) == {field.name for field in dataclasses.fields(CycleRecord)}
    entry["score"] = 1.0
    assert record.score == 0.5


def test_a_record_starts_without_an_outcome():
    record = make_record()
    assert (record.score, record.predicted_mean, record.predicted_std, record.gain) == (None, None, None, None)
    assert record.rolled_back is False


def test_missing_folders_are_created_and_strings_are_paths(tmp_path):
    path = tmp_path / "checkpoint-5" / "deep" / HISTORY_NAME
    write_history([{"cycle": 0}], str(path))
    assert json.loads(path.read_text()) == [{"cycle": 0}]


def test_writing_again_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / HISTORY_NAME
    write_history([{"cycle": 0}] * 50, path)
    write_history([{"cycle": 1}], path)
    assert json.loads(path.read_text()) == [{"cycle": 1}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_leaves_the_old_file_whole(tmp_path, value):
    path = tmp_path / HISTORY_NAME
    write_history([{"cycle": 0}], path)
    with pytest.raises((ValueError, TypeError)):
        write_history([{"cycle": 1, "score": value}], path)
    assert json.loads(path.read_text()) == [{"cycle": 0}]


def test_the_new_file_is_complete_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
    path = tmp_path / HISTORY_NAME
    write_history([{"cycle": 0}], path)
    seen = []
    replace = Path.replace

    def spy(source, target):
        seen.append((json.loads(Path(target).read_text()), json.loads(source.read_text())))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_history([{"cycle": 1}], path)
    assert seen == [([{"cycle": 0}], [{"cycle": 1}])]
