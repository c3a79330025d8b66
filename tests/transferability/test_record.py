from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from hf_iomt.json_files import write_json
from hf_iomt.transferability import TRANSFERABILITY_NAME, Transferability

FOUND = Transferability(
    weight=0.5,
    performance=0.625,
    performance_metric="f1",
    log_me=-0.25,
    task="classification",
    split="train",
    samples=1234,
    seconds=2.5,
    left_out={"leep": "the checkpoint is of BertModel, which has no head that predicts classes or tokens"},
)


def test_it_survives_the_file(tmp_path):
    path = tmp_path / TRANSFERABILITY_NAME
    write_json(asdict(FOUND), path)
    assert Transferability.read(path) == FOUND


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[1]", "null", json.dumps({"weights": 1}), json.dumps({}), '{"weight": "high"}', '{"weight": 2}'],
)
def test_what_cannot_be_read_is_none(tmp_path, text):
    path = tmp_path / TRANSFERABILITY_NAME
    if text is not None:
        path.write_text(text)
    assert Transferability.read(path) is None


def test_the_parts_that_apply():
    assert FOUND.parts == {"weight": 0.5, "performance": 0.625, "log_me": -0.25}
    assert Transferability(0.25).parts == {"weight": 0.25}


def test_in_words():
    assert str(FOUND) == (
        "ω_t = 0.500 (f1 0.625, LogME -0.250; 1,234 samples of the train data, 2.5 s); no LEEP: "
        "the checkpoint is of BertModel, which has no head that predicts classes or tokens"
    )
    assert str(Transferability(0.25)) == "ω_t = 0.250, as set"
    nothing = Transferability(0.5, split="eval", left_out={"performance": "no labels"})
    assert "nothing applies; 0 samples of the eval data" in str(nothing) and "no performance: no labels" in str(
        nothing
    )
