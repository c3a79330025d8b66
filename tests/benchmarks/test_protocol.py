"""Statistics of the comparison, against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.protocol import (
    PROFILE_RATIOS,
    find_target,
    mean_paired_difference,
    median_time,
    paired_difference,
    performance_profile,
    time_to_target,
    tuned,
    values,
)
from benchmarks.search import quality, summed


def run(validation, test=0.5, curve=(), metric="accuracy"):
    points = [{"step": step, "processor_seconds": step / 10, metric: value} for step, value in curve]
    return {"validation": {metric: validation}, "test": {metric: test}, "curve": points}


def test_the_test_split_has_no_say_in_tuning():
    runs = {
        "good on test": {0: run(0.6, test=0.9), 1: run(0.6, test=0.9)},
        "good on validation": {0: run(0.7, test=0.1), 1: run(0.7, test=0.1)},
        "one lucky seed": {0: run(0.99)},
        "broken": {0: run(None), 1: run(0.99)},
    }
    assert tuned(list(runs), runs, "accuracy") == "good on validation"
    assert tuned(["absent"], runs, "accuracy") is None


def test_a_lower_perplexity_is_better():
    runs = {name: {0: run(value, metric="perplexity")} for name, value in {"low": 3.0, "high": 9.0}.items()}
    assert tuned(["high", "low"], runs, "perplexity") == "low"
    assert quality({"perplexity": None}, "perplexity") == -math.inf


def test_differences_are_paired_by_seed():
    ones, others = {0: 1.0, 1: 2.0, 2: 6.0, 9: 100.0}, {0: 0.5, 1: 1.5, 2: 5.5, 3: 0.0}
    # The same difference for each seed leaves no doubt, however much the seeds differ.
    assert paired_difference(ones, others) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = paired_difference({0: 0.0, 1: 1.0, 2: 2.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    # Of 27 equally likely samples one has the least and one the largest value only: more than 2.5 % each. These lie
    # further out than 0 and 2, as the deviation of three values is larger than the root of their mean square.
    assert (mean, low, high) == pytest.approx((1.0, 1 - 1.5**0.5, 1 + 1.5**0.5))
    assert math.isnan(paired_difference({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0})[1])
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    # A run that has diverged is not left out.
    assert all(map(math.isnan, paired_difference({0: 1.0, 1: math.nan}, {0: 0.0, 1: 0.0})))
    assert math.isnan(values({0: run(0.1, test=None)}, "test", "accuracy")[0])


def test_intervals_are_as_wide_as_the_standard_error_says():
    draw = np.random.default_rng(0)
    ones = dict(enumerate(draw.normal(size=200)))
    mean, low, high = paired_difference(ones, dict.fromkeys(ones, 0.0))
    error = np.std(list(ones.values()), ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)


def test_experiments_count_as_much_however_many_seeds_they_have():
    three, five = {seed: float(seed) for seed in range(3)}, {seed: float(seed) for seed in range(5)}
    pairs = [(three, {seed: value - 0.2 for seed, value in three.items()}), (five, {seed: 0.0 for seed in five})]
    mean, low, high = mean_paired_difference(pairs)
    assert mean == pytest.approx((0.2 + 2.0) / 2)
    # Only the seeds of the second differ: half of the interval that it has alone, around the mean of both.
    alone = paired_difference(*pairs[1])
    assert (low, high) == pytest.approx([(0.2 + end) / 2 for end in alone[1:]], abs=0.05)
    # No interval where one of them has too few seeds, nothing where it has none.
    assert all(map(math.isnan, mean_paired_difference([*pairs, ({0: 1.0}, {0: 0.0})])[1:]))
    assert mean_paired_difference([*pairs, ({0: 1.0}, {})]) is None
    assert mean_paired_difference([]) is None


def test_time_to_target():
    runs = {
        0: run(0.8, curve=[(10, 0.5), (20, 0.8), (30, 0.7)]),
        1: run(0.9, curve=[(10, 0.85)]),
        2: run(0.7, curve=[(10, 0.1)]),
    }
    target = find_target(runs, "accuracy")
    assert target == 0.8
    assert time_to_target(runs[0], target, "accuracy") == 2.0
    assert time_to_target(runs[0], target, "accuracy", clock="step") == 20
    assert time_to_target(runs[2], target, "accuracy") == math.inf
    assert median_time(runs, target, "accuracy") == 2.0


def test_performance_profile():
    times = {"a": {"x": 1.0, "y": 4.0, "z": math.inf}, "b": {"x": 2.0, "y": 2.0, "z": math.inf}}
    profile = performance_profile(times)

    def at(name, ratio):
        return profile[name][np.argmin(np.abs(PROFILE_RATIOS - ratio))]

    # A task that nobody solves is solved by nobody.
    assert [at("a", ratio) for ratio in (1, 1.95, 2, 4)] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert [at("b", ratio) for ratio in (1, 1.95, 2, 4)] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_a_search_is_on_the_clock_of_all_its_runs():
    runs = [
        {
            "candidate": name,
            "steps": 10,
            "seconds": {"total": 5.0, "training": 5.0},
            "processor_seconds": 4.0,
            "curve": [{"step": 10, "seconds": 5.0, "processor_seconds": 4.0}],
            "validation": {},
        }
        for name in "abc"
    ]
    found = summed(runs[1], runs)
    assert found["candidate"] == "b" and found["steps"] == 30
    assert found["seconds"] == {"total": 15.0, "training": 5.0, "selection": 10.0} and found["processor_seconds"] == 12
    # Any of them could be kept.
    assert [tuple(point.values()) for point in found["curve"]] == [(10, 5, 4), (20, 10, 8), (30, 15, 12)]
