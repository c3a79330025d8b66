from __future__ import annotations

import math

import pytest

from hf_iomt.standing import Standing


@pytest.mark.parametrize(
    "initial, loss, reference, margin, broken",
    [
        # A fifth of the loss at the start, while there is no progress.
        (2.0, 2.39, 2.0, 1.0, False),
        (2.0, 2.41, 2.0, 1.0, True),
        # Half of the progress, once that is more.
        (2.0, 1.24, 0.5, 1.0, False),
        (2.0, 1.26, 0.5, 1.0, True),
        (2.0, 0.88, 0.5, 0.5, True),
        # The start counts where the reference is worse.
        (2.0, 2.41, 3.0, 1.0, True),
        # Losses below 0.
        (-1.0, -0.79, -1.0, 1.0, True),
        (-1.0, -0.81, -1.0, 1.0, False),
        # Nothing to compare with.
        (math.inf, 100.0, math.inf, 1.0, False),
    ],
)
def test_damage(initial, loss, reference, margin, broken):
    assert Standing(initial=initial).is_broken(loss, reference, margin) is broken


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_damage(loss):
    assert Standing().is_broken(loss, 1.0) and Standing(initial=1.0).is_broken(loss, 1.0)


def test_the_benefit_of_the_doubt_is_two_standard_errors_within_limits():
    assert Standing(initial=2.0, cycle_end=3.0, cycle_error=0.1).charitable_end == pytest.approx(2.8)
    assert Standing(initial=2.0, cycle_end=3.0, cycle_error=5.0).charitable_end == pytest.approx(2.0)


@pytest.mark.parametrize(
    "before, after, lost",
    [
        # Half of the progress of 1.5 that there was, whatever the level of the samples.
        (0.6, 1.3, False),
        (0.6, 1.4, True),
        (5.0, 5.7, False),
        (5.0, 5.8, True),
        (5.0, math.nan, True),
        # What was broken before is not the cycle's doing, unless it still is.
        (math.inf, 1.0, False),
        (math.inf, math.inf, True),
    ],
)
def test_the_same_samples_are_compared_with_themselves(before, after, lost):
    assert Standing(initial=2.0, best=0.5).has_lost(before, after) is lost


def test_losses_near_zero_are_compared_by_their_spread():
    standing = Standing(initial=1e-9, spread=0.5)
    assert not standing.is_broken(0.09, 0.0) and standing.is_broken(0.11, 0.0)
    # That of ordinary losses is less than they are.
    assert Standing(initial=2.0, spread=0.5).is_broken(2.41, 2.0)
    assert not Standing(initial=2.0, spread=0.5).is_broken(2.39, 2.0)
