from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hf_iomt.selection import score
from hf_iomt.selection.scoring import relative_reduction

LARGE, SMALL, DENORMAL = 1e308, 1e-308, 5e-324

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.one_of(
    st.floats(min_value=1e-6, max_value=1e6),
    st.floats(min_value=DENORMAL, allow_nan=False, allow_infinity=False),
)
ALPHA = st.floats(min_value=-3, max_value=3)


def paper_reduction(before, after):
    # Exact fractions: the largest and the smallest floats neither overflow nor lose digits.
    return (Fraction(before) - Fraction(after)) / max(Fraction(after), Fraction(before))


def paper_score(losses, alpha):
    """Eq. 2 as printed, for positive losses l_0 … l_τ."""
    first, rest = losses[0], losses[1:]
    tau = len(rest)
    delta = [float(paper_reduction(losses[i - 1], losses[i])) for i in range(1, tau + 1)]
    mean = 0.0
    for value in delta:
        mean += value / tau
    variance = 0.0
    for value in delta:
        variance += (value - mean) ** 2 / tau
    upper = float(paper_reduction(first, max(rest)) / tau)
    lower = float(paper_reduction(first, min(rest)) / tau)
    return math.tanh((mean + upper + lower) / 3 + alpha * math.sqrt(variance))


@given(st.lists(POSITIVE, min_size=2, max_size=30), ALPHA)
@example([LARGE, SMALL, LARGE], 0.1)
@example([SMALL, LARGE], 0.1)
@example([DENORMAL, DENORMAL * 2], 0.1)
@example([1.7e308, 1.6e308, 1.79e308], 1.0)
@example([1.0, 1.0, 1.0], 1.0)
@example([2.0, 1.0, 0.5, 0.25], 1.0)
def test_score_of_positive_losses_is_the_papers_formula(losses, alpha):
    assert score(losses, alpha) == pytest.approx(paper_score(losses, alpha), rel=1e-9, abs=1e-12)


def test_score_of_a_hand_computed_cycle():
    # Δl = 0.5, −0.5, 0.75; μ = 0.25, σ² = (0.0625 + 0.5625 + 0.25)/3; Δ_UPPER = 0, Δ_LOWER = 0.75/3.
    sigma = math.sqrt(0.875 / 3)
    assert score([2.0, 1.0, 2.0, 0.5], 0.2) == pytest.approx(math.tanh((0.25 + 0.0 + 0.25) / 3 + 0.2 * sigma))


@given(st.lists(ANY_FLOAT, min_size=2, max_size=12), st.floats(min_value=-1e6, max_value=1e6))
@example([0.0, 0.0], 0.1)
@example([0.0, -0.0, 0.0], 0.1)
@example([LARGE, -LARGE, LARGE, -LARGE], 0.1)
@example([-LARGE, LARGE], -1.0)
@example([SMALL, -SMALL, DENORMAL], 0.1)
@example([math.nan, 1.0], 0.1)
@example([1.0, math.inf], 0.1)
def test_score_of_any_losses_is_finite_and_in_its_interval(losses, alpha):
    result = score(losses, alpha)
    assert isinstance(result, float)
    assert -1.0 <= result <= 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_score_is_least_where_a_loss_is_not_finite(bad, position):
    losses = [1.0, 0.5, 0.2, 0.1]
    losses[position] = bad
    assert score(losses, 0.1) == -1.0


@pytest.mark.parametrize("loss", [0.0, -0.0, 1.0, -1.0, LARGE, -LARGE, SMALL, DENORMAL])
def test_score_of_equal_losses_is_zero(loss):
    assert score([loss] * 6, 0.7) == 0.0


@given(st.lists(FINITE, min_size=2, max_size=12, unique=True))
def test_falling_losses_score_no_worse_than_zero_and_rising_ones_no_better(losses):
    # The paper's denominator would turn the sign around for negative losses.
    falling = sorted(losses, reverse=True)
    assert score(falling, 0.0) >= 0.0
    assert score(falling[::-1], 0.0) <= 0.0


@pytest.mark.parametrize("losses", [[-1.0, -2.0], [1.0, -1.0], [0.0, -1.0], [1.0, 0.0], [LARGE, -LARGE], [2.0, 1.0]])
def test_a_falling_loss_of_any_sign_scores_above_zero(losses):
    assert score(losses, 0.0) > 0.0
    assert score(losses[::-1], 0.0) < 0.0


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=2, max_size=12), ALPHA)
def test_score_does_not_depend_on_the_unit_of_the_loss(losses, alpha):
    scaled = [loss * 1024 for loss in losses]
    assert score(scaled, alpha) == pytest.approx(score(losses, alpha), rel=1e-9, abs=1e-12)


def test_boundaries_tell_apart_cycles_of_equal_mean_and_spread():
    # Figure 6: both cycles have the reductions +0.5 and −0.5, but the first one went below the start.
    below, above = score([1.0, 0.5, 1.0], 0.1), score([1.0, 2.0, 1.0], 0.1)
    assert below > above


def test_alpha_rewards_spread():
    losses = [1.0, 0.4, 0.9, 0.3]
    assert score(losses, -1.0) < score(losses, 0.0) < score(losses, 1.0)


def test_bounds_are_divided_by_the_number_of_steps():
    # With l_0 the largest and l_τ the smallest loss, only τ makes the difference between these.
    short, long = [1.0, 0.5], [1.0, 0.5, 0.5, 0.5, 0.5]
    assert score(short, 0.0) == pytest.approx(math.tanh((0.5 + 0.5 + 0.5) / 3))
    assert score(long, 0.0) == pytest.approx(math.tanh((0.5 / 4 + 0.5 / 4 + 0.5 / 4) / 3))


@pytest.mark.parametrize("losses", [[], [1.0]])
def test_score_needs_two_losses(losses):
    with pytest.raises(ValueError, match=rf"losses l_0 to l_τ, at least two, but got {len(losses)}"):
        score(losses, 0.1)


@given(FINITE, FINITE)
def test_relative_reduction_is_bounded_and_antisymmetric(before, after):
    result = relative_reduction(before, after)
    assert -2.0 <= result <= 2.0
    assert result == -relative_reduction(after, before)
