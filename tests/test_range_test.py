from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_iomt.range_test import RangeTest, RangeTestPlan, plan_range_test, run_range_test


class Valley:
    """A quadratic that plain gradient steps at rates above 2 / curvature leave; knows what was asked of it."""

    def __init__(self, curvature=100.0, start=1.0):
        self.curvature, self.value, self.kept = curvature, start, []

    def loss(self):
        return 0.5 * self.curvature * self.value**2

    def step(self, rate):
        self.value -= rate * self.curvature * self.value

    def keep(self):
        self.kept.append(self.value)


def plan(rates, agrees):
    """Of a test for which what is usual agrees with a rate, so that it makes no difference where that is found."""
    return RangeTestPlan(usual=agrees, gradients=8, rates=list(rates))


def test_rates_rise_by_equal_factors_around_the_usual_one():
    plan = plan_range_test(5e-5, 0.05, 10_000)
    assert plan.rates[0] == pytest.approx(1.5e-5) and plan.rates[-1] == pytest.approx(0.05)
    np.testing.assert_allclose(np.diff(np.log(plan.rates)), np.log(plan.rates[1] / plan.rates[0]))
    # Six to a factor of ten.
    assert len(plan.rates) == int(6 * math.log10(1000 / 0.3))
    assert plan.usual == 5e-5 and plan.gradients == 8 and plan.batches == 8 + len(plan.rates)
    assert plan_range_test(3e-3, 0.05, 10_000).rates[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("gradients, per_decade", [(8, 4), (4, 3)])
def test_a_test_takes_a_share_of_the_run_and_not_too_few_steps_to_a_factor_of_ten(gradients, per_decade):
    decades = math.log10(1000 / 0.3)
    least = math.ceil((per_decade * decades + gradients) / 0.15)
    plan = plan_range_test(5e-5, 0.05, least)
    assert plan.gradients == gradients and len(plan.rates) == int(per_decade * decades)
    assert all(plan_range_test(5e-5, 0.05, steps).batches <= 0.15 * steps for steps in range(least, least + 40))
    fewer = plan_range_test(5e-5, 0.05, least - 1)
    assert fewer is None if gradients == 4 else fewer.gradients == 4


@pytest.mark.parametrize("strides", [False, True])
def test_a_linear_head_needs_gradients_only(strides):
    for gradients in (8, 4):
        least = math.ceil((gradients + strides) / 0.15)
        plan = plan_range_test(3e-3, 0.03, least, strides, linear=True)
        assert (plan.gradients, plan.rates, plan.batches) == (gradients, [], gradients + strides)
        fewer = plan_range_test(3e-3, 0.03, least - 1, strides, linear=True)
        assert fewer is None if gradients == 4 else fewer.gradients == 4


def test_the_rate_is_the_share_of_signal_of_the_last_harmless_one():
    valley = Valley()
    rates = np.geomspace(1e-6, 1, 42).tolist()
    found = run_range_test(plan(rates, 0.01), valley.step, valley.loss, valley.keep, signal=0.25)
    # Steps are stable up to 0.02, and take some to bring the loss up again.
    assert 0.02 * 0.25 <= found.learning_rate <= 0.08 * 0.25
    assert len(found.losses) == len(found.rates) + 1 and found.losses[0] == 50.0
    assert found.rates[-1] < 1 and found.losses[-1] > min(found.losses) + 0.1 * 50
    assert 0.5 * 100 * valley.kept[-1] ** 2 == pytest.approx(min(found.losses))
    assert found.signal == 0.25 and found.batches == 8 + len(found.rates)


@pytest.mark.parametrize("signal, share", [(0.5, 0.5), (1.3, 1.0), (0.01, 0.04), (-0.2, 0.04), (None, 0.04)])
def test_a_share_of_signal_is_between_a_least_one_and_all(signal, share):
    losses = iter([1.0, 0.5, 0.4, 2.0, 2.0])
    rates = plan([0.01, 0.02, 0.04, 0.08], 0.02 * share)
    found = run_range_test(rates, lambda rate: None, lambda: next(losses), signal=signal)
    assert found.learning_rate == pytest.approx(0.02 * share)


@pytest.mark.parametrize("lowest, weight", [(1.0, 0.5), (0.9, 0.45), (0.5, 0.25), (0.0, 0.0), (-1.0, 0.0)])
@pytest.mark.parametrize("steps, shorter", [(300, 1.0), (2400, 0.5)])
def test_the_less_is_learned_the_more_counts_what_is_usual(lowest, weight, steps, shorter):
    losses = iter([1.0, lowest, lowest, 9.0, 9.0])
    rates = RangeTestPlan(1e-4, 8, [0.01, 0.02, 0.04, 0.08])
    found = run_range_test(rates, lambda rate: None, lambda: next(losses), signal=0.5, steps=steps)
    share = 0.04 if lowest == 1 else 0.5
    expected = math.exp((1 - weight) * math.log(0.02 * share) + weight * math.log(1e-4)) * shorter
    # Rounded to two digits.
    assert found.learning_rate == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("start", [0.0, -1.0])
def test_a_loss_that_is_no_share_of_its_start_counts_as_nothing_learned(start):
    losses = iter([start, start, start + 9, start + 9])
    found = run_range_test(RangeTestPlan(1e-4, 8, [0.01, 0.02, 0.04]), lambda rate: None, lambda: next(losses))
    assert found.learning_rate == pytest.approx(math.sqrt(0.01 * 0.04 * 1e-4), rel=0.02)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_it_scales_with_the_problem(factor):
    """A curvature a thousand times as large asks for rates a thousand times as small."""
    one, other = Valley(1.0), Valley(1.0 / factor)
    rates = np.geomspace(1e-3, 1e3, 60)
    first = run_range_test(plan(rates, 1.0), one.step, one.loss, signal=0.2)
    second = run_range_test(plan(rates * factor, factor), other.step, other.loss, signal=0.2)
    assert second.learning_rate / first.learning_rate == pytest.approx(factor, rel=0.06)


def test_on_a_plateau_the_least_share_counts_and_nothing_is_kept():
    """Where nothing is learned the lowest loss is noise, and so is it that a few gradients agree."""
    losses, kept = iter([1.0, 0.96] + [1.0] * 20 + [3.0] * 9), []
    rates = [float(rate) for rate in np.geomspace(1e-5, 1, 29)]
    found = run_range_test(
        plan(rates, rates[20] * 0.04), lambda rate: None, lambda: next(losses), lambda: kept.append(True), signal=0.5
    )
    assert found.learning_rate == pytest.approx(rates[20] * 0.04, rel=0.05)
    assert len(found.rates) == 23 and kept == []


def test_a_model_that_has_forgotten_everything_does_no_more_harm():
    """Embeddings that are all the same have a loss, too, here a lower one than before training."""
    losses = iter([6.0, 5.0, 4.0, 3.8, 3.9, 4.1, 4.1001, 4.1002] + [4.1] * 20)
    rates = [float(rate) for rate in np.geomspace(1e-4, 1, 24)]
    found = run_range_test(plan(rates, rates[4] * 0.2), lambda rate: None, lambda: next(losses), signal=0.2)
    # The last two are no better than 4.1, from which nothing moves it any more.
    assert len(found.rates) == 7 and found.learning_rate == pytest.approx(rates[4] * 0.2, rel=0.05)


def test_where_losses_fluctuate_the_last_harmless_rate_decides():
    losses = iter([4.0, 3.7, 3.4, 3.5, 3.6, 3.5, 3.6, 3.5, 3.6, 5.0, 5.0])
    rates = [float(rate) for rate in np.geomspace(1e-4, 1e-2, 10)]
    found = run_range_test(plan(rates, rates[7] * 0.2), lambda rate: None, lambda: next(losses), signal=0.2)
    assert found.learning_rate == pytest.approx(rates[7] * 0.2, rel=0.05)


def test_it_ends_where_the_loss_has_clearly_risen_twice():
    """What comes later may be low by chance: a model that has forgotten all is no worse than before it learned."""
    losses = iter([1.0, 0.9, 0.8, 0.93, 0.91, 0.7, 0.84, 0.1])
    rates = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2]
    found = run_range_test(plan(rates, 1.6e-3), lambda rate: None, lambda: next(losses), signal=0.1)
    # 0.91 is within 10 % of the start's loss and 10 % of the gain, 0.93 and 0.84 are not.
    assert found.rates == rates[:6] and found.learning_rate == 1.6e-3


@pytest.mark.parametrize("losses", [[math.nan] * 9, [1.0, 5.0, math.inf, 9.0], [1.0, math.nan, 2.0, 0.1]])
def test_harm_from_the_first_step_on_finds_nothing(losses):
    values = iter(losses)
    assert run_range_test(plan([0.1, 0.2, 0.4], 0.1), lambda rate: None, lambda: next(values)) is None


def test_losses_that_are_no_numbers_are_harm():
    losses = iter([1.0, 0.5, math.nan, math.inf, 0.1])
    found = run_range_test(plan([0.1, 0.2, 0.4, 0.8], 0.02), lambda rate: None, lambda: next(losses), signal=0.2)
    assert found.rates == [0.1, 0.2, 0.4] and found.losses == [1.0, 0.5, None, None]
    assert found.learning_rate == 0.02


def test_it_is_read_back(tmp_path):
    found = RangeTest(0.01, [0.1, 0.2], [1.0, 0.5, None], 3.0)
    path = tmp_path / "found.json"
    path.write_text(json.dumps(vars(found)))
    assert RangeTest.read(path) == found
    for broken in ("", "{}", '{"learning_rate": 0}', '{"learning_rate": "x"}', '{"other": 1}'):
        path.write_text(broken)
        assert RangeTest.read(path) is None
    assert RangeTest.read(tmp_path / "none.json") is None


@pytest.mark.parametrize("steps, factor", [(100, 1), (300, 1), (2400, 1 / 2), (300_000, 1 / 10)])
def test_longer_runs_get_smaller_rates(steps, factor):
    losses = iter([1.0, 0.5, 0.4, 2.0, 2.0])
    rates = plan([0.01, 0.02, 0.04, 0.08], 0.01)
    found = run_range_test(rates, lambda rate: None, lambda: next(losses), signal=0.5, steps=steps)
    assert found.learning_rate == pytest.approx(0.02 * 0.5 * factor)
