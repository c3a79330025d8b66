from __future__ import annotations

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from hf_iomt.optim import (
    PRESETS,
    SWATS,
    AdaBound,
    InterleavedOptimizer,
    Padam,
    families,
    list_families,
    parse_candidates,
    register_family,
)

SGD, ASGD, Adagrad, RMSprop = torch.optim.SGD, torch.optim.ASGD, torch.optim.Adagrad, torch.optim.RMSprop
Adam, AdamW, Adamax, NAdam, RAdam = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
)
# Candidates with the plain torch optimizer that they stand for. AdamW's own default of weight decay gives way to that
# of the groups, which is 0 here.
PLAIN = {
    "sgd:lr=0.05": (SGD, {}),
    "sgdm:lr=0.05": (SGD, {"momentum": 0.9}),
    "nag:lr=0.05": (SGD, {"momentum": 0.9, "nesterov": True}),
    "asgd:lr=0.05": (ASGD, {}),
    "adagrad:lr=0.05": (Adagrad, {}),
    "rmsprop:lr=0.01": (RMSprop, {}),
    "adam:lr=0.01": (Adam, {}),
    "adamw:lr=0.01": (AdamW, {"weight_decay": 0.0}),
    "adamax:lr=0.01": (Adamax, {}),
    "nadam:lr=0.01": (NAdam, {}),
    "nadamw:lr=0.01,weight_decay=0.1": (NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "radam:lr=0.01": (RAdam, {}),
    "swats:lr=0.01,tolerance=1": (SWATS, {"tolerance": 1}),
    "padam:lr=0.05": (Padam, {}),
    "adabound:lr=0.01": (AdaBound, {}),
    "sgdm:lr=0.05,momentum=0.5,dampening=0.1,weight_decay=0.1": (
        SGD,
        {"momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1},
    ),
    "asgd:lr=0.05,lambd=0.01,t0=5": (ASGD, {"lambd": 0.01, "t0": 5}),
    "adagrad:lr=0.05,lr_decay=0.1,initial_accumulator_value=0.5": (
        Adagrad,
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "rmsprop:lr=0.01,alpha=0.5,momentum=0.9,centered=true": (
        RMSprop,
        {"alpha": 0.5, "momentum": 0.9, "centered": True},
    ),
    "adam:lr=0.01,betas=0.5/0.6,eps=0.01,amsgrad=true": (Adam, {"betas": (0.5, 0.6), "eps": 0.01, "amsgrad": True}),
    "adamw:lr=0.01,weight_decay=0.3": (AdamW, {"weight_decay": 0.3}),
    "adabound:lr=0.01,amsbound=true,final_lr=0.02": (AdaBound, {"amsbound": True, "final_lr": 0.02}),
    "nadam:lr=0.01,momentum_decay=0.1,decoupled_weight_decay=true,weight_decay=0.1": (
        NAdam,
        {"momentum_decay": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.1},
    ),
}
ONE_PER_FAMILY = "; ".join(list(PLAIN)[:15])


class Problem:
    """A small regression whose gradients depend on the parameters, so that a difference grows from step to step."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 3, generator=generator))
        self.bias = torch.nn.Parameter(torch.randn(3, generator=generator))
        self.parameters = [self.weight, self.bias]
        self._inputs = torch.randn(64, 8, 4, generator=generator)
        self._targets = torch.randn(64, 8, 3, generator=generator)

    def loss(self, step):
        output = torch.tanh(self._inputs[step] @ self.weight + self.bias)
        return (output - self._targets[step]).square().mean()

    def train(self, optimizer, steps, scheduler=None, before=None):
        """Train for the steps of a range; returns the parameters after each."""
        trace = []
        for step in steps:
            if before is not None:
                before(step)
            optimizer.zero_grad()
            self.loss(step).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            trace.append([parameter.detach().clone() for parameter in self.parameters])
        return trace


def assert_equal(first, second):
    """Equality of nested containers to the last bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def linear_decay(optimizer):
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 25))


def through_file(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def switching(optimizer, every=3):
    """Activates the candidates in turn."""

    def before(step):
        if step % every == 0:
            optimizer.activate(step // every % len(optimizer.candidates))

    return before


@pytest.fixture
def registry(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


class TestEqualsPlainTorch:
    def test_every_family_is_covered(self):
        assert {name.partition(":")[0] for name in PLAIN} == set(list_families())

    @pytest.mark.parametrize("scheduled", [False, True])
    @pytest.mark.parametrize("candidate", PLAIN)
    def test_one_group(self, candidate, scheduled):
        optimizer_class, settings = PLAIN[candidate]
        traces = []
        for interleaved in (True, False):
            problem = Problem()
            if interleaved:
                optimizer = InterleavedOptimizer(problem.parameters, candidate)
            else:
                rate = parse_candidates(candidate)[0].learning_rate
                optimizer = optimizer_class(problem.parameters, lr=rate, **settings)
            scheduler = linear_decay(optimizer) if scheduled else None
            traces.append(problem.train(optimizer, range(20), scheduler))
        assert_equal(*traces)

    @pytest.mark.parametrize("candidate", PLAIN)
    def test_two_groups_with_weight_decay_and_a_schedule(self, candidate):
        optimizer_class, settings = PLAIN[candidate]
        # A candidate's own weight decay comes first; decay=False comes before either.
        own = settings.get("weight_decay") if "weight_decay" in candidate else None
        traces = []
        for interleaved in (True, False):
            problem = Problem()
            weight, bias = {"params": [problem.weight]}, {"params": [problem.bias]}
            if interleaved:
                weight["weight_decay"], bias["decay"] = 0.2, False
                optimizer = InterleavedOptimizer([weight, bias], candidate)
            else:
                weight["weight_decay"], bias["weight_decay"] = 0.2 if own is None else own, 0.0
                rate = parse_candidates(candidate)[0].learning_rate
                optimizer = optimizer_class([weight, bias], lr=rate, **settings)
            traces.append(problem.train(optimizer, range(20), linear_decay(optimizer)))
        assert_equal(*traces)

    def test_candidates_of_one_family_share_its_state(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "sgdm:lr=0.1|0.01,momentum=0.5|0.9")
        plain = SGD(plain_problem.parameters, lr=0.1, momentum=0.5)

        def write(step):
            plain.param_groups[0]["lr"] = (0.1, 0.1, 0.01, 0.01)[step // 3 % 4]
            plain.param_groups[0]["momentum"] = (0.5, 0.9, 0.5, 0.9)[step // 3 % 4]

        trace = problem.train(optimizer, range(20), before=switching(optimizer))
        assert_equal(trace, plain_problem.train(plain, range(20), before=write))

    def test_an_idle_familys_state_waits_for_its_return(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.05")
        inner = [
            Adam(plain_problem.parameters, lr=0.01),
            SGD(plain_problem.parameters, lr=0.05, momentum=0.9),
            Adagrad(plain_problem.parameters, lr=0.05),
        ]
        trace = problem.train(optimizer, range(24), before=switching(optimizer))
        expected = []
        for step in range(24):
            expected += plain_problem.train(inner[step // 3 % 3], [step])
        assert_equal(trace, expected)

    def test_an_idle_familys_state_can_be_reset(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01|0.02; sgdm:lr=0.05", idle_state="reset")
        trace = problem.train(optimizer, range(18), before=switching(optimizer))
        expected = []
        for start in (0, 9):
            adam = Adam(plain_problem.parameters, lr=0.01)
            expected += plain_problem.train(adam, range(start, start + 3))
            # The second candidate of the same family goes on with the state of the first.
            adam.param_groups[0]["lr"] = 0.02
            expected += plain_problem.train(adam, range(start + 3, start + 6))
            sgdm = SGD(plain_problem.parameters, lr=0.05, momentum=0.9)
            expected += plain_problem.train(sgdm, range(start + 6, start + 9))
        assert_equal(trace, expected)

    @pytest.mark.parametrize(
        "text", ["adam:lr=0.01; adam:lr=0.01,betas=0.5/0.6", "adam:lr=0.01,betas=0.5/0.6; adam:lr=0.01"]
    )
    def test_a_hyperparameter_that_a_candidate_does_not_set_is_torchs_default(self, text):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, text)
        plain = Adam(plain_problem.parameters, lr=0.01)
        betas = [candidate.settings.get("betas", (0.9, 0.999)) for candidate in optimizer.candidates]

        def write(step):
            plain.param_groups[0]["betas"] = betas[step // 3 % 2]

        trace = problem.train(optimizer, range(12), before=switching(optimizer))
        assert_equal(trace, plain_problem.train(plain, range(12), before=write))

    @pytest.mark.parametrize(
        "text",
        [
            "rmsprop:lr=0.01,momentum=0|0.9",
            "rmsprop:lr=0.01,centered=false|true",
            "adam:lr=0.01,amsgrad=false|true",
            "sgdm:lr=0.01,momentum=0|0.9",
            "rmsprop:lr=0.01,momentum=0.9|0.5|0",
            "adam:lr=0.01,amsgrad=true|false",
        ],
    )
    def test_candidates_of_one_family_may_need_different_slots(self, text):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, text)
        trace = problem.train(optimizer, range(12), before=switching(optimizer))
        assert all(parameter.isfinite().all() for parameter in trace[-1])

    @pytest.mark.parametrize(
        "text",
        [
            "rmsprop:lr=0.01,momentum=0; sgd:lr=0.01; rmsprop:lr=0.01,momentum=0.9",
            "adam:lr=0.01; sgd:lr=0.01; adam:lr=0.01,amsgrad=true",
        ],
    )
    def test_candidates_of_one_family_may_need_different_slots_with_another_family_in_between(self, text):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, text)
        trace = problem.train(optimizer, range(12), before=switching(optimizer))
        assert all(parameter.isfinite().all() for parameter in trace[-1])

    def test_a_candidate_that_switches_a_flag_starts_afresh(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "rmsprop:lr=0.01,momentum=0|0.9")
        trace = problem.train(optimizer, range(6), before=switching(optimizer))
        expected = plain_problem.train(torch.optim.RMSprop(plain_problem.parameters, lr=0.01), range(3))
        expected += plain_problem.train(
            torch.optim.RMSprop(plain_problem.parameters, lr=0.01, momentum=0.9), range(3, 6)
        )
        assert_equal(trace, expected)

    def test_parameters_without_gradients_are_skipped(self):
        problem = Problem()
        idle = torch.nn.Parameter(torch.ones(2))
        optimizer = InterleavedOptimizer([*problem.parameters, idle], ONE_PER_FAMILY)
        problem.train(optimizer, range(22), before=switching(optimizer, 2))
        assert idle.tolist() == [1.0, 1.0]

    def test_frozen_halves_of_the_model_need_no_state(self):
        problem = Problem()
        problem.bias.requires_grad_(False)
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        problem.train(optimizer, range(2))
        assert list(optimizer.state) == [problem.weight]


class TestSchedules:
    def test_the_multiplier_scales_every_candidates_rate(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "sgd:lr=0.5; adam:lr=0.01")
        scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for step in range(6):
            optimizer.activate(step % 2)
            expected = (0.5, 0.01)[step % 2] / (1 + step)
            assert optimizer.learning_rate == pytest.approx(expected)
            problem.train(optimizer, [step], scheduler)
            # The schedule has gone on, but this is what the step used.
            assert optimizer.last_learning_rate == pytest.approx(expected)

    def test_a_recursive_schedule_follows_plain_torch(self):
        traces = []
        for make in (lambda p: InterleavedOptimizer(p, "sgdm:lr=0.1"), lambda p: SGD(p, lr=0.1, momentum=0.9)):
            problem = Problem()
            optimizer = make(problem.parameters)
            traces.append(problem.train(optimizer, range(20), CosineAnnealingLR(optimizer, 20))[-1])
        torch.testing.assert_close(*traces)

    def test_a_groups_lr_multiplies_the_candidates(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(
            [{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.25}], "sgdm:lr=0.1"
        )
        plain = SGD(
            [{"params": [plain_problem.weight]}, {"params": [plain_problem.bias], "lr": 0.025}], lr=0.1, momentum=0.9
        )
        trace = problem.train(optimizer, range(10), linear_decay(optimizer))
        expected = plain_problem.train(plain, range(10), linear_decay(plain))
        torch.testing.assert_close(trace, expected)
        assert not torch.equal(trace[-1][1], Problem().bias)

    def test_the_schedule_can_be_ignored_and_taken_up_again(self):
        problem, plain_problem = Problem(), Problem()
        groups = [{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.5}]
        optimizer = InterleavedOptimizer(groups, "sgd:lr=0.5")
        scheduler = linear_decay(optimizer)
        plain = SGD([{"params": [plain_problem.weight]}, {"params": [plain_problem.bias]}], lr=0.5)

        def before(step):
            optimizer.ignore_schedule = step < 5

        def write(step):
            multiplier = 1.0 if step < 5 else 1 - step / 25
            plain.param_groups[0]["lr"], plain.param_groups[1]["lr"] = 0.5 * multiplier, 0.25 * multiplier

        trace = problem.train(optimizer, range(10), scheduler, before)
        torch.testing.assert_close(trace, plain_problem.train(plain, range(10), before=write))

    def test_ignoring_a_schedule_that_is_not_there_changes_nothing(self):
        problem, other = Problem(), Problem()
        first = InterleavedOptimizer(problem.parameters, "sgd:lr=0.1")
        second = InterleavedOptimizer(other.parameters, "sgd:lr=0.1")
        second.ignore_schedule = True
        assert_equal(problem.train(first, range(3)), other.train(second, range(3)))


class TestDamping:
    def test_it_multiplies_all_rates_beside_the_schedule(self):
        problem, plain_problem = Problem(), Problem()
        groups = [{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.5}]
        optimizer = InterleavedOptimizer(groups, "sgd:lr=0.5")
        plain = SGD([{"params": [plain_problem.weight]}, {"params": [plain_problem.bias]}], lr=0.5)

        def before(step):
            optimizer.damping = 1.0 if step < 5 else 0.25

        def write(step):
            multiplier = (1 - step / 25) * (1.0 if step < 5 else 0.25)
            plain.param_groups[0]["lr"], plain.param_groups[1]["lr"] = 0.5 * multiplier, 0.25 * multiplier

        trace = problem.train(optimizer, range(10), linear_decay(optimizer), before)
        torch.testing.assert_close(trace, plain_problem.train(plain, range(10), before=write))
        assert optimizer.last_learning_rate == pytest.approx(0.5 * (1 - 9 / 25) * 0.25)


class TestTakeover:
    def test_the_rate_of_a_family_that_takes_over_rises(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "sgd:lr=0.5; sgdm:lr=0.1")
        optimizer.takeover_steps = 4
        plain = SGD(plain_problem.parameters, lr=0.5)
        momentum = SGD(plain_problem.parameters, lr=0.1, momentum=0.9)
        # SGDM steps from 3 to 9, SGD before and after, which is in its rise when SGDM is back at 12.
        rise = {3: 0.25, 4: 0.5, 5: 0.75, 10: 0.25, 11: 0.5, 12: 0.25, 13: 0.5, 14: 0.75}
        used = []

        def before(step):
            optimizer.activate(int(step in (*range(3, 10), *range(12, 20))))

        trace = []
        for step in range(20):
            trace += problem.train(optimizer, range(step, step + 1), before=before)
            used.append(optimizer.last_learning_rate)
            inner = momentum if step in (*range(3, 10), *range(12, 20)) else plain
            full = inner.defaults["lr"]
            inner.param_groups[0]["lr"] = full * rise.get(step, 1.0)
            torch.testing.assert_close(trace[-1], plain_problem.train(inner, range(step, step + 1))[0])
            assert used[-1] == pytest.approx(inner.param_groups[0]["lr"]) and optimizer.learning_rate == full

    def test_another_candidate_of_the_family_takes_nothing_over(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01|0.02")
        optimizer.takeover_steps = 4
        plain = Adam(plain_problem.parameters, lr=0.01)
        expected = plain_problem.train(plain, range(3))
        plain.param_groups[0]["lr"] = 0.02
        expected += plain_problem.train(plain, range(3, 6))
        trace = problem.train(optimizer, range(6), before=lambda step: optimizer.activate(int(step >= 3)))
        torch.testing.assert_close(trace, expected)

    def test_it_waits_while_schedules_are_ignored(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "sgd:lr=0.5; sgdm:lr=0.1")
        optimizer.takeover_steps = 4
        optimizer.ignore_schedule = True
        optimizer.activate(1)
        used = []
        for step in range(8):
            optimizer.ignore_schedule = step < 3
            problem.train(optimizer, range(step, step + 1))
            used.append(optimizer.last_learning_rate)
        assert used == pytest.approx([0.1, 0.1, 0.1, 0.025, 0.05, 0.075, 0.1, 0.1])


class TestConstruction:
    def test_the_first_candidate_is_active(self):
        optimizer = InterleavedOptimizer(Problem().parameters, "sgd:lr=0.1; adam:lr=0.01|0.02")
        assert [candidate.name for candidate in optimizer.candidates] == ["sgd:lr=0.1", "adam:lr=0.01", "adam:lr=0.02"]
        assert optimizer.active_index == 0 and optimizer.active is optimizer.candidates[0]
        optimizer.activate(2)
        assert optimizer.active_index == 2 and optimizer.active is optimizer.candidates[2]

    def test_candidates_may_be_given_as_objects(self):
        candidates = parse_candidates("sgd:lr=0.1; adam:lr=0.01")
        assert InterleavedOptimizer(Problem().parameters, candidates).candidates == tuple(candidates)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"candidates": []}, "`candidates` is empty"),
            ({"candidates": ""}, "The candidate list is empty"),
            ({"candidates": "lion:lr=0.1"}, "Unknown optimizer family 'lion'"),
            ({"candidates": "sgd:lr=0.1", "idle_state": "drop"}, "`idle_state` must be 'keep' or 'reset', .*'drop'"),
        ],
    )
    def test_errors_say_what_is_wrong(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            InterleavedOptimizer(Problem().parameters, **arguments)

    @pytest.mark.parametrize("index", [-1, 2, 100])
    def test_there_must_be_such_a_candidate(self, index):
        optimizer = InterleavedOptimizer(Problem().parameters, "sgd:lr=0.1; adam:lr=0.01")
        with pytest.raises(IndexError, match=rf"`0 <= index < 2` must hold, but got index={index}"):
            optimizer.activate(index)
        assert optimizer.active_index == 0

    def test_groups_name_every_parameter_once(self):
        problem = Problem()
        optimizer = InterleavedOptimizer([{"params": [problem.weight]}, {"params": [problem.bias]}], ONE_PER_FAMILY)
        problem.train(optimizer, range(22), linear_decay(optimizer), switching(optimizer, 2))
        counts = Counter(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
        assert counts == {id(problem.weight): 1, id(problem.bias): 1}

    def test_a_parameter_may_not_come_twice(self):
        problem = Problem()
        with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
            InterleavedOptimizer([{"params": [problem.bias]}, {"params": [problem.bias]}], "sgd:lr=0.1")

    def test_candidates_of_one_family_have_one_set_of_state(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, PRESETS["paper"])
        problem.train(optimizer, range(15), before=switching(optimizer, 1))
        slots = {slot.partition("/")[0] for slot in optimizer.state_dict()["state"][0]}
        # Without momentum, SGD keeps nothing.
        assert slots == {"sgdm", "adagrad", "rmsprop", "adam"}
        assert sum(slot.endswith("/exp_avg") for slot in optimizer.state[problem.weight]) == 1

    def test_families_take_no_memory_until_they_are_used(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, ONE_PER_FAMILY)
        assert optimizer.state_dict()["state"] == {}
        optimizer.activate(6)
        problem.train(optimizer, range(1))
        assert {slot.partition("/")[0] for slot in optimizer.state[problem.weight]} == {"adam"}

    def test_state_cannot_be_assigned(self):
        optimizer = InterleavedOptimizer(Problem().parameters, "sgd:lr=0.1")
        with pytest.raises(AttributeError, match="through load_state_dict"):
            optimizer.state = {"a": 1}

    def test_parameters_may_be_replaced_in_the_groups(self):
        # Sharding does so between construction and the first step, and also later.
        problem, plain_problem = Problem(), Problem()
        stale = [torch.nn.Parameter(parameter.detach().clone()) for parameter in problem.parameters]
        optimizer = InterleavedOptimizer(stale, "sgdm:lr=0.1; sgd:lr=0.1")
        optimizer.param_groups[0] = {**optimizer.param_groups[0], "params": list(problem.parameters)}
        plain = SGD(plain_problem.parameters, lr=0.1, momentum=0.9)
        assert_equal(problem.train(optimizer, range(4)), plain_problem.train(plain, range(4)))
        optimizer.activate(1)
        plain = SGD(plain_problem.parameters, lr=0.1)
        assert_equal(problem.train(optimizer, range(4)), plain_problem.train(plain, range(4)))

    def test_parameters_may_be_replaced_between_steps(self):
        problem, new_problem, plain_problem = Problem(), Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "sgd:lr=0.1")
        problem.train(optimizer, range(2))
        optimizer.param_groups[0]["params"] = list(new_problem.parameters)
        plain = SGD(plain_problem.parameters, lr=0.1)
        assert_equal(new_problem.train(optimizer, range(4)), plain_problem.train(plain, range(4)))

    def test_a_closure_is_called_and_its_loss_returned(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        plain = Adam(plain_problem.parameters, lr=0.01)

        def closure_of(some, of):
            def closure():
                of.zero_grad()
                loss = some.loss(0)
                loss.backward()
                return loss

            return closure

        first = optimizer.step(closure_of(problem, optimizer))
        second = plain.step(closure_of(plain_problem, plain))
        assert torch.equal(first, second)
        assert torch.equal(problem.weight, plain_problem.weight)

    def test_step_hooks_run_once_a_step(self):
        problem, calls = Problem(), []
        optimizer = InterleavedOptimizer(problem.parameters, "sgd:lr=0.1; adam:lr=0.1")
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        problem.train(optimizer, range(2), before=switching(optimizer, 1))
        assert calls == ["pre", "post"] * 2


class TestAddParamGroup:
    def make(self, text="adam:lr=0.01; sgdm:lr=0.05"):
        problem = Problem()
        return problem, InterleavedOptimizer([problem.weight], text)

    def test_a_group_that_is_added_later_is_trained(self):
        problem, optimizer = self.make()
        plain_problem = Problem()
        plain = Adam([plain_problem.weight], lr=0.01)
        for some, of in ((problem, optimizer), (plain_problem, plain)):
            some.train(of, range(5))
            of.add_param_group({"params": [some.bias], "weight_decay": 0.1})
        # In both: the optimizer cleared no gradient of the bias before it knew it.
        problem.bias.grad = plain_problem.bias.grad = None
        assert_equal(problem.train(optimizer, range(5, 15)), plain_problem.train(plain, range(5, 15)))

    def test_families_that_were_idle_train_it_too(self):
        problem, optimizer = self.make()
        problem.train(optimizer, range(6), before=switching(optimizer))
        optimizer.add_param_group({"params": [problem.bias]})
        before = problem.bias.detach().clone()
        for index in (0, 1):
            optimizer.activate(index)
            problem.train(optimizer, [6 + index])
            assert not torch.equal(problem.bias, before)
            before = problem.bias.detach().clone()

    @pytest.mark.parametrize("steps_after", [0, 1])
    def test_the_state_can_be_saved_afterwards(self, steps_after):
        problem, optimizer = self.make()
        problem.train(optimizer, range(6), before=switching(optimizer))
        optimizer.add_param_group({"params": [problem.bias]})
        problem.train(optimizer, range(6, 6 + steps_after))
        assert len(optimizer.state_dict()["param_groups"]) == 2

    def test_every_group_names_the_active_candidate(self):
        problem, optimizer = self.make()
        optimizer.activate(1)
        optimizer.add_param_group({"params": [problem.bias]})
        assert [group["candidate"] for group in optimizer.param_groups] == ["sgdm:lr=0.05"] * 2


def name_another_candidate(state):
    for group in state["param_groups"]:
        group["candidate"] = "sgd:lr=7"


def add_a_slot_of_another_family(state):
    state["state"][0]["lion/exp_avg"] = torch.zeros(1)


def add_a_counter_of_another_family(state):
    for group in state["param_groups"]:
        group["lion/k"] = 3


def drop_a_group(state):
    del state["param_groups"][1]


def drop_all_groups(state):
    state["param_groups"] = []


def resize_a_group(state):
    state["param_groups"][1]["params"] = [1, 2]


# Ways to spoil a state dict, with the error that follows.
DEFECTS = {
    "candidate": (
        name_another_candidate,
        r"candidate 'sgd:lr=7' active, which is not among.*: sgd:lr=0\.05; .*list it was saved with",
    ),
    "family": (add_a_slot_of_another_family, r"holds the families lion, but this optimizer has only sgd, sgdm, nag"),
    "counter": (add_a_counter_of_another_family, r"holds the families lion, but this optimizer has only sgd, sgdm"),
    "fewer groups": (drop_a_group, r"different number of parameter groups"),
    "no groups": (drop_all_groups, r"was not saved by an InterleavedOptimizer"),
    "group size": (resize_a_group, r"parameter group that doesn't match the size of optimizer's group"),
}


class TestStateDict:
    TEXT = ONE_PER_FAMILY + "; sgdm:lr=0.02,momentum=0.5; nag:lr=0.02"

    def primed(self, idle_state="keep"):
        problem = Problem()
        groups = [{"params": [problem.weight], "weight_decay": 0.1}, {"params": [problem.bias], "decay": False}]
        optimizer = InterleavedOptimizer(groups, self.TEXT, idle_state)
        return problem, optimizer, linear_decay(optimizer)

    @pytest.mark.parametrize("idle_state", ["keep", "reset"])
    @pytest.mark.parametrize("every", [1, 2, 7])
    def test_a_run_goes_on_where_it_was_saved(self, idle_state, every):
        problem, optimizer, scheduler = self.primed(idle_state)
        problem.train(optimizer, range(20), scheduler, switching(optimizer, every))
        saved = through_file(optimizer.state_dict())

        fresh_problem, fresh, fresh_scheduler = self.primed(idle_state)
        with torch.no_grad():
            for target, source in zip(fresh_problem.parameters, problem.parameters, strict=True):
                target.copy_(source)
        untouched = copy.deepcopy(saved)
        fresh.load_state_dict(saved)
        assert_equal(saved, untouched)
        fresh_scheduler.load_state_dict(scheduler.state_dict())

        assert fresh.active == optimizer.active
        assert_equal(fresh.state_dict(), optimizer.state_dict())
        expected = problem.train(optimizer, range(20, 40), scheduler, switching(optimizer, every))
        trace = fresh_problem.train(fresh, range(20, 40), fresh_scheduler, switching(fresh, every))
        assert_equal(trace, expected)
        assert_equal(fresh.state_dict(), optimizer.state_dict())

    def test_loading_replaces_what_was_there(self):
        problem, optimizer, scheduler = self.primed()
        empty = copy.deepcopy(optimizer.state_dict())
        problem.train(optimizer, range(20), scheduler, switching(optimizer))
        optimizer.load_state_dict(empty)
        assert_equal(optimizer.state_dict(), empty)

    def test_an_empty_state_survives_the_round_trip(self):
        problem, optimizer, _ = self.primed()
        fresh_problem, fresh, _ = self.primed()
        fresh.load_state_dict(through_file(optimizer.state_dict()))
        assert_equal(
            problem.train(optimizer, range(10), before=switching(optimizer)),
            fresh_problem.train(fresh, range(10), before=switching(fresh)),
        )

    def test_the_layout_is_torchs(self):
        problem, optimizer, scheduler = self.primed()
        problem.train(optimizer, range(33), scheduler, switching(optimizer))
        state_dict = optimizer.state_dict()
        plain = Adam([{"params": [problem.weight]}, {"params": [problem.bias]}], lr=0.1).state_dict()
        assert set(state_dict) == set(plain)
        assert [group["params"] for group in state_dict["param_groups"]] == [[0], [1]]
        assert set(state_dict["state"]) == {0, 1}
        for slots in state_dict["state"].values():
            assert all(slot.partition("/")[0] in list_families() and slot.partition("/")[2] for slot in slots)
        for group in state_dict["param_groups"]:
            assert {"lr", "initial_lr", "weight_decay", "decay", "candidate"} <= set(group)
            assert group["candidate"] == optimizer.active.name

    def test_slots_hold_what_the_plain_optimizer_would(self):
        problem, plain_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        plain = Adam(plain_problem.parameters, lr=0.01)
        problem.train(optimizer, range(5))
        plain_problem.train(plain, range(5))
        state = optimizer.state_dict()["state"]
        for number, slots in plain.state_dict()["state"].items():
            assert_equal(state[number], {f"adam/{slot}": value for slot, value in slots.items()})

    def test_the_state_dict_does_not_change_the_optimizer(self):
        problem, optimizer, scheduler = self.primed()
        problem.train(optimizer, range(20), scheduler, switching(optimizer))
        keys = [set(group) for group in optimizer.param_groups]
        optimizer.state_dict()
        assert [set(group) for group in optimizer.param_groups] == keys

    @pytest.mark.parametrize("defect", DEFECTS)
    def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(self, defect):
        spoil, message = DEFECTS[defect]
        problem, optimizer, scheduler = self.primed()
        problem.train(optimizer, range(20), scheduler, switching(optimizer))
        before = copy.deepcopy(optimizer.state_dict())
        spoiled = copy.deepcopy(before)
        spoil(spoiled)
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(spoiled)
        assert_equal(optimizer.state_dict(), before)

    @pytest.mark.parametrize("steps", [0, 3])
    def test_a_plain_optimizers_state_is_refused(self, steps):
        problem = Problem()
        plain = Adam(problem.parameters, lr=0.01)
        problem.train(plain, range(steps))
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        with pytest.raises(ValueError, match=r"not saved by an InterleavedOptimizer: its groups name no candidate"):
            optimizer.load_state_dict(plain.state_dict())

    def test_a_wider_candidate_list_can_take_the_state_up(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        problem.train(optimizer, range(5))
        wider = InterleavedOptimizer(problem.parameters, "sgdm:lr=0.1; adam:lr=0.1|0.01")
        wider.load_state_dict(optimizer.state_dict())
        assert wider.active.name == "adam:lr=0.01"
        assert_equal(dict(wider.state), dict(optimizer.state))


class TestCopies:
    @pytest.mark.parametrize(
        "how", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))], ids=["copy", "pickle"]
    )
    @pytest.mark.parametrize("steps", [0, 20])
    def test_a_copy_trains_its_own_parameters_alike(self, how, steps):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, ONE_PER_FAMILY, idle_state="keep")
        problem.train(optimizer, range(steps), before=switching(optimizer))
        optimizer.ignore_schedule, optimizer.damping = True, 0.5
        optimizer.takeover_steps, optimizer.rising = 5, 3
        other_problem, other = how((problem, optimizer))
        assert other.param_groups[0]["params"][0] is other_problem.weight
        assert other.ignore_schedule and other.damping == 0.5 and other.active == optimizer.active
        assert (other.takeover_steps, other.rising) == (5, 3)
        assert other.last_learning_rate == optimizer.last_learning_rate
        expected = problem.train(optimizer, range(steps, steps + 15), before=switching(optimizer))
        assert_equal(other_problem.train(other, range(steps, steps + 15), before=switching(other)), expected)

    def test_a_copy_under_a_scheduler_is_free_of_it(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        scheduler = linear_decay(optimizer)
        problem.train(optimizer, range(5), scheduler)
        other_problem, other = copy.deepcopy((problem, optimizer))
        scheduler.step()
        assert other.learning_rate == pytest.approx(0.01 * 20 / 25)
        before = problem.weight.detach().clone()
        other_problem.train(other, range(3))
        assert torch.equal(problem.weight, before)


def copied(optimizer, family):
    """A copy of a family's state."""
    state = optimizer.release_family(family)
    saved = copy.deepcopy(state)
    optimizer.restore_family(family, state)
    return saved


class TestFamilyState:
    TEXT = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.05; asgd:lr=0.05; nadam:lr=0.01"

    @pytest.mark.parametrize("index", range(5))
    def test_restoring_takes_a_run_back(self, index):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        optimizer.activate(index)
        family = optimizer.active.family
        problem.train(optimizer, range(5))
        saved = copied(optimizer, family)
        parameters = [parameter.detach().clone() for parameter in problem.parameters]
        expected = problem.train(optimizer, range(5, 10))
        # Twice: what is forgotten leaves nothing behind.
        for _ in range(2):
            optimizer.restore_family(family, copy.deepcopy(saved))
            with torch.no_grad():
                for target, source in zip(problem.parameters, parameters, strict=True):
                    target.copy_(source)
            assert_equal(problem.train(optimizer, range(5, 10)), expected)

    def test_tensors_are_handed_over(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, "adam:lr=0.01")
        problem.train(optimizer, range(3))
        before = [slot for slots in optimizer.state.values() for slot in slots.values()]
        saved = optimizer.release_family("adam")
        assert not optimizer.families_in_use() and list(saved["state"]) == list(range(len(problem.parameters)))
        optimizer.restore_family("adam", saved)
        after = [slot for slots in optimizer.state.values() for slot in slots.values()]
        assert len(before) == len(after) == 6 and all(a is b for a, b in zip(before, after, strict=True))

    def test_an_idle_family_can_be_restored(self):
        problem, reference_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        reference = InterleavedOptimizer(reference_problem.parameters, self.TEXT)
        for some, of in ((problem, optimizer), (reference_problem, reference)):
            some.train(of, range(3))
            of.activate(1)
        optimizer.restore_family("adam", optimizer.release_family("adam"))
        for some, of in ((problem, optimizer), (reference_problem, reference)):
            some.train(of, range(3, 6))
            of.activate(0)
        assert_equal(problem.train(optimizer, range(6, 9)), reference_problem.train(reference, range(6, 9)))

    @pytest.mark.parametrize("fused", [False, True])
    def test_what_was_saved_elsewhere_goes_where_the_class_wants_it(self, fused):
        candidates = f"adam:lr=0.1,fused={fused}; sgdm:lr=0.1"
        here, there = Problem(), Problem()
        saved = InterleavedOptimizer(here.parameters, candidates)
        here.train(saved, range(1))
        state = saved.release_family("adam")
        away = [torch.nn.Parameter(parameter.to("meta")) for parameter in there.parameters]
        placed = InterleavedOptimizer(away, candidates).place_family("adam", state)
        assert placed["groups"] == state["groups"]
        assert list(placed["state"]) == list(state["state"])
        for slots in placed["state"].values():
            assert slots["exp_avg"].is_meta and slots["exp_avg_sq"].is_meta
            # Adam counts steps on the CPU, but for fused steps.
            assert slots["step"].is_meta is fused

    @pytest.mark.parametrize("family", ["adam", "nadam", "radam", "rmsprop", "adagrad", "adamax", "adabound", "swats"])
    def test_counters_are_loaded_where_and_as_steps_have_them(self, family):
        """On the CPU: of what lies on a device each step would wait to read them."""
        problem = Problem()
        parameters = [torch.nn.Parameter(item.detach().bfloat16()) for item in problem.parameters]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        saved = InterleavedOptimizer(parameters, f"{family}:lr=0.1")
        saved.step()
        away = [torch.nn.Parameter(parameter.detach().to("meta")) for parameter in parameters]
        loaded = InterleavedOptimizer(away, f"{family}:lr=0.1")
        loaded.load_state_dict(through_file(saved.state_dict()))
        state = loaded.release_family(family)["state"]
        for number, slots in saved.release_family(family)["state"].items():
            counters = {name: slot for name, slot in slots.items() if name in ("step", "mu_product")}
            assert counters
            for name, slot in counters.items():
                assert_equal(state[number][name], slot)

    def test_a_family_that_was_not_used_has_no_state(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        assert optimizer.release_family("adagrad") is None
        optimizer.activate(2)
        problem.train(optimizer, range(2))
        optimizer.restore_family("adagrad", None)
        assert optimizer.release_family("adagrad") is None

    @pytest.mark.parametrize("index", range(5))
    def test_a_reset_family_starts_afresh(self, index):
        problem, fresh_problem = Problem(), Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        optimizer.activate(index)
        problem.train(optimizer, range(5))
        optimizer.reset_family(optimizer.active.family)
        assert optimizer.state_dict()["state"] == {}
        fresh = InterleavedOptimizer(fresh_problem.parameters, self.TEXT)
        fresh.activate(index)
        with torch.no_grad():
            for target, source in zip(fresh_problem.parameters, problem.parameters, strict=True):
                target.copy_(source)
        assert_equal(problem.train(optimizer, range(5, 10)), fresh_problem.train(fresh, range(5, 10)))

    def test_resetting_a_family_that_was_not_used_is_allowed(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.parameters, self.TEXT)
        optimizer.reset_family("adagrad")
        optimizer.activate(2)
        problem.train(optimizer, range(1))


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


class TestAroundTheOptimizer:
    def test_grad_scaler_skips_a_step_that_overflows(self):
        traces = []
        for make in (
            lambda p: InterleavedOptimizer(p, "adam:lr=0.01; sgd:lr=0.1"),
            lambda p: Adam(p, lr=0.01),
        ):
            problem = Problem()
            optimizer = make(problem.parameters)
            scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
            trace = []
            for step in range(10):
                optimizer.zero_grad()
                loss = problem.loss(step)
                scaler.scale(loss * float("inf") if step in (0, 4) else loss).backward()
                before = problem.weight.detach().clone()
                scaler.step(optimizer)
                scaler.update()
                assert torch.equal(problem.weight, before) == (step in (0, 4))
                trace.append([parameter.detach().clone() for parameter in problem.parameters])
            traces.append((trace, scaler.get_scale()))
        assert_equal(*traces)

    def test_gradients_can_be_unscaled_and_clipped(self):
        problem, plain_problem = Problem(), Problem()
        for some, of in (
            (problem, InterleavedOptimizer(problem.parameters, "sgdm:lr=0.1")),
            (plain_problem, SGD(plain_problem.parameters, lr=0.1, momentum=0.9)),
        ):
            scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
            for step in range(4):
                of.zero_grad()
                scaler.scale(some.loss(step)).backward()
                scaler.unscale_(of)
                torch.nn.utils.clip_grad_norm_(some.parameters, 0.1)
                scaler.step(of)
                scaler.update()
        assert torch.equal(problem.weight, plain_problem.weight)

    def test_accelerate_prepares_it_before_the_first_step(self):
        accelerate = pytest.importorskip("accelerate")
        from accelerate.state import AcceleratorState, GradientState

        accelerator = accelerate.Accelerator(cpu=True)
        try:
            problem, plain_problem = Problem(), Problem()
            inner = InterleavedOptimizer(problem.parameters, "adam:lr=0.01; sgdm:lr=0.05")
            optimizer = accelerator.prepare(inner)
            assert optimizer.optimizer is inner
            scheduler = linear_decay(inner)
            plain = Adam(plain_problem.parameters, lr=0.01)
            trace = problem.train(optimizer, range(8), scheduler)
            assert_equal(trace, plain_problem.train(plain, range(8), linear_decay(plain)))
            inner.activate(1)
            saved = through_file(optimizer.state_dict())
            fresh_problem = copy.deepcopy(problem)
            fresh = accelerator.prepare(InterleavedOptimizer(fresh_problem.parameters, "adam:lr=0.01; sgdm:lr=0.05"))
            fresh.load_state_dict(saved)
            assert_equal(problem.train(optimizer, range(8, 12)), fresh_problem.train(fresh, range(8, 12)))
        finally:
            # Accelerate keeps its settings for the process.
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
