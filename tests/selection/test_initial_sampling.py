from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hf_iomt.selection.initial_sampling import InitialSampling


def draw_shares(sampling, families, draws=4000, seed=0):
    generator = np.random.default_rng(seed)
    counts = Counter(sampling.draw(families, generator) for _ in range(draws))
    return [counts[index] / draws for index in range(len(families))]


def test_every_weight_starts_at_one():
    assert InitialSampling(["sgd", "adam", "sgd"], 0.1).weights == {"sgd": 1.0, "adam": 1.0}


@given(st.floats(min_value=-1, max_value=1), st.floats(min_value=0, max_value=1))
@example(-1.0, 0.0)
@example(-1.0, 0.1)
@example(1.0, 0.1)
@example(0.0, 0.5)
def test_update_is_equation_3(score, min_weight):
    sampling = InitialSampling(["a", "b"], min_weight)
    sampling.update("a", score)
    expected = 0.5 * (score + 1)
    if expected < min_weight:
        expected = min_weight
    assert sampling.weights["a"] == pytest.approx(expected, abs=1e-15)
    assert sampling.weights["b"] == 1.0


def test_the_newest_score_replaces_the_one_before():
    sampling = InitialSampling(["a"], 0.1)
    sampling.update("a", 1.0)
    sampling.update("a", -0.5)
    assert sampling.weights["a"] == 0.25


def test_uniform_sampling_keeps_all_weights_at_one():
    sampling = InitialSampling(["a", "b"], 0.1, "uniform")
    sampling.update("a", -1.0)
    assert sampling.weights == {"a": 1.0, "b": 1.0}


def test_families_are_drawn_by_weight_and_their_candidates_with_equal_chance():
    # A family of three candidates is not three times as likely as a family of one.
    sampling = InitialSampling(["a", "b"], 0.1)
    sampling.update("a", -0.5)
    shares = draw_shares(sampling, ["a", "b", "a", "a"])
    expected = [0.2 / 3, 0.8, 0.2 / 3, 0.2 / 3]
    # Four standard deviations of 4000 draws.
    assert shares == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 4000))


def test_a_failed_family_is_never_drawn_without_a_least_weight():
    sampling = InitialSampling(["a", "b"], 0.0)
    sampling.update("a", -1.0)
    assert draw_shares(sampling, ["a", "b"], draws=200) == [0.0, 1.0]


def test_the_least_weight_keeps_a_failed_family_in_play():
    sampling = InitialSampling(["a", "b"], 0.25)
    sampling.update("a", -1.0)
    assert draw_shares(sampling, ["a", "b"])[0] == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 4000))


def test_when_every_family_failed_all_are_equally_likely():
    sampling = InitialSampling(["a", "b"], 0.0)
    sampling.update("a", -1.0)
    sampling.update("b", -1.0)
    assert draw_shares(sampling, ["a", "b"]) == pytest.approx([0.5, 0.5], abs=4 * np.sqrt(0.25 / 4000))


def test_draw_is_restricted_to_the_families_it_is_given():
    sampling = InitialSampling(["a", "b", "c"], 0.1)
    assert draw_shares(sampling, ["c", "b"], draws=2000) == pytest.approx([0.5, 0.5], abs=4 * np.sqrt(0.25 / 2000))


def test_draws_repeat_with_the_generators_seed():
    sampling = InitialSampling(["a", "b", "c"], 0.1)
    families = ["a", "a", "b", "c", "c"]

    def sequence(seed):
        generator = np.random.default_rng(seed)
        return [sampling.draw(families, generator) for _ in range(30)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)
