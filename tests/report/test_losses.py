from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
import report_runs

from hf_iomt.report import read_run
from hf_iomt.report.losses import evaluations, final_metrics, smooth, split_evaluations, thin_out, training_losses

A = "adam:lr=0.01"


def run_with(tmp_path, logs, record=None):
    return read_run(report_runs.write(tmp_path, [report_runs.cycle(A, 1, 40)], logs, record))


def test_training_losses_also_those_that_are_no_numbers(tmp_path):
    logs = [
        {"step": 0, "iomt/transferability/weight": 0.5},
        {"step": 5, "loss": 2.0, "grad_norm": 1.0},
        {"step": 10, "loss": math.nan},
        {"step": 10, "eval_loss": 9.0},
        {"step": 15, "loss": math.inf},
        {"step": 15, "train_loss": 1.0, "train_runtime": 3.0},
    ]
    losses = training_losses(run_with(tmp_path, logs))
    assert losses[0] == (5, 2.0) and losses[2] == (15, math.inf)
    assert losses[1][0] == 10 and math.isnan(losses[1][1]) and len(losses) == 3


def test_evaluations_by_metric_without_times(tmp_path):
    logs = [
        {"step": 10, "eval_loss": 1.0, "eval_accuracy": 0.5, "eval_runtime": 1, "eval_samples_per_second": 3},
        {"step": 20, "eval_loss": 0.9, "eval_accuracy": 0.6, "eval_steps_per_second": 3, "eval_name": "text"},
        # The same step once more, after training.
        {"step": 20, "eval_loss": 0.8, "eval_accuracy": 0.7},
    ]
    run = run_with(tmp_path, logs)
    assert evaluations(run) == {"loss": [(10, 1.0), (20, 0.8)], "accuracy": [(10, 0.5), (20, 0.7)]}
    assert final_metrics(run) == {"loss": 0.8, "accuracy": 0.7}


def test_losses_of_several_data_sets_and_the_metric_that_chooses_first(tmp_path):
    logs = [{"step": 1, "eval_a_loss": 1.0, "eval_accuracy": 0.1, "eval_b_loss": 2.0, "eval_a_f1": 0.3}]
    losses, others = split_evaluations(run_with(tmp_path, logs, {"arguments": {"metric_for_best_model": "eval_a_f1"}}))
    assert list(losses) == ["a_loss", "b_loss"] and list(others) == ["a_f1", "accuracy"]
    assert list(split_evaluations(run_with(tmp_path / "other", logs))[1]) == ["accuracy", "a_f1"]


class TestSmooth:
    def test_keeps_a_line(self):
        line = [3.0 - 0.01 * index for index in range(200)]
        middle = slice(20, -20)
        assert smooth(line)[middle].tolist() == pytest.approx(line[middle])

    def test_is_the_moving_median_and_then_the_mean(self):
        chance = random.Random(1)
        values = [chance.random() for _ in range(60)]

        def moving(items, statistic):
            return [statistic(items[max(0, index - 1) : index + 2]) for index in range(len(items))]

        # A twentieth of 60 are 3 points.
        expected = moving(moving(values, statistics.median), statistics.fmean)
        assert smooth(values).tolist() == pytest.approx(expected)

    def test_takes_noise_away(self):
        chance = random.Random(0)
        truth = np.exp(-np.linspace(0, 2, 400))
        noisy = [value + chance.gauss(0, 0.1) for value in truth]
        assert np.abs(smooth(noisy) - truth).mean() < 0.4 * np.abs(np.array(noisy) - truth).mean()

    @pytest.mark.parametrize("jump", [1e9, math.inf, math.nan])
    def test_single_jumps_do_not_bend_it(self, jump):
        values = [1.0] * 30
        values[15] = jump
        assert smooth(values).tolist() == [1.0] * 30

    def test_nothing_finite_and_nothing_at_all(self):
        assert np.isnan(smooth([math.nan] * 5)).all() and len(smooth([])) == 0
        assert smooth([2.0]).tolist() == [2.0]


class TestThinOut:
    def test_few_stay(self):
        points = [(1, 2.0), (2, 3.0)]
        assert thin_out(points, 100) == points

    def test_peaks_stay(self):
        points = [(step, 0.0) for step in range(10_000)]
        points[777], points[4242] = (777, 5.0), (4242, -5.0)
        thinned = thin_out(points, 100)
        assert len(thinned) <= 100 and thinned == sorted(thinned)
        assert {(777, 5.0), (4242, -5.0)} <= set(thinned)

    def test_what_is_no_number_stays_in_order(self):
        points = [(step, math.nan if step % 3 else 1.0) for step in range(1000)]
        thinned = thin_out(points, 10)
        assert len(thinned) == 10 and [step for step, _ in thinned] == sorted(step for step, _ in thinned)
