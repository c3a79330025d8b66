from __future__ import annotations

import pytest
import report_runs

from hf_iomt.report import read_run
from hf_iomt.report.transferability_parts import describe_transferability, transferability_parts
from hf_iomt.transferability import transferability_weight

HISTORY = [report_runs.cycle("adam:lr=0.01", 1, 4)]


def run_with(tmp_path, found, beta=0.5):
    return read_run(report_runs.write(tmp_path, HISTORY, [], {"settings": {"iomt_beta": beta}}, found))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("performance", "metrics"),
    [
        (0.6, {"log_me": -0.7, "leep": -1.2}),
        (0.6, {}),
        (None, {"log_me": -0.7, "h_score": 800.0}),
        (0.2, {"leep": -900.0}),
    ],
)
def test_the_weighted_parts_add_up_to_the_weight(tmp_path, beta, performance, metrics):
    weight = transferability_weight(performance, list(metrics.values()), beta)
    found = {"weight": weight, "performance": performance, **metrics, "split": "train", "samples": 3}
    *parts, own = transferability_parts(run_with(tmp_path, found, beta))
    assert sum(part.weight * part.scaled for part in parts) == pytest.approx(weight)
    assert (own.title, own.value, own.weight) == ("ω_t", weight, None)


def test_titles(tmp_path):
    parts = transferability_parts(run_with(tmp_path, report_runs.TRANSFERABLE))
    assert [part.title for part in parts] == ["ω_p, accuracy", "LogME", "ω_t"]


def test_sentences(tmp_path):
    assert describe_transferability(run_with(tmp_path, report_runs.TRANSFERABLE)) == [
        "ω_t = 0.452, measured on 192 samples of the train data.",
        "LEEP is left out: the checkpoint has no head.",
    ]
    assert describe_transferability(run_with(tmp_path, {"weight": 0.3, "split": None})) == ["ω_t was set to 0.3."]


def test_nothing_known(tmp_path):
    run = read_run(report_runs.write(tmp_path, HISTORY))
    assert transferability_parts(run) == []
    assert "ω_t is not known" in describe_transferability(run)[0]
