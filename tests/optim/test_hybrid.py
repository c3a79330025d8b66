"""What SWATS, Padam and AdaBound do alike."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from curved import Curved, to_zero
from torch.optim.lr_scheduler import LambdaLR

from hf_iomt.optim import SWATS, AdaBound, Padam

# SWATS that stays Adam, that switches at step 2, and that switches at step 62 with this schedule.
OPTIMIZERS = {
    "swats": (SWATS, {}),
    "swats, sgd": (SWATS, {"lr": 1e-3, "tolerance": 0.1}),
    "swats, later": (SWATS, {"lr": 1e-3, "tolerance": 5e-4}),
    "padam": (Padam, {}),
    "adabound": (AdaBound, {}),
    "amsbound": (AdaBound, {"amsbound": True}),
}
every = pytest.mark.parametrize("name", OPTIMIZERS)
classes = pytest.mark.parametrize("optimizer_class", [SWATS, Padam, AdaBound])


def make(name, parameters, **settings):
    optimizer_class, own = OPTIMIZERS[name]
    return optimizer_class(parameters, **own, **settings)


def through_file(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", [1, 2, 61, 62, 90])
def test_a_run_goes_on_where_it_was_saved(name, dtype, steps):
    """Also one step before SWATS switches, at the switch, and after it."""
    problem = Curved(dtype)
    optimizer = make(name, problem.parameters)
    scheduler = LambdaLR(optimizer, to_zero)
    problem.train(optimizer, range(steps), scheduler)
    saved = through_file(optimizer.state_dict())
    untouched = copy.deepcopy(saved)
    fresh_problem = Curved(dtype)
    with torch.no_grad():
        for target, source in zip(fresh_problem.parameters, problem.parameters, strict=True):
            target.copy_(source)
    fresh = make(name, fresh_problem.parameters)
    fresh_scheduler = LambdaLR(fresh, to_zero)
    fresh.load_state_dict(saved)
    fresh_scheduler.load_state_dict(scheduler.state_dict())
    expected = problem.train(optimizer, range(steps, steps + 10), scheduler)
    assert np.array_equal(fresh_problem.train(fresh, range(steps, steps + 10), fresh_scheduler), expected)
    assert getattr(fresh, "switch_step", None) == getattr(optimizer, "switch_step", None)
    # What was loaded is the caller's.
    torch.testing.assert_close(saved["param_groups"], untouched["param_groups"], rtol=0, atol=0)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_slots_in_32_bits(name, dtype):
    problem, whole = Curved(dtype), Curved(torch.float32)
    optimizer = make(name, problem.parameters, weight_decay=0.01)
    trace = problem.train(optimizer, range(40))
    expected = whole.train(make(name, whole.parameters, weight_decay=0.01), range(40))
    slots = [slot for slots in optimizer.state.values() for slot in slots.values()]
    assert {slot.dtype for slot in slots} == {torch.float32}
    assert np.isfinite(trace).all() and np.abs(trace - expected).max() < 0.1
    assert not np.array_equal(trace[0], trace[-1])


@every
def test_parameters_without_gradients_stay_and_have_no_slots(name):
    problem = Curved()
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = make(name, [idle, *problem.parameters])
    trace = problem.train(optimizer, range(5))
    plain = Curved()
    assert np.array_equal(trace, plain.train(make(name, plain.parameters), range(5)))
    assert idle.tolist() == [1.0, 1.0] and idle not in optimizer.state
    # A gradient that comes late finds slots.
    idle.grad = torch.ones(2)
    optimizer.step()
    assert idle[0] < 1


@every
def test_a_step_without_any_gradient_is_none(name):
    problem = Curved()
    optimizer = make(name, problem.parameters)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    assert optimizer.state_dict() == before and np.array_equal(problem.flat(), Curved().flat())


@every
def test_a_closure_is_called_and_its_loss_returned(name):
    problem, plain = Curved(), Curved()
    optimizer = make(name, problem.parameters)

    def closure():
        optimizer.zero_grad()
        loss = problem.loss(0)
        loss.backward()
        return loss

    assert optimizer.step(closure) == plain.loss(0)
    plain.train(make(name, plain.parameters), [0])
    assert np.array_equal(problem.flat(), plain.flat())


@classes
def test_sparse_and_complex_gradients_are_refused(optimizer_class):
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = optimizer_class(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=rf"{optimizer_class.__name__} needs dense, real gradients\. Make embedd"):
        optimizer.step()
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.complex64))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(RuntimeError, match="needs dense, real gradients"):
        optimizer_class([parameter]).step()


@classes
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lr": 0.0}, r"`0 < lr < infinity` must hold in {}, but got lr=0\.0"),
        ({"lr": float("nan")}, r"`0 < lr < infinity` must hold in {}, but got lr=nan"),
        ({"betas": (0.9, 1.0)}, r"`0 <= beta < 1 for two betas, .*` must hold in {}, but got betas=\(0\.9, 1\.0\)"),
        ({"betas": 0.9}, r"for two betas, .* but got betas=0\.9"),
        ({"eps": 0.0}, r"`0 < eps < infinity` must hold in {}, but got eps=0\.0"),
        ({"weight_decay": -0.1}, r"`0 <= weight_decay < infinity` must hold in {}, but got weight_decay=-0\.1"),
    ],
)
def test_hyperparameters_are_checked(optimizer_class, settings, message):
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=message.format(optimizer_class.__name__)):
        optimizer_class([parameter], **settings)
    optimizer = optimizer_class([parameter])
    with pytest.raises(ValueError, match=message.format(optimizer_class.__name__)):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], **settings})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "optimizer_class, settings, message",
    [
        (SWATS, {"tolerance": 0.0}, r"`0 < tolerance < infinity` must hold in SWATS, but got tolerance=0\.0"),
        (Padam, {"partial": 0.6}, r"`0 <= partial <= 0\.5` must hold in Padam, but got partial=0\.6"),
        (AdaBound, {"gamma": 0.0}, r"`0 < gamma < 1` must hold in AdaBound, but got gamma=0\.0"),
        (AdaBound, {"final_lr": 0.0}, r"`0 < final_lr < infinity` must hold in AdaBound, but got final_lr=0\.0"),
        (AdaBound, {"amsbound": 1}, r"`amsbound is true or false` must hold in AdaBound, but got amsbound=1"),
    ],
)
def test_hyperparameters_of_single_ones_are_checked(optimizer_class, settings, message):
    with pytest.raises(ValueError, match=message):
        optimizer_class([torch.nn.Parameter(torch.zeros(1))], **settings)


@classes
def test_the_state_of_another_optimizer_is_refused(optimizer_class):
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=rf"was not saved by {optimizer_class.__name__}: its groups lack entries"):
        optimizer_class([parameter]).load_state_dict(torch.optim.Adam([parameter]).state_dict())


@every
def test_a_copy_goes_on_alike(name):
    problem = Curved()
    optimizer = make(name, problem.parameters)
    problem.train(optimizer, range(5))
    twin_problem, twin = copy.deepcopy((problem, optimizer))
    assert np.array_equal(problem.train(optimizer, range(5, 10)), twin_problem.train(twin, range(5, 10)))
