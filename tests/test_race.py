from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_iomt.optim import InterleavedOptimizer, families, trainable_tensors
from hf_iomt.race import Race
from hf_iomt.race_plan import RacePlan

# For the plain optimizers that the entrants are compared with.
TORCH = {
    "sgd": torch.optim.SGD,
    "sgdm": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


class Problem:
    """Logistic regression on all of its data, so that a step depends on nothing but the model and the optimizer."""

    def __init__(self, normalised=False):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(32, 4, generator=generator) + 1.0
        self.labels = (self.inputs @ torch.tensor([1.0, -2.0, 0.5, 0.0]) > 0.0).float()
        torch.manual_seed(1)
        layers = [torch.nn.Linear(4, 1)]
        if normalised:
            layers.insert(0, torch.nn.BatchNorm1d(4))
        self.model = torch.nn.Sequential(*layers)
        self.tensors = trainable_tensors(self.model)

    def losses(self):
        logits = self.model(self.inputs).squeeze(1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, self.labels, reduction="none")

    def step(self, optimizer):
        optimizer.zero_grad()
        self.losses().mean().backward()
        optimizer.step()

    @torch.no_grad()
    def probe(self):
        """Losses of four groups."""
        self.model.eval()
        values = self.losses().double().reshape(4, 8).mean(1).numpy()
        self.model.train()
        return values

    def values(self):
        return [tensor.detach().clone() for tensor in self.tensors]


def broken(loss, reference):
    return not loss < 2 * reference


def equal(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first, second):
    return all(torch.allclose(a.double(), b.double(), atol=1e-6) for a, b in zip(first, second, strict=True))


def trajectory(candidate, steps, normalised=False):
    """Values after 0, 1, ... steps of plain torch, and its optimizer."""
    problem = Problem(normalised)
    optimizer = TORCH[candidate.family](problem.model.parameters(), lr=candidate.learning_rate)
    trace = [problem.values()]
    for _ in range(steps):
        problem.step(optimizer)
        trace.append(problem.values())
    return trace, optimizer


def start(text, plan, normalised=False):
    problem = Problem(normalised)
    optimizer = InterleavedOptimizer(problem.model.parameters(), text)
    return problem, optimizer, Race(plan, optimizer, problem.tensors, problem.probe, broken)


def drive(problem, optimizer, race, steps=math.inf):
    """Run a race; gives (candidate, steps it had made, values) before each step."""
    seen = []
    while not race.finished and len(seen) < steps:
        seen.append((race.current.candidate, race.current.steps, problem.values()))
        problem.step(optimizer)
        race.after_step()
    return seen


FIVE = "adam:lr=0.05|0.01; sgdm:lr=0.05; sgd:lr=0.1; adagrad:lr=0.05"
PLAN = RacePlan((0, 1, 2, 3, 4), (2, 5, 9), (4, 3, 3))


class TestRunning:
    @pytest.mark.parametrize("normalised", [False, True])
    def test_every_entrant_goes_its_own_way_from_the_origin(self, normalised):
        problem, optimizer, race = start(FIVE, PLAN, normalised)
        seen = drive(problem, optimizer, race)
        assert len(seen) == PLAN.total_steps
        for index, candidate in enumerate(optimizer.candidates):
            trace, _ = trajectory(candidate, PLAN.rungs[-1], normalised)
            mine = [(made, values) for entrant, made, values in seen if entrant == index]
            assert [made for made, _ in mine] == list(range(len(mine)))
            # Bit-equal to a run of its own: parameters, running statistics, moments and step counters.
            assert all(equal(values, trace[made]) for made, values in mine)
            assert equal(race.branches[index].snapshot.values, trace[len(mine)]) == (len(mine) == 9)

    def test_an_optimizer_with_an_iterate_of_its_own_leaves_the_next_entrant_alone(self, monkeypatch):
        class Own(torch.optim.SGD):
            """As schedule-free ones, it swaps the parameters when it is put into evaluation mode."""

            def eval(self):
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.data.add_(1.0)

        monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
        families.register_family("own", Own)
        problem, optimizer, race = start("adam:lr=0.05; own:lr=0.05; sgd:lr=0.05", RacePlan((1, 2, 0), (3,), (3,)))
        seen = drive(problem, optimizer, race)
        race.settle()
        for index in (0, 2):
            trace, _ = trajectory(optimizer.candidates[index], 3)
            assert all(equal(values, trace[made]) for entrant, made, values in seen if entrant == index)

    def test_the_field_shrinks_as_planned(self):
        problem, optimizer, race = start(FIVE, PLAN)
        seen = drive(problem, optimizer, race)
        for low, high, size in [(0, 2, 5), (2, 5, 4), (5, 9, 3)]:
            assert len({candidate for candidate, made, _ in seen if low <= made < high}) == size
        assert sorted(branch.steps for branch in race.branches) == [2, 5, 9, 9, 9]
        assert {branch.steps for branch in race.finalists} == {9}

    def test_the_entrant_whose_rung_ended_is_returned(self):
        problem, optimizer, race = start("adam:lr=0.01; sgd:lr=0.1", RacePlan((0, 1), (2,), (2,)))
        returned = []
        while not race.finished:
            problem.step(optimizer)
            branch = race.after_step()
            returned.append(None if branch is None else branch.candidate)
        assert returned == [None, 0, None, 1]

    def test_the_loss_of_the_origin(self):
        problem, _, race = start(FIVE, PLAN)
        assert race.origin_loss == pytest.approx(float(problem.losses().detach().mean()), rel=1e-6)

    def test_a_warm_up_from_zero_does_not_blind_it(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.model.parameters(), FIVE)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
        assert optimizer.learning_rate == 0.0
        race = Race(PLAN, optimizer, problem.tensors, problem.probe, broken)
        seen = []
        while not race.finished:
            seen.append((race.current.candidate, race.current.steps, problem.values()))
            problem.step(optimizer)
            scheduler.step()
            race.after_step()
        for index, candidate in enumerate(optimizer.candidates):
            trace, _ = trajectory(candidate, PLAN.rungs[-1])
            assert all(equal(values, trace[made]) for entrant, made, values in seen if entrant == index)
        race.settle()
        # The schedule holds again.
        assert optimizer.ignore_schedule is False and optimizer.learning_rate == 0.0

    def test_the_schedule_begins_after_it(self):
        problem = Problem()
        optimizer = InterleavedOptimizer(problem.model.parameters(), FIVE)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (2 + step))
        race = Race(PLAN, optimizer, problem.tensors, problem.probe, broken, scheduler)
        while not race.finished:
            problem.step(optimizer)
            scheduler.step()
            race.after_step()
        assert scheduler.last_epoch == PLAN.total_steps
        race.settle()
        rates = []
        for _ in range(3):
            problem.step(optimizer)
            rates.append(optimizer.last_learning_rate / optimizer.active.learning_rate)
            scheduler.step()
        assert rates == pytest.approx([1 / 2, 1 / 3, 1 / 4])

    def test_only_the_entrants_of_the_plan_run(self):
        problem, optimizer, race = start(FIVE, RacePlan((0, 3), (3,), (2,)))
        assert {candidate for candidate, _, _ in drive(problem, optimizer, race)} == {0, 3}


class TestRanking:
    def test_what_destroys_drops_out(self):
        text = "adam:lr=0.05; sgd:lr=1e6; sgdm:lr=0.05; rmsprop:lr=1e5; sgd:lr=0.1"
        problem, optimizer, race = start(text, PLAN)
        seen = drive(problem, optimizer, race)
        assert {branch.candidate for branch in race.finalists} == {0, 2, 4}
        assert [branch.alive for branch in race.branches] == [True, False, True, False, True]
        # After their first rung they make no step more.
        assert max(made for candidate, made, _ in seen if candidate in (1, 3)) == 1
        assert len(seen) == 5 * 2 + 3 * 3 + 3 * 4

    def test_losses_that_are_not_finite_drop_out(self):
        problem, optimizer, race = start("sgd:lr=1e15; sgdm:lr=0.05; adam:lr=0.05", RacePlan((0, 1, 2), (3,), (3,)))
        drive(problem, optimizer, race)
        assert {branch.candidate for branch in race.finalists} == {1, 2}
        race.settle()
        assert all(tensor.isfinite().all() for tensor in problem.tensors)

    def test_a_clearly_lower_loss_wins(self):
        # Five that learn at very different speeds; the first of the list has its place by right.
        text = "sgd:lr=0.5|0.001; adam:lr=0.2; sgd:lr=0.0001; sgdm:lr=0.4"
        problem, optimizer, race = start(text, PLAN)
        drive(problem, optimizer, race)
        assert {branch.candidate for branch in race.finalists} == {0, 2, 4}

    def test_ties_do_not_matter(self):
        problem, optimizer, race = start("sgd:lr=1e-12|2e-12|3e-12", RacePlan((0, 1, 2), (2,), (3,)))
        drive(problem, optimizer, race)
        assert len(race.finalists) == 3


class TestSettling:
    @pytest.mark.parametrize("normalised", [False, True])
    @pytest.mark.parametrize(
        "text", [FIVE, "sgd:lr=0.01; adam:lr=0.001; sgdm:lr=0.4; rmsprop:lr=0.01; adagrad:lr=0.3"]
    )
    def test_training_goes_on_from_the_first_finalist_or_from_a_mean(self, text, normalised):
        problem, optimizer, race = start(text, PLAN, normalised)
        drive(problem, optimizer, race)
        finalists = [branch.candidate for branch in race.finalists]
        race.settle()
        runs = {index: trajectory(optimizer.candidates[index], 9, normalised) for index in finalists}
        ends = [runs[index][0][-1] for index in finalists]
        means = [
            [
                torch.stack([tensor.double() for tensor in tensors]).mean(0)
                for tensors in zip(*ends[:count], strict=True)
            ]
            for count in range(1, len(ends) + 1)
        ]
        assert [close(problem.values(), mean) for mean in means].count(True) == 1
        reference = Problem(normalised)
        for tensor, value in zip(reference.tensors, ends[0], strict=True):
            tensor.data.copy_(value)
        assert problem.probe().mean() <= reference.probe().mean() + 1e-9
        # The winner is at the wheel, finalists keep their moments, the others have none.
        assert optimizer.active_index == finalists[0]
        kept = {}
        for index in reversed(finalists):
            kept[optimizer.candidates[index].family] = runs[index][1]
        for family in {candidate.family for candidate in optimizer.candidates}:
            state = optimizer.release_family(family)
            if family not in kept:
                assert state is None
                continue
            expected = list(kept[family].state.values())
            found = list(state["state"].values())
            assert len(found) == len(expected)
            for slots, others in zip(found, expected, strict=True):
                others = {key: value for key, value in others.items() if value is not None}
                assert all(torch.equal(slots[key], value) for key, value in others.items())

    @pytest.mark.parametrize(
        "text",
        ["rmsprop:lr=0.01,momentum=0|0.9", "rmsprop:lr=0.01,centered=false|true", "adam:lr=0.01,amsgrad=false|true"],
    )
    def test_a_familys_state_is_that_of_the_finalist_it_came_from(self, text):
        """Whoever of the family made the last step of the race may have had other slots."""
        problem, optimizer, race = start(text, RacePlan((0, 1), (3,), (2,)))
        drive(problem, optimizer, race)
        first = race.finalists[0].candidate
        race.settle()
        (family,) = optimizer.families
        assert optimizer.families_in_use() == {family: first}
        optimizer.activate(1 - first)
        problem.step(optimizer)
        assert optimizer.families_in_use() == {family: 1 - first}

    def test_where_all_did_damage_the_origin_comes_back(self):
        problem = Problem(normalised=True)
        text = "sgd:lr=1e6; adam:lr=1e5; sgdm:lr=1e6; rmsprop:lr=1e5; adagrad:lr=1e6"
        optimizer = InterleavedOptimizer(problem.model.parameters(), text)
        origin = problem.values()
        race = Race(PLAN, optimizer, problem.tensors, problem.probe, broken)
        seen = drive(problem, optimizer, race)
        # One rung is enough to know.
        assert len(seen) == 10 and race.finalists == []
        assert not equal(problem.values(), origin)
        race.settle()
        assert equal(problem.values(), origin)
        assert optimizer.ignore_schedule is False
        assert not optimizer.families_in_use()

    def test_running_statistics_and_their_counters_are_those_of_what_was_chosen(self):
        problem, optimizer, race = start("adam:lr=0.05; sgd:lr=1e6", RacePlan((0, 1), (4,), (2,)), normalised=True)
        drive(problem, optimizer, race)
        race.settle()
        trace, _ = trajectory(optimizer.candidates[0], 4, normalised=True)
        assert equal(problem.values(), trace[-1])
        assert int(problem.model[0].num_batches_tracked) == 4

    @pytest.mark.parametrize("steps", range(PLAN.total_steps))
    def test_it_can_stop_at_any_step(self, steps):
        problem, optimizer, race = start(FIVE, PLAN)
        origin_loss = race.origin_loss
        drive(problem, optimizer, race, steps)
        race.after_stop()
        race.settle()
        assert optimizer.ignore_schedule is False
        assert np.isfinite(problem.probe()).all()
        assert problem.probe().mean() <= origin_loss

    def test_stopped_before_the_first_step_it_changes_nothing(self):
        problem, _, race = start(FIVE, PLAN)
        before = problem.values()
        race.after_stop()
        race.settle()
        assert equal(problem.values(), before)

    def test_a_destroyer_that_is_stopped_in_mid_rung_is_not_kept(self):
        problem, optimizer, race = start("sgd:lr=1e6; adam:lr=0.05", RacePlan((0, 1), (5,), (2,)))
        origin = problem.values()
        drive(problem, optimizer, race, 3)
        race.after_stop()
        race.settle()
        assert equal(problem.values(), origin)


class TestSaved:
    def test_states_come_back_in_the_type_and_place_of_their_parameters(self):
        """Files are read into the CPU's memory; here another type stands for another device."""
        plan = RacePlan((0, 1), (2, 4), (2, 2))
        problem, optimizer, race = start("adam:lr=0.1; rmsprop:lr=0.01", plan)
        drive(problem, optimizer, race, 3)
        saved = race.state_dict()
        for branch in saved["branches"]:
            for slots in (branch["family_state"] or {"state": {}})["state"].values():
                slots.update({name: slot.double() for name, slot in slots.items() if slot.dim() > 0})
        loaded = Race(plan, optimizer, problem.tensors, problem.probe, broken, state=saved)
        states = [branch.family_state.read() for branch in loaded.branches if branch.family_state is not None]
        assert [list(slots) for state in states for slots in state["state"].values()] != []
        for state in states:
            for number, slots in state["state"].items():
                assert {slot.dtype for slot in slots.values()} == {torch.float32}, number
