from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_iomt.gradient_noise import GradientNoise


def parameters(*shapes):
    return [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]


def measure(tensors, batches, **kwargs):
    """The share of signal of batches, each a list of gradients."""
    noise = GradientNoise(tensors, **kwargs)
    for gradients in batches:
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = None if gradient is None else torch.as_tensor(gradient, dtype=tensor.dtype)
        noise.add()
    return noise.signal()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 3.0])
def test_it_is_the_share_of_the_squared_mean(ratio):
    """Gradients with a mean of so many standard deviations: the share is ratio² / (1 + ratio²), whatever the scale."""
    generator = np.random.default_rng(0)
    scales = 10.0 ** generator.uniform(-6, 3, 20_000)
    batches = [[scales * (ratio + generator.standard_normal(scales.size))] for _ in range(40)]
    found = measure([torch.nn.Parameter(torch.zeros(scales.size, dtype=torch.float64))], batches)
    # From few batches the mean of a quotient is not the quotient of means, by up to (1 - share) / n or so.
    assert found == pytest.approx(ratio**2 / (1 + ratio**2), abs=0.02)


def test_it_is_the_formula_written_out():
    generator = np.random.default_rng(1)
    batches = [[generator.standard_normal((3, 2)) + 1, generator.standard_normal(5) - 0.5] for _ in range(4)]
    shares = [
        ((sum(batch[part][index] for batch in batches) ** 2 / sum(batch[part][index] ** 2 for batch in batches)) - 1)
        / 3
        for part, shape in enumerate([(3, 2), (5,)])
        for index in np.ndindex(*shape)
    ]
    assert measure(parameters((3, 2), (5,)), batches) == pytest.approx(np.mean(shares), rel=1e-5)


def test_gradients_that_agree_are_all_signal_and_single_ones_none():
    assert measure(parameters(3), [[[1.0, -2.0, 1e-12]]] * 3) == pytest.approx(1)
    # The row of a word that is in one batch only.
    assert measure(parameters(3), [[[0.0, 5.0, 0.0]], [[3.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]]) == pytest.approx(0)


def test_coordinates_without_gradient_do_not_count():
    batches = [[[1.0, 0.0], None], [[1.0, 0.0], None]]
    assert measure(parameters(2, 4), batches) == pytest.approx(1)
    assert measure(parameters(2), [[[0.0, 0.0]]] * 2) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_batch_that_overflowed_is_left_out(broken):
    good = [[[1.0, 2.0]], [[2.0, -1.0]], [[0.5, 1.0]]]
    tensors = parameters(2)
    assert measure(tensors, [good[0], [[1.0, broken]], *good[1:]]) == pytest.approx(measure(tensors, good))


def test_one_batch_shows_nothing():
    assert measure(parameters(2), [[[1.0, 1.0]]]) is None
    assert measure(parameters(2), []) is None


def test_processes_are_averaged():
    """Each has its part of a sharded parameter: here another one has three coordinates, all of them signal."""

    def reduce(values):
        return values if values.ndim == 0 else (values + torch.tensor([2.0 * 3, 3.0])) / 2

    # Gradients of 1 and 1 are all signal, of 2 and -2 less than none: (0 / 8 - 1) / 1.
    batches = [[[1.0, 2.0]], [[1.0, -2.0]]]
    assert measure(parameters(2), batches) == pytest.approx((1 - 1) / 2)
    assert measure(parameters(2), batches, reduce=reduce) == pytest.approx((1 - 1 + 3) / 5)


def test_an_overflow_in_another_process_counts_too():
    broken = iter([0.0, 0.5, 0.0])
    good = [[[1.0, 2.0]], [[9.0, -9.0]], [[2.0, -1.0]]]
    found = measure(parameters(2), good, reduce=lambda item: torch.tensor(next(broken)) if item.ndim == 0 else item)
    assert found == pytest.approx(measure(parameters(2), [good[0], good[2]]))
