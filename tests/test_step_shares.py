from __future__ import annotations

import re

import pytest

from hf_iomt.optim import Candidate, parse_candidates
from hf_iomt.selection import CycleRecord
from hf_iomt.step_shares import format_shares, metric_label, share_metrics

# What TensorBoard, W&B (without nesting) and MLflow take as it is.
SAFE = re.compile(r"[A-Za-z0-9_-]+")


def make_record(candidate, first_step, last_step):
    return CycleRecord(0, first_step, last_step, candidate.name, candidate.family, 0.1, "initial")


@pytest.mark.parametrize(
    "rate, text",
    [(0.01, "1e-2"), (2.5e-4, "25e-5"), (1.0, "1e0"), (30.0, "3e1"), (1e-12, "1e-12"), (1e15, "1e15")],
)
def test_a_label_has_the_learning_rate_without_a_dot(rate, text):
    label = metric_label(3, Candidate("adam", (("lr", rate),)), 5)
    assert label == f"3_adam_{text}"
    assert float(label.split("_")[-1]) == rate


def test_a_rate_of_many_digits_is_rounded():
    assert metric_label(0, Candidate("adam", (("lr", 0.1 + 0.2),)), 1) == "0_adam_3e-1"
    assert metric_label(0, Candidate("adam", (("lr", 1 / 3000),)), 1) == "0_adam_3333e-7"


def test_labels_sort_as_the_candidates():
    candidates = parse_candidates("sgd:lr=0.1|0.01|1e-3|1e-4; adam:lr=0.1|0.01|1e-3|1e-4|1e-5|1e-6|1e-7")
    labels = [metric_label(index, candidate, len(candidates)) for index, candidate in enumerate(candidates)]
    assert len(labels) == 11 and labels == sorted(labels) and labels[0] == "00_sgd_1e-1"


@pytest.mark.parametrize("family", ["my optimizer (v2)", "a.b/c", "ω", "x" * 500, ""])
def test_a_label_of_any_family_is_short_and_has_safe_characters_only(family):
    label = metric_label(0, Candidate(family, (("lr", 0.01),)), 1)
    assert SAFE.fullmatch(label) and len(label) <= 60


def test_candidates_that_differ_in_other_settings_have_labels_of_their_own():
    candidates = parse_candidates("adam:lr=0.01,eps=1e-8|1e-6")
    assert [metric_label(i, item, 2) for i, item in enumerate(candidates)] == ["0_adam_1e-2", "1_adam_1e-2"]


class TestShares:
    CANDIDATES = parse_candidates("sgd:lr=0.1; adam:lr=0.01; adam:lr=0.001")

    def test_they_count_steps(self):
        sgd, adam, _ = self.CANDIDATES
        records = [make_record(sgd, 1, 4), make_record(adam, 5, 5), make_record(sgd, 6, 8)]
        assert share_metrics(records, self.CANDIDATES, 8) == {
            "iomt/share/0_sgd_1e-1": 7 / 8,
            "iomt/share/1_adam_1e-2": 1 / 8,
        }

    def test_a_cycle_that_has_begun_without_a_step_has_no_share(self):
        sgd, adam, _ = self.CANDIDATES
        records = [make_record(sgd, 1, 4), make_record(adam, 5, 5)]
        assert share_metrics(records, self.CANDIDATES, 4) == {"iomt/share/0_sgd_1e-1": 1.0}

    def test_a_run_that_goes_on_from_weights_counts_its_own_steps(self):
        sgd, adam, _ = self.CANDIDATES
        records = [make_record(sgd, 101, 103), make_record(adam, 104, 104)]
        assert list(share_metrics(records, self.CANDIDATES, 104).values()) == [0.75, 0.25]

    def test_none_without_steps(self):
        assert share_metrics([], self.CANDIDATES, 0) == {}
        assert share_metrics([make_record(self.CANDIDATES[0], 1, 1)], self.CANDIDATES, 0) == {}

    def test_in_words_the_largest_comes_first(self):
        history = [
            {"candidate": "a", "first_step": 1, "last_step": 2},
            {"candidate": "b", "first_step": 3, "last_step": 5},
        ]
        assert format_shares(history) == "b 60%, a 40%"
