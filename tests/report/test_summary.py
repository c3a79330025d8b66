from __future__ import annotations

import math

import pytest
import report_runs

from hf_iomt.report import read_run, summarize_run
from hf_iomt.report.summary import format_value

A, B, C = "adam:lr=0.001", "sgdm:lr=0.1", "rmsprop:lr=0.01"


def sentences(tmp_path, history, logs=(), **files):
    return summarize_run(read_run(report_runs.write(tmp_path, history, list(logs), **files)))


def test_who_made_the_steps_and_what_was_undone(tmp_path):
    history = [
        report_runs.cycle(B, 1, 62),
        report_runs.cycle(A, 63, 80, rolled_back=True),
        report_runs.cycle(C, 81, 100),
    ]
    found = sentences(tmp_path, history)
    assert found[0] == "The run made 100 steps in three cycles, with two switches."
    assert found[1] == "SGDM at 0.1 did 62 % of the steps, RMSprop at 0.01 20 % and Adam at 1e-3 18 %."
    assert found[2] == "One cycle was rolled back."


def test_several_cycles_undone(tmp_path):
    history = [
        report_runs.cycle(candidate, first, first + 9, rolled_back=first != 1)
        for candidate, first in ((B, 1), (A, 11), (A, 21), (A, 31), (C, 41))
    ]
    assert "Four cycles were rolled back, 3 of Adam at 1e-3." in sentences(tmp_path, history)


def test_candidates_beyond_the_third_are_counted(tmp_path):
    history = [
        report_runs.cycle(name, 25 * index + 1, 25 * index + 25) for index, name in enumerate(report_runs.PAPER[:4])
    ]
    assert sentences(tmp_path, history)[1].endswith("Adam at 0.1 25 % and one other candidate 25 %.")


def test_one_candidate(tmp_path):
    found = sentences(tmp_path, [report_runs.cycle(A, 1, 25), report_runs.cycle(A, 26, 50)])
    assert found[0] == "The run made 50 steps in two cycles, with no switches."
    assert found[1:3] == ["Adam at 1e-3 did all the steps.", "No cycle was rolled back."]
    assert (
        "There are no predictions of the surrogate to look at: there is one candidate, and nothing to choose." in found
    )


def test_a_race(tmp_path):
    history = [
        report_runs.cycle(A, 1, 5, phase="race"),
        report_runs.cycle(B, 6, 10, phase="race", rolled_back=True),
        report_runs.cycle(C, 11, 12, phase="race", rolled_back=True),
        report_runs.cycle(A, 13, 40),
    ]
    assert sentences(tmp_path, history)[0] == (
        "The run made 40 steps: a race of 12 steps among three candidates, of which two did damage and were out, then "
        "one cycle, with three switches in all."
    )


class TestLosses:
    HISTORY = (report_runs.cycle(A, 1, 100),)

    def test_from_and_to(self, tmp_path):
        logs = [{"step": step, "loss": 2 - step / 100} for step in range(1, 101)]
        medians = "(the medians of the first and the last tenth of what was logged)"
        assert f"The training loss fell from 1.945 to 1.045 {medians}." in sentences(tmp_path, self.HISTORY, logs)

    def test_few_of_them(self, tmp_path):
        logs = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.75}]
        assert "The training loss rose from 0.500 to 0.750." in sentences(tmp_path, self.HISTORY, logs)

    def test_the_same(self, tmp_path):
        assert "The training loss stayed at 0.500." in sentences(tmp_path, self.HISTORY, [{"step": 1, "loss": 0.5}])

    def test_not_finite(self, tmp_path):
        logs = [{"step": step, "loss": math.nan if step == 2 else 1 / step} for step in (1, 2, 4)]
        found = sentences(tmp_path, self.HISTORY, logs)
        assert "The training loss fell from 1.000 to 0.250. One logged loss was not finite." in found
        logs = [{"step": step, "loss": math.inf} for step in (1, 2)]
        assert "Two logged losses were not finite." in sentences(tmp_path / "all", self.HISTORY, logs)

    def test_none(self, tmp_path):
        found = sentences(tmp_path, self.HISTORY)
        assert "No training loss was logged." in found and "There was no evaluation." in found

    def test_evaluations(self, tmp_path):
        logs = [
            {"step": 50, "eval_macro_f1": 0.8, "eval_loss": 0.2},
            {"step": 100, "eval_macro_f1": 0.9, "eval_loss": 0.3},
        ]
        found = sentences(tmp_path, self.HISTORY, logs)
        assert "The last evaluation, at step 100: loss 0.300, macro f1 0.900." in found
        assert "The least evaluation loss was 0.200, at step 50." in found


def test_the_range_test(tmp_path):
    logs = [{"step": 0, "iomt/range_test/learning_rate": 0.0025}]
    cycles = [report_runs.cycle(A, 1, 5)]
    assert "The range test found 2.5e-3 to be the learning rate." in sentences(tmp_path, cycles, logs)
    for left_out, named in ((0.0, "no candidate"), (1.0, "one candidate"), (9.0, "nine candidates")):
        logs[0]["iomt/range_test/left_out"] = left_out
        assert (
            f"The range test found 2.5e-3 to be the learning rate of AdamW, and left out {named} whose steps are far "
            "too large or small by it." in sentences(tmp_path, cycles, logs)
        )


def test_time(tmp_path):
    record = {"seconds": {"training": 90.0, "selection": 8.0, "assessment": 2.0, "total": 100.0}}
    found = sentences(tmp_path, [report_runs.cycle(A, 1, 5)], record=record)
    assert "It took 1 min 40 s: 90 % for training, 8 % for choosing and judging, 2 % for measuring ω_t." in found


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.123"), (0, "0.000"), (1234.5, "1.23e+03"), (0.0012, "0.0012"), (math.nan, "not finite")],
)
def test_values(value, text):
    assert format_value(value) == text
