from __future__ import annotations

import numpy as np
import pytest
import report_runs

from hf_iomt.report import candidate_shares, read_run
from hf_iomt.report.shares import cumulative_shares

A, B, C = "adam:lr=0.01", "sgdm:lr=0.1", "sgd:lr=1"


@pytest.fixture
def run(tmp_path):
    history = [
        report_runs.cycle(A, 1, 2, phase="race", score=0.9),
        report_runs.cycle(B, 3, 4, phase="race"),
        report_runs.cycle(B, 5, 10, score=0.2),
        report_runs.cycle(B, 11, 16, score=-1.0, rolled_back=True),
        report_runs.cycle(A, 17, 20, score=None),
    ]
    return read_run(report_runs.write(tmp_path, history, record={"candidates": [A, B, C]}))


def test_rows(run):
    rows = candidate_shares(run)
    assert [(row.candidate, row.name, row.steps, row.share) for row in rows] == [
        (B, "sgdm · 0.1", 14, 0.7),
        (A, "adam · 0.01", 6, 0.3),
        (C, "sgd · 1", 0, 0.0),
    ]
    # The race is no cycle, and its scores are no scores of cycles.
    assert [(row.cycles, row.rolled_back, row.mean_score) for row in rows] == [
        (2, 1, pytest.approx(-0.4)),
        (1, 0, None),
        (0, 0, None),
    ]


def test_shares_so_far(run):
    steps, shares = cumulative_shares(run)
    assert steps.tolist() == [2, 4, 10, 16, 20]
    assert list(shares) == [A, B]
    assert shares[A].tolist() == pytest.approx([1, 2 / 4, 2 / 10, 2 / 16, 6 / 20])
    assert shares[B].tolist() == pytest.approx([0, 2 / 4, 8 / 10, 14 / 16, 14 / 20])


def test_shares_of_a_resumed_selection_count_from_its_first_step(tmp_path):
    # A run that went on from weights alone: its history begins later.
    history = [report_runs.cycle(A, 21, 30), report_runs.cycle(B, 31, 40)]
    run = read_run(report_runs.write(tmp_path, history))
    assert [row.share for row in candidate_shares(run)] == [0.5, 0.5]
    assert cumulative_shares(run)[1][A].tolist() == [1, 0.5]


def test_shares_add_up_in_a_long_run(tmp_path):
    run = read_run(report_runs.long_run(tmp_path, 40))
    assert sum(row.share for row in candidate_shares(run)) == pytest.approx(1)
    assert np.allclose(sum(cumulative_shares(run)[1].values()), 1)
