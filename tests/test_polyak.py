from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_iomt.polyak import PolyakStep


def classifier(features, labels, classes=3, scale=1.0):
    """A linear layer at 0, its mean loss with gradients, and the features that it read."""
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    loss = scale * nn.functional.cross_entropy(layer(features), labels)
    loss.backward()
    return layer, loss


def drawn(seed=0, samples=12, width=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, width, generator=generator), torch.randint(3, (samples,), generator=generator)


def test_it_is_a_fifth_of_the_loss_over_the_sum_of_the_gradients():
    losses, sizes = [], []
    layer = nn.Linear(5, 3)
    polyak = PolyakStep(list(layer.parameters()))
    for seed in range(4):
        layer.zero_grad()
        features, labels = drawn(seed)
        loss = nn.functional.cross_entropy(layer(features), labels)
        loss.backward()
        polyak.add(loss)
        losses.append(loss.item())
        # The gradient of softmax regression written out.
        errors = torch.softmax(layer(features), 1).detach() - torch.eye(3)[labels]
        sizes.append(float((errors.T @ features / 12).abs().sum() + errors.mean(0).abs().sum()))
    assert polyak.learning_rate == pytest.approx(0.2 * sum(losses) / sum(sizes), rel=1e-5)


def test_a_full_step_brings_the_tangent_to_zero():
    """So that a line, |x| in each coordinate, is at its least after one step of the sign."""
    values = nn.Parameter(torch.tensor([2.0, -2.0, 2.0]))
    loss = values.abs().sum()
    loss.backward()
    polyak = PolyakStep([values])
    polyak.add(loss)
    step = polyak.learning_rate / 0.2
    assert float((values - step * values.grad.sign()).abs().sum()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1024.0])
def test_the_scale_of_the_loss_does_not_matter(scale):
    layer, loss = classifier(*drawn(), scale=scale)
    other, one = classifier(*drawn())
    rates = []
    for model, value in ((layer, loss), (other, one)):
        polyak = PolyakStep(list(model.parameters()))
        polyak.add(value)
        rates.append(polyak.learning_rate)
    assert rates[0] == pytest.approx(rates[1], rel=1e-5)


def test_features_ten_times_as_large_ask_for_a_tenth_of_the_rate():
    rates = []
    for factor in (1.0, 10.0):
        features, labels = drawn()
        layer, loss = classifier(factor * features, labels)
        layer.bias.grad = None
        polyak = PolyakStep(list(layer.parameters()))
        polyak.add(loss)
        rates.append(polyak.learning_rate)
    assert rates[0] == pytest.approx(10 * rates[1], rel=1e-5)


def test_two_processes_with_half_of_the_numbers_each_know_the_whole():
    """The mean over them of what each sees, as sharded parameters give it."""
    layer, loss = classifier(*drawn())
    layer.bias.grad = None
    whole = PolyakStep([layer.weight])
    whole.add(loss)
    seen = []

    class Shard:
        def __init__(self, grad):
            self.grad = grad

    for rows in (slice(0, 1), slice(1, 3)):
        PolyakStep([Shard(layer.weight.grad[rows])], lambda values: seen.append(values) or values).add(loss)
    mean = sum(seen) / 2
    together = PolyakStep([layer.weight], lambda values: mean)
    together.add(loss)
    assert together.learning_rate == pytest.approx(whole.learning_rate, rel=1e-5)


@pytest.mark.parametrize(
    "value, gradient", [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, float("inf"))]
)
def test_there_is_none(value, gradient):
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), gradient)
    polyak = PolyakStep([parameter])
    polyak.add(torch.tensor(value))
    assert polyak.learning_rate is None


@pytest.mark.parametrize("value, gradient", [(math.nan, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_a_batch_that_is_not_finite_is_left_out(value, gradient):
    """As one that overflows in fp16."""
    parameter = nn.Parameter(torch.zeros(3))
    polyak = PolyakStep([parameter])
    for loss, size in ((6.0, 1.0), (value, gradient)):
        parameter.grad = torch.full((3,), size)
        polyak.add(torch.tensor(loss))
    assert polyak.learning_rate == pytest.approx(0.2 * 6 / 3)


def test_there_is_none_without_gradients():
    polyak = PolyakStep([nn.Parameter(torch.zeros(3))])
    polyak.add(torch.tensor(1.0))
    assert polyak.learning_rate is None


def test_it_is_at_most_one():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), 1e-9)
    polyak = PolyakStep([parameter])
    polyak.add(torch.tensor(1.0))
    assert polyak.learning_rate == 1.0
