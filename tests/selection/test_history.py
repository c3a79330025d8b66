from __future__ import annotations

import dataclasses
import json

from hf_iomt.json_files import write_json
from hf_iomt.selection import HISTORY_NAME, CycleRecord, as_dictionaries


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
    write_json(as_dictionaries(records), path)
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
