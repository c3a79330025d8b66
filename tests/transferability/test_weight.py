from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_iomt.transferability import transferability_weight

SHARES = st.floats(0, 1)
METRICS = st.lists(st.floats(-1e300, 1e300), max_size=4)


def sigmoid(value):
    return 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))


@given(SHARES, st.lists(st.floats(-700, 700), min_size=1, max_size=4), SHARES)
def test_it_is_equation_6(performance, distribution, beta):
    mean = sum(sigmoid(metric) for metric in distribution) / len(distribution)
    expected = beta * performance + (1 - beta) * mean
    assert transferability_weight(performance, distribution, beta) == pytest.approx(expected, abs=1e-12)


@given(st.one_of(st.none(), SHARES), METRICS, SHARES)
def test_it_is_a_share(performance, distribution, beta):
    assert 0 <= transferability_weight(performance, distribution, beta) <= 1


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_what_does_not_apply_is_left_out(beta):
    assert transferability_weight(0.7, [], beta) == 0.7
    assert transferability_weight(None, [0.0, 0.0], beta) == 0.5
    assert transferability_weight(None, [math.log(3)], beta) == pytest.approx(0.75)
    assert transferability_weight(None, [], beta) == 0.5
