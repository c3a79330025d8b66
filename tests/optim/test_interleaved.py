"""The interleaved optimizer does what each optimizer does alone, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from problem import (
    ONE_PER_FAMILY,
    PLAIN,
    SGD,
    Adagrad,
    Adam,
    Problem,
    assert_equal,
    linear_decay,
    switching,
    through_file,
)
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from hf_iomt.optim import InterleavedOptimizer, list_families, parse_candidates


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
