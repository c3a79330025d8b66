"""Optimizers with a mode for training and one for evaluation, as candidates."""

from __future__ import annotations

import copy

import pytest
import torch
from problem import SGD, Problem, assert_equal, copied, through_file

from hf_iomt.optim import InterleavedOptimizer, families, register_family


@pytest.fixture
def registry(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD in a few lines: steps at y, averages to x, and swaps them by `train` and `eval`."""

    starts_in_train_mode = True

    def __init__(self, params, lr, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "train_mode": self.starts_in_train_mode})

    def _move(self, mode, weight_of):
        for group in self.param_groups:
            if group["train_mode"] != mode:
                for parameter in group["params"]:
                    if "z" in self.state[parameter]:
                        parameter.data.lerp_(self.state[parameter]["z"], weight_of(group["beta"]))
                group["train_mode"] = mode

    def train(self):
        self._move(True, lambda beta: 1 - beta)

    def eval(self):
        self._move(False, lambda beta: 1 - 1 / beta)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("Optimizer was not in train mode when step is called.")
            weight = 1 / (group["k"] + 1)
            for parameter in group["params"]:
                z = self.state[parameter].setdefault("z", parameter.detach().clone())
                parameter.lerp_(z, weight)
                parameter.add_(parameter.grad, alpha=group["lr"] * (group["beta"] * (1 - weight) - 1))
                z.sub_(parameter.grad, alpha=group["lr"])
            group["k"] += 1


class ScheduleFreeAsPublished(ScheduleFree):
    """Like the published package, it refuses to step before `train()` was called."""

    starts_in_train_mode = False


class TestOptimizersWithModes:
    TEXT = "schedulefree:lr=0.1; sgd:lr=0.05"

    @pytest.fixture(autouse=True)
    def family(self, registry):
        register_family("schedulefree", ScheduleFree)
        register_family("schedulefree_strict", ScheduleFreeAsPublished)

    def test_it_steps_as_it_does_alone(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        plain = ScheduleFree(plain_problem.parameters, lr=0.1)
        for step in range(0, 12, 3):
            for of in (optimizer, plain):
                of.train()
            trace = problem.train(optimizer, range(step, step + 3))
            assert_equal(trace, plain_problem.train(plain, range(step, step + 3)))
            for of in (optimizer, plain):
                of.eval()
            assert torch.equal(problem.weight, plain_problem.weight)
            assert not torch.equal(problem.weight, trace[-1][0])

    def test_the_next_family_goes_on_from_the_average(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        problem.train(optimizer, range(6))
        optimizer.activate(1)
        plain = ScheduleFree(plain_problem.parameters, lr=0.1)
        plain_problem.train(plain, range(6))
        plain.eval()
        assert torch.equal(problem.weight, plain_problem.weight)
        trace = problem.train(optimizer, range(6, 9))
        assert_equal(trace, plain_problem.train(SGD(plain_problem.parameters, lr=0.05), range(6, 9)))
        # Its own iterate belongs to parameters that have moved on: it starts afresh.
        optimizer.activate(0)
        trace = problem.train(optimizer, range(9, 12))
        assert_equal(trace, plain_problem.train(ScheduleFree(plain_problem.parameters, lr=0.1), range(9, 12)))

    def test_the_modes_of_an_optimizer_without_any_change_nothing(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        problem.train(optimizer, range(2))
        optimizer.activate(1)
        before = problem.weight.detach().clone()
        optimizer.eval()
        optimizer.train()
        assert torch.equal(problem.weight, before)

    @pytest.mark.parametrize("evaluating", [False, True])
    def test_counters_in_its_groups_are_saved_with_the_state(self, evaluating):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        problem.train(optimizer, range(7))
        if evaluating:
            optimizer.eval()
        saved = through_file(optimizer.state_dict())
        assert saved["param_groups"][0]["schedulefree/k"] == 7
        fresh_problem = copy.deepcopy(problem)
        fresh = InterleavedOptimizer(fresh_problem.parameters, self.TEXT)
        fresh.load_state_dict(saved)
        for of in (optimizer, fresh):
            of.train()
        assert_equal(problem.train(optimizer, range(7, 14)), fresh_problem.train(fresh, range(7, 14)))

    def test_counters_in_its_groups_go_back_with_the_family(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        problem.train(optimizer, range(4))
        saved = copied(optimizer, "schedulefree")
        parameters = [parameter.detach().clone() for parameter in problem.parameters]
        expected = problem.train(optimizer, range(4, 8))
        optimizer.restore_family("schedulefree", saved)
        with torch.no_grad():
            for target, source in zip(problem.parameters, parameters, strict=True):
                target.copy_(source)
        assert_equal(problem.train(optimizer, range(4, 8)), expected)

    @pytest.mark.parametrize("index", [0, 1])
    def test_train_holds_for_a_family_that_is_built_later(self, index):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "sgd:lr=0.05; schedulefree_strict:lr=0.1")
        for step in range(4):
            optimizer.activate((index + step // 2) % 2)
            # What Trainer does at the start of every training step.
            optimizer.train()
            problem.train(optimizer, [step])
