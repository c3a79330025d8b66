"""What the interleaved optimizer saves, copies and hands out comes back to the last bit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problem import ONE_PER_FAMILY, Adam, Problem, assert_equal, copied, linear_decay, switching, through_file

from hf_iomt.optim import InterleavedOptimizer, list_families


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
