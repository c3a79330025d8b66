from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_iomt.selection.acquisition import gain, transferability_aware, upper_confidence, variance_weight

UNIT = st.floats(min_value=0, max_value=1)
PREDICTIONS = st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5)), min_size=1, max_size=8)


def columns(predictions):
    return np.array([mean for mean, _ in predictions]), np.array([std for _, std in predictions])


@given(PREDICTIONS, st.floats(-3, 3))
def test_upper_confidence_is_equation_4(predictions, alpha):
    expected = [mean + alpha * std for mean, std in predictions]
    np.testing.assert_allclose(upper_confidence(*columns(predictions), alpha), expected, rtol=1e-12, atol=1e-12)


@given(PREDICTIONS, UNIT)
def test_transferability_aware_is_equation_5(predictions, transferability):
    expected = [mean + (1 - transferability) * std for mean, std in predictions]
    result = transferability_aware(*columns(predictions), transferability)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


@given(PREDICTIONS, st.integers(0, 500), st.integers(1, 60), UNIT)
def test_gain_as_printed_is_equation_7(predictions, cycle, period, transferability):
    expected = []
    for mean, std in predictions:
        weight = 1 - 2 ** (-math.floor(cycle / period)) * transferability
        expected.append(1 / (1 + math.exp(-(mean + weight * std))))
    weight = variance_weight(cycle, period, transferability, "printed")
    np.testing.assert_allclose(gain(*columns(predictions), weight), expected, rtol=1e-10)


@given(PREDICTIONS, st.integers(0, 500), st.integers(1, 60), UNIT)
def test_gain_by_the_text_halves_the_weight_of_equation_5(predictions, cycle, period, transferability):
    expected = []
    for mean, std in predictions:
        weight = 1 - transferability
        for _ in range(math.floor(cycle / period)):
            weight /= 2
        expected.append(1 / (1 + math.exp(-(mean + weight * std))))
    weight = variance_weight(cycle, period, transferability, "text")
    np.testing.assert_allclose(gain(*columns(predictions), weight), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "cycle, text, printed", [(0, 0.75, 0.75), (19, 0.75, 0.75), (20, 0.375, 0.875), (40, 0.1875, 0.9375)]
)
def test_variance_weight_changes_at_full_periods(cycle, text, printed):
    assert variance_weight(cycle, 20, 0.25, "text") == text
    assert variance_weight(cycle, 20, 0.25, "printed") == printed


@pytest.mark.parametrize("reading", ["text", "printed"])
@pytest.mark.parametrize("cycle", [0, 1, 1000])
def test_without_halving_the_weight_is_that_of_equation_5(reading, cycle):
    assert variance_weight(cycle, 0, 0.3, reading) == pytest.approx(0.7)


@given(st.integers(0, 10**7), st.integers(0, 100), UNIT, st.sampled_from(["text", "printed"]))
def test_variance_weight_stays_in_its_interval(cycle, period, transferability, reading):
    assert 0.0 <= variance_weight(cycle, period, transferability, reading) <= 1.0


def test_the_two_readings_end_at_opposite_weights():
    assert variance_weight(10**6, 1, 0.5, "text") == 0.0
    assert variance_weight(10**6, 1, 0.5, "printed") == 1.0


def test_gain_of_extreme_predictions_is_finite_and_silent():
    mean = np.array([-1e308, -1e4, 0.0, 1e4, 1e308])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = gain(mean, np.zeros(5), 1.0)
    np.testing.assert_allclose(result, [0.0, 0.0, 0.5, 1.0, 1.0], atol=1e-300)


def test_gain_keeps_the_order_of_its_argument():
    mean = np.linspace(-3, 3, 50)
    assert np.all(np.diff(gain(mean, np.zeros(50), 0.5)) > 0)
    assert np.all(np.diff(gain(np.zeros(50), np.linspace(0, 3, 50), 0.5)) > 0)
