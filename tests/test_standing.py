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


def test_damage_on_the_same_samples_does_not_depend_on_how_hard_they_are():
    """The start of training was measured on other samples, which may be easier."""
    standing = Standing(initial=0.6)
    assert not standing.is_damaged(0.83, 0.82) and standing.is_broken(0.83, 0.82)
    assert standing.is_damaged(0.95, 0.82) and standing.is_damaged(float("nan"), 0.82)
