from __future__ import annotations

import numpy as np
import pytest
import torch
from curved import STEPS, Curved, to_zero
from torch.optim.lr_scheduler import LambdaLR

from hf_iomt.optim import Padam


def transcription(rate, power=0.125, betas=(0.9, 0.999), eps=1e-8, decay=0.0, schedule=lambda step: 1.0):
    """Algorithm 1 of the paper on one vector, with eps."""
    problem = Curved()
    theta, (b1, b2) = problem.flat(), betas
    m, v, largest = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    trace = []
    for t in range(STEPS):
        g = problem.gradient_at(theta, t) + decay * theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v)
        theta = theta - rate * schedule(t) * m / (np.sqrt(largest) + eps) ** (2 * power)
        trace.append(theta)
    return np.array(trace)


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(
    "settings, named",
    [
        ({}, {}),
        ({"power": 0.5}, {"partial": 0.5}),
        ({"power": 0.25, "betas": (0.5, 0.7), "eps": 0.1}, {"partial": 0.25, "betas": (0.5, 0.7), "eps": 0.1}),
        ({"decay": 0.1}, {"weight_decay": 0.1}),
    ],
)
def test_it_is_the_papers_algorithm(settings, named, scheduled):
    schedule = to_zero if scheduled else lambda step: 1.0
    problem = Curved()
    optimizer = Padam(problem.parameters, lr=0.05, **named)
    trace = problem.train(optimizer, scheduler=LambdaLR(optimizer, schedule))
    np.testing.assert_allclose(trace, transcription(0.05, schedule=schedule, **settings), rtol=0, atol=1e-9)


def test_without_power_it_is_sgd_with_momentum():
    problem, plain = Curved(), Curved()
    trace = problem.train(Padam(problem.parameters, lr=0.1, partial=0.0))
    expected = plain.train(torch.optim.SGD(plain.parameters, lr=0.01, momentum=0.9))
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-9)


def test_elements_that_never_have_a_gradient_stay():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Padam([parameter])
    parameter.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    assert parameter[1] == 1 and parameter[0] < 1
