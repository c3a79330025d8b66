"""What the interleaved optimizer is made of, and what it refuses."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from problem import ONE_PER_FAMILY, SGD, Adam, Problem, assert_equal, linear_decay, switching

from hf_iomt.optim import PRESETS, InterleavedOptimizer, parse_candidates


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
