from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from curved import STEPS, Curved, to_zero
from torch.optim.lr_scheduler import LambdaLR

from hf_iomt.optim import SWATS, InterleavedOptimizer


def transcription(rate, tolerance, betas=(0.9, 0.999), eps=1e-9, decay=0.0, schedule=lambda step: 1.0):
    """Algorithm 1 of the paper on one vector: the iterates, the step of the switch and Λ."""
    problem = Curved()
    w, (b1, b2) = problem.flat(), betas
    m, a, average, v, found, switched = np.zeros_like(w), np.zeros_like(w), 0.0, np.zeros_like(w), None, None
    trace = []
    for k in range(1, STEPS + 1):
        g = problem.gradient_at(w, k - 1) + decay * w
        if found is not None:
            v = b1 * v + g
            w = w - (1 - b1) * found * schedule(k - 1) * v
        else:
            m = b1 * m + (1 - b1) * g
            a = b2 * a + (1 - b2) * g**2
            # The step without the schedule, which the paper has none of, and that with it.
            p = -rate * np.sqrt(1 - b2**k) / (1 - b1**k) * m / (np.sqrt(a) + eps)
            w = w + schedule(k - 1) * p
            if p @ g != 0:
                gamma = p @ p / (-p @ g)
                average = b2 * average + (1 - b2) * gamma
                if k > 1 and abs(average / (1 - b2**k) - gamma) < tolerance:
                    found, switched, v = average / (1 - b2**k), k, np.zeros_like(w)
        trace.append(w)
    return np.array(trace), switched, found


@pytest.mark.parametrize(
    "rate, settings, switches",
    [
        (1e-3, {"tolerance": 5e-4}, True),
        (1e-3, {"tolerance": 1e-3, "betas": (0.8, 0.95), "eps": 1e-3}, True),
        (1e-3, {"tolerance": 1e-4, "decay": 0.1}, True),
        (1e-2, {"tolerance": 1e-9}, False),
    ],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_it_is_the_papers_algorithm(rate, settings, switches, scheduled):
    schedule = to_zero if scheduled else lambda step: 1.0
    expected, switched, found = transcription(rate, schedule=schedule, **settings)
    problem = Curved()
    named = {("weight_decay" if name == "decay" else name): value for name, value in settings.items()}
    optimizer = SWATS(problem.parameters, lr=rate, **named)
    trace = problem.train(optimizer, scheduler=LambdaLR(optimizer, schedule))
    # Both phases are long enough to tell.
    assert (switched is not None) == switches and (not switches or 2 < switched < STEPS - 50)
    assert optimizer.switch_step == switched
    assert optimizer.sgd_learning_rate == (None if found is None else pytest.approx(found, rel=1e-9))
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-9)


def test_the_products_are_of_all_groups():
    traces = []
    for several in (False, True):
        problem = Curved()
        groups = [{"params": [item]} for item in problem.parameters] if several else problem.parameters
        optimizer = SWATS(groups, lr=1e-3, tolerance=1e-4)
        traces.append((problem.train(optimizer), optimizer.switch_step))
    assert traces[0][1] == traces[1][1] is not None
    np.testing.assert_allclose(traces[0][0], traces[1][0], rtol=0, atol=1e-12)


def test_groups_keep_the_ratio_of_their_learning_rates():
    problem, groups = Curved(), []
    for item, rate in zip(problem.parameters, (1e-3, 5e-4, 1e-3), strict=True):
        groups.append({"params": [item], "lr": rate})
    optimizer = SWATS(groups, lr=1e-3, tolerance=0.1)
    problem.train(optimizer, range(2))
    assert optimizer.switch_step == 2
    before = [item.detach().clone() for item in problem.parameters]
    problem.train(optimizer, [2])
    rates = [
        ((old - new) / ((1 - 0.9) * new.grad)).mean().item()
        for old, new in zip(before, problem.parameters, strict=True)
    ]
    found = optimizer.sgd_learning_rate
    assert rates == pytest.approx([found, found / 2, found])


def test_a_group_that_is_added_after_the_switch_is_trained_by_sgd():
    problem = Curved()
    optimizer = SWATS(problem.parameters[:2], lr=1e-3, tolerance=0.1)
    problem.train(optimizer, range(2))
    optimizer.add_param_group({"params": problem.parameters[2:]})
    before = problem.parameters[2].item()
    problem.parameters[2].grad = None
    problem.train(optimizer, [2])
    step = 0.1 * optimizer.sgd_learning_rate * problem.parameters[2].grad.item()
    assert before - problem.parameters[2].item() == pytest.approx(step)


def test_the_switch_is_logged_once(caplog):
    problem = Curved()
    optimizer = SWATS(problem.parameters, lr=1e-3, tolerance=1e-4)
    with caplog.at_level(logging.INFO):
        problem.train(optimizer)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f"SWATS switched to SGD after {optimizer.switch_step} steps, with lr {optimizer.sgd_learning_rate:g}."
    )


def test_the_second_moment_is_given_back_at_the_switch():
    problem = Curved()
    optimizer = SWATS(problem.parameters, tolerance=0.1)
    problem.train(optimizer, range(1))
    assert set(optimizer.state[problem.parameters[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    problem.train(optimizer, range(1, 2))
    assert set(optimizer.state[problem.parameters[0]]) == {"step", "exp_avg"}


@pytest.mark.parametrize("gradient", [0.0, float("nan"), float("inf"), 1e-30])
def test_what_cannot_be_projected_decides_nothing(gradient):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = SWATS([parameter], tolerance=1e9)
    for _ in range(3):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    assert optimizer.switch_step is None and optimizer.param_groups[0]["steps"] == 3


def test_sgd_never_climbs():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = SWATS([parameter], lr=0.1, tolerance=1e9)
    # The momentum still points up when the gradient has turned.
    for gradient in (-1.0, 0.1):
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    assert optimizer.param_groups[0]["projected"] * optimizer.param_groups[0]["base_lr"] < 0
    assert optimizer.switch_step is None


class TestInterleaved:
    def make(self, text="swats:lr=1e-3,tolerance=5e-4; sgd:lr=0.01"):
        problem = Curved()
        return problem, InterleavedOptimizer(problem.parameters, text)

    @pytest.mark.parametrize("before", [40, 120])
    def test_a_familys_state_has_the_decision(self, before):
        """As the race hands it over, and as it is taken back."""
        problem, optimizer = self.make()
        plain_problem = Curved()
        plain = SWATS(plain_problem.parameters, lr=1e-3, tolerance=5e-4)
        expected = plain_problem.train(plain)
        first = problem.train(optimizer, range(before))
        state = optimizer.release_family("swats")
        optimizer.activate(1)
        optimizer.activate(0)
        optimizer.restore_family("swats", state)
        trace = np.concatenate([first, problem.train(optimizer, range(before, STEPS))])
        assert (plain.switch_step > before) == (before == 40)
        assert np.array_equal(trace, expected)

    def test_a_family_that_is_reset_begins_as_adam(self):
        problem, optimizer = self.make("swats:lr=1e-3,tolerance=0.1; sgd:lr=0.01")
        problem.train(optimizer, range(2))
        assert optimizer.state_dict()["param_groups"][0]["swats/switch_step"] is not None
        optimizer.reset_family("swats")
        problem.train(optimizer, [2])
        assert optimizer.state_dict()["param_groups"][0]["swats/switch_step"] is None
