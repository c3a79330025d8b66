from __future__ import annotations

import math

import pytest
import torch

from hf_iomt.optim import InterleavedOptimizer, families, register_family
from hf_iomt.stride import choose_entrants, measure_strides

# Steps with the same gradient, of which the last is measured.
STEPS = 16
SGDM = (1 - 0.9**STEPS) / (1 - 0.9)


def make(candidates, gradients=((3.0, -4.0, 0.0), (12.0,)), groups=({}, {})):
    parameters = [torch.nn.Parameter(torch.linspace(1.0, 2.0, len(values))) for values in gradients]
    for parameter, values in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(values)
    named = [{"params": [parameter], **group} for parameter, group in zip(parameters, groups, strict=True)]
    return parameters, InterleavedOptimizer(named, candidates)


# Of the coordinates that have gradients.
MEAN_SQUARE = math.sqrt((9 + 16 + 144) / 3)


@pytest.mark.parametrize(
    "candidate, expected",
    [
        ("adamw:lr=0.003,weight_decay=0", 0.003),
        ("adam:lr=0.003", 0.003),
        ("sgd:lr=0.01", 0.01 * MEAN_SQUARE),
        ("sgdm:lr=0.01,momentum=0.9", 0.01 * MEAN_SQUARE * SGDM),
        ("adagrad:lr=0.1", 0.1 / math.sqrt(STEPS)),
        # Its second moment begins at 0 without a correction.
        ("rmsprop:lr=0.1", 0.1 / math.sqrt(1 - 0.99**STEPS)),
    ],
)
def test_it_is_the_learning_rate_of_adamw_that_moves_as_far(candidate, expected):
    _, optimizer = make(candidate)
    assert measure_strides(optimizer) == pytest.approx([expected], rel=1e-3)


def test_candidates_that_differ_in_more_than_the_rate_are_measured_each():
    _, optimizer = make("sgdm:lr=0.1|0.01,momentum=0.9; sgdm:lr=0.1,momentum=0; adam:lr=0.1|0.001")
    factors = [0.1 * SGDM, 0.01 * SGDM, 0.1]
    expected = [factor * MEAN_SQUARE for factor in factors] + [0.1, 0.001]
    assert measure_strides(optimizer) == pytest.approx(expected, rel=1e-3)


def test_a_schedule_that_begins_at_0_does_not_count_and_the_multipliers_of_groups_do():
    _, optimizer = make("sgd:lr=0.01", groups=({"lr": 1.0}, {"lr": 10.0}))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    expected = 0.01 * math.sqrt((9 + 16 + 100 * 144) / 3)
    assert measure_strides(optimizer) == pytest.approx([expected], rel=1e-3)
    assert optimizer.param_groups[0]["lr"] == 0 and schedule.last_epoch == 0


def test_damping_of_a_training_before_does_not_count():
    _, optimizer = make("adamw:lr=0.003; sgd:lr=0.01; adagrad:lr=0.1")
    expected = measure_strides(optimizer)
    optimizer.damping = 1 / 9
    assert measure_strides(optimizer) == expected and optimizer.damping == 1 / 9


def test_everything_is_afterwards_as_it_was():
    parameters, optimizer = make("adam:lr=0.1; sgdm:lr=0.1,momentum=0.9; rmsprop:lr=0.1")
    optimizer.activate(1)
    before = [(item.detach().clone(), item.grad.clone()) for item in parameters]
    measure_strides(optimizer)
    for parameter, (value, gradient) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value) and torch.equal(parameter.grad, gradient)
    assert optimizer.active_index == 1 and not optimizer.families_in_use() and not optimizer.last_used
    assert not optimizer.ignore_schedule and optimizer.last_learning_rate == 0


class Careless(torch.optim.SGD):
    """Uses the gradients for its own calculations, as some optimizers do."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(1e6)


class Fragile(torch.optim.SGD):
    """Fails in its third step, as where memory runs out."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["made"] = group.get("made", 0) + 1
            if group["made"] == 3:
                raise MemoryError("no room")


def test_a_failure_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    register_family("fragile", Fragile, defaults={"momentum": 0.9})
    parameters, optimizer = make("adam:lr=0.1; fragile:lr=10")
    before = [(item.detach().clone(), item.grad.clone()) for item in parameters]
    with pytest.raises(MemoryError, match="no room"):
        measure_strides(optimizer)
    for parameter, (value, gradient) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value) and torch.equal(parameter.grad, gradient)
    assert optimizer.active_index == 0 and not optimizer.families_in_use() and not optimizer.ignore_schedule


def test_state_of_a_training_before_does_not_count():
    parameters, optimizer = make("adam:lr=0.1; adagrad:lr=0.1")
    expected = measure_strides(optimizer)
    for index in (0, 1):
        optimizer.activate(index)
        for _ in range(50):
            for parameter in parameters:
                parameter.grad.mul_(1.1)
            optimizer.step()
    for parameter in parameters:
        parameter.grad.mul_(1.1**-100)
    assert measure_strides(optimizer) == pytest.approx(expected, rel=1e-2)
    assert not optimizer.families_in_use()


def test_steps_that_are_not_proportional_to_the_rate_are_measured_each():
    gradients = [(1e-3, -2e-3, 0.0), (1e-3,)]
    together = measure_strides(make("adabound:lr=1e-5|1e-3|1e-1", gradients)[1])
    alone = [measure_strides(make(f"adabound:lr={rate}", gradients)[1])[0] for rate in ("1e-5", "1e-3", "1e-1")]
    assert together == alone
    assert together[2] < 0.5 * 100 * together[1]


def test_swats_counts_as_adam_and_does_not_switch(caplog):
    with caplog.at_level("INFO"):
        _, optimizer = make("swats:lr=0.01|0.1,tolerance=1e-3")
        assert measure_strides(optimizer) == [0.01, 0.1]
    assert "switched" not in caplog.text


def test_optimizers_may_change_gradients(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    register_family("careless", Careless)
    _, optimizer = make("careless:lr=0.01; sgd:lr=0.01")
    assert measure_strides(optimizer) == pytest.approx([0.01 * MEAN_SQUARE] * 2, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, None])
def test_gradients_that_say_nothing(value):
    parameters, optimizer = make("sgd:lr=0.01; adam:lr=0.01")
    parameters[0].grad.zero_()
    parameters[1].grad = None if value is None else torch.tensor([value])
    if value is None:
        parameters[0].grad = None
    assert measure_strides(optimizer) is None
    assert all(torch.isfinite(item).all() for item in parameters)


def test_parameters_without_gradients_do_not_move_and_do_not_count():
    parameters, optimizer = make("sgd:lr=0.01; adam:lr=0.01")
    parameters[1].grad = None
    assert measure_strides(optimizer) == pytest.approx([0.01 * math.sqrt(25 / 2), 0.01], rel=1e-3)


def test_a_stride_beyond_all_numbers_is_infinite():
    parameters, optimizer = make("sgd:lr=10; adam:lr=0.01", [(3e38, 1.0), (1.0,)])
    # Adam's second moment overflows, too, and then it stands still.
    assert measure_strides(optimizer) == [math.inf, pytest.approx(0.01 * math.sqrt(2 / 3), rel=1e-3)]
    assert all(torch.isfinite(item).all() for item in parameters)


@pytest.mark.parametrize("rates", [(1e-12, 0.01, 1e15), (0.01, 1e15), (1e-12, 0.01), (1e15, 1e-12, 0.01, 2e-12)])
def test_rates_that_cannot_be_measured_follow_from_one_that_can(rates):
    """Steps of 1e-12 are lost in rounding, and those of 1e15 overflow at this gradient."""
    _, optimizer = make("sgd:lr=" + "|".join(map(str, rates)), [(3e30, -4e30, 0.0), (12e30,)])
    for parameter in optimizer.param_groups[0]["params"] + optimizer.param_groups[1]["params"]:
        parameter.data.mul_(1e35)
    expected = [rate * MEAN_SQUARE * 1e30 for rate in rates]
    assert measure_strides(optimizer) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    "strides, expected",
    [
        # From a tenth to twice the unit.
        ((1.0, 0.11, 1.9, 2.1, 0.09), [0, 1, 2]),
        ((1.0, 1.0, 1.0), [0, 1, 2]),
        # The first has gone, or is not trusted below 0.3 units, and the one nearest to 0.77 takes its place.
        ((9.0, 0.11, 0.4, 1.9), [2, 1, 3]),
        ((0.29, 0.11, 0.7, 0.9), [2, 0, 1, 3]),
        ((0.31, 0.11, 0.7, 0.9), [0, 1, 2, 3]),
        # Fewer than two: the two that are nearest, by factors.
        ((40.0, 5.0, 3.0, 0.01), [2, 1]),
        ((0.0, 1.0, 0.01, math.inf), [1, 2]),
        ((math.inf, 1e9, 1e5), [2, 1]),
        ((0.0, 0.0, 0.0), [0, 1]),
        ((math.inf, math.inf, 3.0), [2, 0]),
        ((2.5, 9.0, 0.01), [0, 1]),
        ((9.0, 2.5, 0.01), [1, 0]),
        ((7.0,), [0]),
    ],
)
@pytest.mark.parametrize("unit", [1.0, 1e-4])
def test_those_that_are_worth_a_try_stay(strides, expected, unit):
    assert choose_entrants([stride * unit for stride in strides], unit) == expected
