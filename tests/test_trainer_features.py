"""What of Trainer works while optimizers are interleaved, and what is refused: one row for each feature."""

from __future__ import annotations

from pathlib import Path

import pytest

# These fill the table.
from features import optimization, precision, runs, stopping  # noqa: F401
from features.rows import ROWS
from transformers.trainer_utils import SchedulerType

PAGE = Path(__file__).parent.parent / "docs" / "features.md"
# Features that other files test, with the verdict and the place of the test.
ELSEWHERE = {
    "resume_from_checkpoint": ("works", "test_checkpoint.py::test_killed_at_random"),
    "fp16, steps that the gradient scaler leaves out": ("works", "test_overflow.py::test_no_candidate_is_penalised"),
    "a create_scheduler of one's own": (
        "works",
        "test_race_schedule.py::test_a_trainer_that_builds_its_schedule_itself_races",
    ),
    "DDP, by torchrun or accelerate launch": ("works", "test_distributed.py::test_resumes_exactly"),
    "FSDP2, by fsdp=True or accelerate launch": ("works", "test_distributed.py::test_resumes_exactly"),
    "FSDP1, DeepSpeed, FSDP of XLA": ("refused", "test_distributed.py::test_what_is_refused"),
    "tensor, context and sequence parallelism": ("refused", "test_distributed.py::test_what_is_refused"),
}


def test_every_schedule_has_a_row():
    assert set(optimization.SCHEDULES) == {item.value for item in SchedulerType}


def documented_rows():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")][2:]
    return {cells[0].replace("`", "").strip(): cells[1].strip() for cells in rows}


def test_the_documentation_shows_these_rows():
    expected = {name: verdict for name, (verdict, _) in {**ROWS, **ELSEWHERE}.items()}
    assert documented_rows() == expected


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_tests_are_there(name):
    file, _, test = ELSEWHERE[name][1].partition("::")
    assert f"\ndef {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_feature(name, tmp_path):
    ROWS[name][1](tmp_path)
