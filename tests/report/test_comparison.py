from __future__ import annotations

from pathlib import Path

import pytest
import report_runs

from hf_iomt.report import Run, read_run
from hf_iomt.report.comparison import label_names, metrics_table, run_names, shared_metric

A = "adam:lr=0.01"


def at(*paths):
    return [Run(Path(path), [report_runs.cycle(A, 1, 2)], []) for path in paths]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/run", "/y/run", "/y/other"], ["x/run", "y/run", "other"]),
        (["/p/x/run", "/q/x/run"], ["p/x/run", "q/x/run"]),
        (["/x/a/checkpoint-10", "/x/a"], ["a/checkpoint-10", "a"]),
        (["/x/a", "/x/a"], ["/x/a (1)", "/x/a (2)"]),
    ],
)
def test_runs_have_different_names(paths, names):
    assert run_names(at(*paths)) == names


def test_long_names_keep_their_end_and_have_a_number():
    labels = label_names(["short", "runs/of/monday/first", "runs/of/monday/second"], 12)
    assert labels == ["short", "2. …ay/first", "3. …y/second"] and max(map(len, labels)) == 12


def test_table_has_the_last_value_of_every_metric(tmp_path):
    first = [{"step": 2, "eval_loss": 2.0}, {"step": 4, "eval_loss": 1.0, "eval_macro_f1": 0.5}]
    record = {"seconds": {"training": 8.0, "selection": 1.5, "assessment": 0.5, "total": 10.0}}
    history = [report_runs.cycle(A, 1, 2, phase="race"), report_runs.cycle(A, 3, 4, rolled_back=True)]
    runs = [
        read_run(report_runs.write(tmp_path / "a", history, first, record)),
        read_run(report_runs.write(tmp_path / "b", history[:1], [{"step": 2, "eval_accuracy": 0.25}])),
    ]
    titles, rows = metrics_table(runs, ["a", "b"])
    assert titles == ["run", "steps", "cycles", "rolled back", "seconds", "loss", "macro f1", "accuracy"]
    assert rows == [["a", 4, 1, 1, 10.0, 1.0, 0.5, None], ["b", 2, 0, 0, None, None, None, 0.25]]


def test_the_metric_that_most_share():
    def run(**metrics):
        return Run(Path("x"), [report_runs.cycle(A, 1, 2)], [{"step": 1, **metrics}])

    runs = [run(eval_f1=1.0, eval_loss=1.0), run(eval_accuracy=1.0, eval_loss=1.0), run(eval_accuracy=0.5)]
    assert shared_metric(runs) == "accuracy"
    assert shared_metric([run(eval_loss=1.0)]) is None
