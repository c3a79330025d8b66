from __future__ import annotations

import pytest
import report_runs

from hf_iomt.report import read_run, time_parts
from hf_iomt.report.times import format_seconds

HISTORY = [report_runs.cycle("adam:lr=0.01", 1, 4, seconds=1.5), report_runs.cycle("sgd:lr=0.01", 5, 8, seconds=0.5)]
ASSESSED = {"weight": 0.5, "seconds": 3.0}
ENDED = [{"step": 8, "train_runtime": 20.0}]


def test_as_the_record_has_them(tmp_path):
    record = {"seconds": {"training": 10.0, "selection": 2.0, "assessment": 1.0, "total": 13.0}}
    run = read_run(report_runs.write(tmp_path, HISTORY, ENDED, record, ASSESSED))
    assert time_parts(run) == {"training": 10.0, "selection": 2.0, "assessment": 1.0}


def test_without_a_record_from_the_clock_of_the_trainer(tmp_path):
    run = read_run(report_runs.write(tmp_path, HISTORY, ENDED, None, ASSESSED))
    assert time_parts(run) == {"training": 15.0, "selection": 2.0, "assessment": 3.0}


def test_what_is_not_known_is_left_out(tmp_path):
    assert time_parts(read_run(report_runs.write(tmp_path, HISTORY))) == {"selection": 2.0, "assessment": 0.0}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (3.25, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3599.7, "1 h"),
        (7800, "2 h 10 min"),
    ],
)
def test_times_for_people(seconds, text):
    assert format_seconds(seconds) == text
