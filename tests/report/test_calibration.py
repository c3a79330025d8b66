from __future__ import annotations

import math
import random

import pytest
import report_runs

from hf_iomt.report import Calibration, Prediction, calibrate, predictions, read_run
from hf_iomt.report.calibration import why_none

A, B = "adam:lr=0.01", "sgdm:lr=0.1"


def items(means, scores, std=0.1):
    return [
        Prediction(index, A, mean, std, score) for index, (mean, score) in enumerate(zip(means, scores, strict=True))
    ]


def rank_correlation(first, second):
    """Spearman's, by its definition for values without ties."""
    ranks = [[sorted(values).index(value) for value in values] for values in (first, second)]
    count = len(first)
    squares = sum((a - b) ** 2 for a, b in zip(*ranks, strict=True))
    return 1 - 6 * squares / (count * (count**2 - 1))


def test_predictions_are_the_cycles_with_both(tmp_path):
    known = {"predicted_mean": 0.1, "predicted_std": 0.2}
    history = [
        report_runs.cycle(A, 1, 2, phase="race"),
        report_runs.cycle(A, 3, 4, phase="initial"),
        report_runs.cycle(B, 5, 6, **known),
        report_runs.cycle(A, 7, 8, **known, score=-1.0, rolled_back=True),
        report_runs.cycle(A, 9, 10, **known, score=None),
    ]
    assert predictions(read_run(report_runs.write(tmp_path, history))) == [
        Prediction(2, B, 0.1, 0.2, 0.1),
        Prediction(3, A, 0.1, 0.2, -1.0, rolled_back=True),
    ]


def test_coverage_counts_the_scores_within_two_standard_deviations():
    found = calibrate(items([0, 0, 0, 1], [0.19, -0.2, 0.21, 0.7]))
    assert (found.count, found.coverage) == (4, 0.5)


def test_rank_correlation_by_hand():
    assert calibrate(items([1, 2, 3, 4], [1, 3, 2, 4])).correlation == pytest.approx(0.8)
    assert calibrate(items([1, 2, 3], [9, 5, 1])).correlation == pytest.approx(-1)


def test_rank_correlation_by_its_definition():
    chance = random.Random(4)
    means, scores = [[chance.random() for _ in range(30)] for _ in range(2)]
    assert calibrate(items(means, scores)).correlation == pytest.approx(rank_correlation(means, scores))


def test_what_cannot_be_ranked_has_no_correlation():
    assert calibrate(items([1, 1, 1], [1, 2, 3])) == Calibration(3, 1 / 3)
    assert calibrate(items([1, 2], [1, 2])).correlation is None
    assert calibrate([]) == Calibration(0)


def test_a_surrogate_that_knows_its_limits_covers_as_it_should():
    chance = random.Random(2)
    means = [chance.gauss(0, 0.1) for _ in range(4000)]
    found = calibrate(items(means, [chance.gauss(mean, 0.1) for mean in means]))
    assert found.coverage == pytest.approx(0.954, abs=0.012)
    assert found.correlation > 0.5 and found.p_value < 1e-6


class TestVerdict:
    @pytest.mark.parametrize(
        ("calibration", "text"),
        [
            (Calibration(0), "There are no predictions."),
            (Calibration(3, 1.0, 0.5, 0.7), "These are too few to judge it."),
            (Calibration(20, 0.9, 0.1, 0.6), "nothing shows that it knew which cycles would do well."),
            (Calibration(20, 0.9, 0.6, 0.01), "it knew part of the order in which cycles do well."),
            (Calibration(20, 0.9, -0.6, 0.01), "it was misled, for cycles did worse where it expected more."),
            (Calibration(20, 0.9), "do not vary, so there is no rank correlation."),
        ],
    )
    def test_says_what_to_conclude(self, calibration, text):
        assert text in calibration.verdict

    def test_has_the_numbers(self):
        assert Calibration(40, 0.925, 0.351, 0.0234).verdict.startswith(
            "92 % of 40 scores lie within 2σ of what the surrogate predicted (95 % would be right); the rank "
            "correlation is 0.35 (p = 0.023): "
        )


@pytest.mark.parametrize("count", [9, 40, 2000])
def test_too_sure_is_what_chance_does_not_explain(count):
    # The normal approximation; what is near its limit is not asked for.
    deviation = math.sqrt(0.954 * 0.046 / count)
    assert Calibration(count, 0.954 - 4 * deviation).overconfident
    assert not Calibration(count, 0.954).overconfident and not Calibration(0).overconfident
    assert "so it was too sure" in Calibration(count, 0.5).verdict


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ([report_runs.cycle(A, 1, 2)], "there is one candidate, and nothing to choose"),
        ([report_runs.cycle(item, 1, 2, phase="random") for item in (A, B)], "the choice was random"),
        ([report_runs.cycle(item, 1, 2, phase="race") for item in (A, B)], "training ended before it chose a cycle"),
        (
            [report_runs.cycle(A, 1, 2, phase="initial"), report_runs.cycle(B, 3, 4, score=None)],
            "training ended within the first cycle that it chose",
        ),
    ],
)
def test_why_there_are_none(tmp_path, history, reason):
    run = read_run(report_runs.write(tmp_path, history))
    assert predictions(run) == [] and why_none(run) == reason


def test_predictions_that_are_not_finite_are_none(tmp_path):
    history = [report_runs.cycle(A, 1, 2, predicted_mean=math.nan, predicted_std=0.1)]
    assert predictions(read_run(report_runs.write(tmp_path, history))) == []
