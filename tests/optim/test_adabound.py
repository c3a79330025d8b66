from __future__ import annotations

import numpy as np
import pytest
import torch
from curved import STEPS, Curved, to_zero
from torch.optim.lr_scheduler import LambdaLR

from hf_iomt.optim import AdaBound, InterleavedOptimizer


def transcription(
    rate,
    final=0.1,
    gamma=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    decay=0.0,
    ams=False,
    schedule=lambda step: 1.0,
):
    """The algorithm of the paper on one vector: the iterates, and how many rates each bound clipped."""
    problem = Curved()
    x, (b1, b2) = problem.flat(), betas
    m, v, largest = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    trace, clipped = [], np.zeros(2)
    for t in range(1, STEPS + 1):
        g = problem.gradient_at(x, t - 1) + decay * x
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v)
        multiplier = schedule(t - 1)
        lower, upper = final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))
        rates = rate * np.sqrt(1 - b2**t) / (1 - b1**t) / (np.sqrt(largest if ams else v) + eps)
        clipped += (rates < lower).sum(), (rates > upper).sum()
        x = x - multiplier * np.clip(rates, lower, upper) * m
        trace.append(x)
    return np.array(trace), clipped


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(
    "settings, named",
    [
        ({}, {}),
        ({"gamma": 0.1}, {"gamma": 0.1}),
        ({"ams": True, "final": 0.02}, {"amsbound": True, "final_lr": 0.02}),
        ({"betas": (0.5, 0.7), "eps": 0.1, "decay": 0.1}, {"betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.1}),
    ],
)
def test_it_is_the_papers_algorithm(settings, named, scheduled):
    schedule = to_zero if scheduled else lambda step: 1.0
    expected, _ = transcription(0.01, schedule=schedule, **settings)
    problem = Curved()
    optimizer = AdaBound(problem.parameters, lr=0.01, **named)
    trace = problem.train(optimizer, scheduler=LambdaLR(optimizer, schedule))
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-9)


def test_both_bounds_clip_in_these_runs():
    assert (transcription(0.01, gamma=0.1)[1] > 0).all()


def test_a_schedule_that_is_at_zero_stops():
    problem = Curved()
    optimizer = AdaBound(problem.parameters)
    before = problem.flat()
    problem.train(optimizer, range(3), LambdaLR(optimizer, lambda step: 0.0))
    assert np.array_equal(problem.flat(), before)


def test_a_candidate_has_its_own_bounds_whichever_began_the_family():
    problem, plain_problem = Curved(), Curved()
    optimizer = InterleavedOptimizer(problem.parameters, "adabound:lr=0.001|0.01")
    plain = AdaBound(plain_problem.parameters, lr=0.001)
    problem.train(optimizer, range(5))
    plain_problem.train(plain, range(5))
    optimizer.activate(1)
    plain.param_groups[0].update(lr=0.01, base_lr=0.01)
    trace = problem.train(optimizer, range(5, 15))
    np.testing.assert_allclose(trace, plain_problem.train(plain, range(5, 15)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheduler", ["plateau", "lambda"])
def test_bounds_follow_every_scheduler_when_interleaved(scheduler):
    traces = []
    for make in (lambda p: InterleavedOptimizer(p, "adabound:lr=0.01"), lambda p: AdaBound(p, lr=0.01)):
        problem = Curved()
        optimizer = make(problem.parameters)
        problem.train(optimizer, range(5))
        if scheduler == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.25, patience=0, threshold=0.0)
            plateau.step(1.0)
            plateau.step(2.0)
        else:
            LambdaLR(optimizer, lambda step: 0.25)
        traces.append(problem.train(optimizer, range(5, 15)))
    np.testing.assert_allclose(*traces, rtol=0, atol=1e-12)
