"""Held-out samples show that a model overfits: the best parameters come back, and the steps become smaller."""

from __future__ import annotations

import logging
import math

import datasets
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from overfit import STEPS, TWO, Spoiled, StopAfter, Unlabelled, make, normalised, overfitted

from hf_iomt import InterleavedOptimizer
from hf_iomt.overfitting import OverfittingWatch, make_watch, plan_checks
from hf_iomt.selection import score


class TestPlan:
    @given(
        steps=st.integers(1, 10**6),
        epoch=st.integers(1, 10**6),
        per_step=st.integers(1, 10**4),
        samples=st.integers(0, 10**4),
        switch_steps=st.integers(1, 1000),
        forward=st.sampled_from([1 / 3, 1 / 2, 1.0]),
    )
    def test_what_it_costs_and_what_it_shows(self, steps, epoch, per_step, samples, switch_steps, forward):
        period, count = plan_checks(steps, epoch, per_step, samples, switch_steps, forward)
        if not count:
            assert period == 0
            # Too little data, no second epoch, no time for it, or cycles too long to look between them.
            short = forward * 72 * 7 > 0.03 * steps * per_step or 8 * switch_steps > steps - epoch
            assert samples < 72 or steps <= epoch or short
            return
        assert 64 <= count <= samples and count % 8 == 0 and period % switch_steps == 0 and period > 0
        # The one before training, and those at the ends of cycles.
        first = max(0, epoch - period)
        ends = range(switch_steps, steps + 1, switch_steps)
        checks, due = 1, first
        if len(ends) < 10**4:
            for step in ends:
                if step >= due:
                    checks, due = checks + 1, step + period
            assert checks >= 4
            assert checks * count * forward <= 0.03 * steps * per_step + 1e-6

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            # A head of 1,000 samples for 100 epochs of 32; LoRA for one epoch; for three of a small data set.
            ((3200, 32, 32, 250, 25), (100, 248)),
            ((240, 240, 8, 300, 25, 0.5), (0, 0)),
            ((1000, 334, 16, 256, 25, 0.5), (175, 136)),
        ],
    )
    def test_known_runs(self, arguments, expected):
        assert plan_checks(*arguments) == expected


class TestWatch:
    def make(self, losses, **settings):
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.optimizer = InterleavedOptimizer([self.weight], TWO)
        self.losses = iter(losses)
        return OverfittingWatch(
            self.optimizer, [self.weight], lambda: np.asarray(next(self.losses), float), **{"period": 10, "first": 5}
        )

    def run(self, held_out, training):
        """Looks after every ten steps, each of which adds 1 to the weights; gives what the watch said."""
        watch = self.make(held_out)
        found = []
        for number, loss in enumerate(training):
            self.weight.grad = torch.ones(2)
            self.optimizer.step()
            with torch.no_grad():
                self.weight.fill_(number + 1.0)
            found.append(watch.check(10 * number, [9.0, 9.0, loss, loss])[1])
        return watch, found

    def test_the_best_parameters_come_back_and_the_steps_become_smaller(self):
        watch, found = self.run([[1.0, 2.0], [0.5, 1.5], [1.0, 2.0], [0.6, 1.55]], [4.0, 3.0, 2.0, 1.0])
        assert found == [False, False, True, False]
        assert (watch.best_loss, watch.best_step) == (1.0, 10)
        assert self.optimizer.damping == pytest.approx(1 / 3)
        # Those of the second measurement, and then one more step.
        assert self.weight.tolist() == [4.0, 4.0]

    def test_what_came_back(self):
        self.run([[1.0, 2.0], [0.5, 1.5], [1.0, 2.0]], [4.0, 3.0, 2.0])
        assert self.weight.tolist() == [2.0, 2.0]
        # Moments of parameters that are no more are forgotten.
        assert dict(self.optimizer.state) == {}
        assert self.optimizer.learning_rate == pytest.approx(0.01 / 3)

    @pytest.mark.parametrize(
        ("last", "training"),
        [
            # Damage, not overfitting: the training loss has risen too.
            ([1.0, 2.0], 3.5),
            # Less than a tenth.
            ([0.55, 1.55], 2.0),
            # One group alone: within a standard error of the change.
            ([0.2, 2.1], 2.0),
        ],
    )
    def test_what_is_no_overfitting(self, last, training):
        _, found = self.run([[0.5, 1.5], last], [3.0, training])
        assert found == [False, False] and self.optimizer.damping == 1.0
        assert self.weight.tolist() == [2.0, 2.0]

    def test_a_loss_that_is_not_finite_is_one(self):
        _, found = self.run([[0.5, 1.5], [math.inf, 1.5]], [3.0, 2.0])
        assert found == [False, True]

    def test_when_it_is_due(self):
        watch = self.make([[1.0], [1.0], [1.0]])
        assert [watch.is_due(step) for step in (4, 5, 6)] == [False, True, True]
        watch.check(6, [1.0])
        assert [watch.is_due(step) for step in (15, 16)] == [False, True]

    def test_its_state(self):
        first, _ = self.run([[1.0, 2.0], [0.5, 1.5]], [4.0, 3.0])
        state = first.state_dict()
        second = self.make([[1.0, 2.0]])
        second.load_state_dict(state)
        assert second.check(30, [2.0, 2.0]) == (1.5, True)
        assert self.weight.tolist() == [2.0, 2.0]


class TestTraining:
    def test_chance_is_not_learned_by_heart(self, tmp_path, caplog):
        caplog.set_level(logging.INFO, "hf_iomt")
        watched, free = make(tmp_path), make(tmp_path, iomt_overfitting_samples=0)
        watched.train()
        free.train()
        assert not overfitted(free) and all(record["held_out_loss"] is None for record in free.iomt_history)
        assert overfitted(watched)
        losses = [trainer.evaluate()["eval_loss"] for trainer in (watched, free)]
        # Who knows nothing and says so has 0.69.
        assert losses[0] < 1.0 < 2.0 < losses[1]
        assert "going back to the parameters of that step" in caplog.text
        assert "every 32 steps on 64 samples" in caplog.text

    def test_the_rates_that_follow_are_smaller(self, tmp_path):
        trainer = make(tmp_path, lr_scheduler_type="constant")
        trainer.train()
        rates = {"adam:lr=0.01": 0.01, "sgdm:lr=0.05": 0.05}
        damping = 1.0
        for record in trainer.iomt_history:
            assert record["learning_rate"] == pytest.approx(damping * rates[record["candidate"]])
            damping /= 3 if record["overfitted"] else 1
        assert damping < 1

    def test_the_loss_it_measures_is_that_of_an_evaluation(self, tmp_path):
        trainer = make(tmp_path, logging_strategy="steps", logging_steps=1, eval_strategy="steps", eval_steps=4)
        trainer.train()
        evaluated = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        measured = {
            record["last_step"]: record["held_out_loss"]
            for record in trainer.iomt_history
            # Where parameters came back, the evaluation sees these.
            if record["held_out_loss"] is not None and not record["overfitted"]
        }
        assert len(measured) >= 3
        for step, loss in measured.items():
            assert loss == pytest.approx(evaluated[step], rel=1e-5)
        logged = [entry["iomt/held_out_loss"] for entry in trainer.state.log_history if "iomt/held_out_loss" in entry]
        assert set(measured.values()) <= set(logged)

    def test_what_comes_back_is_the_best(self, tmp_path):
        trainer = make(tmp_path, eval_strategy="steps", eval_steps=4)
        trainer.train()
        evaluated = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        first = overfitted(trainer)[0]
        before = [
            record["held_out_loss"]
            for record in trainer.iomt_history
            if record["held_out_loss"] is not None and record["last_step"] < first["last_step"]
        ]
        assert evaluated[first["last_step"]] == pytest.approx(min(before), rel=1e-5)

    def test_going_back_is_no_damage(self, tmp_path):
        trainer = make(tmp_path)
        trainer.train()
        assert overfitted(trainer)
        # The loss of the step that follows is higher, and undoes nothing.
        assert not any(record["rolled_back"] for record in trainer.iomt_history)

    @pytest.mark.parametrize(("score", "rollback"), [("trend", False), ("losses", False), ("probe", True)])
    def test_with_all_scores(self, tmp_path, score, rollback):
        trainer = make(tmp_path, iomt_score=score, iomt_rollback=rollback)
        trainer.train()
        assert overfitted(trainer)
        assert trainer.iomt_history[-1]["last_step"] == STEPS

    def test_after_a_cycle_of_one_step(self, tmp_path):
        """The one loss that is left tells nothing of it."""
        trainer = make(tmp_path, iomt_score="losses", iomt_rollback=False, iomt_switch_steps=1)
        trainer.train()
        assert {record["score"] for record in overfitted(trainer)} == {0.0}
        assert trainer.iomt_history[-1]["last_step"] == STEPS

    def test_what_can_be_learned_is_left_alone(self, tmp_path):
        trainer = make(tmp_path, tiny.Texts(256), tiny.Texts(128, seed=1))
        trainer.train()
        assert any(record["held_out_loss"] is not None for record in trainer.iomt_history)
        assert trainer.evaluate()["eval_loss"] < 0.3

    @pytest.mark.parametrize("settings", [{}, {"iomt_score": "probe"}, {"iomt_rollback": False}])
    def test_at_the_last_step(self, tmp_path, settings):
        """What came back stays, although its training loss is higher than where the cycle began."""
        first = make(tmp_path, lr_scheduler_type="constant", **settings)
        first.train()
        last = overfitted(first)[0]["last_step"]
        trainer = make(tmp_path, lr_scheduler_type="constant", **settings)
        trainer.add_callback(StopAfter(last))
        trainer.train()
        assert trainer.state.global_step == last and trainer.iomt_history[-1]["overfitted"]
        assert not trainer.iomt_history[-1]["rolled_back"]
        best = min(record["held_out_loss"] for record in trainer.iomt_history if record["held_out_loss"] is not None)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-5)

    def test_the_score_is_that_of_the_steps_made(self, tmp_path):
        trainer = make(tmp_path, iomt_score="losses", iomt_rollback=False, lr_scheduler_type="constant")
        losses = []
        step = trainer.training_step
        trainer.training_step = lambda *args: losses.append(step(*args)) or losses[-1]
        trainer.train()
        assert overfitted(trainer)
        for record in trainer.iomt_history[:-1]:
            # The loss of the step that follows belongs to the cycle, unless other parameters have come back before it.
            end = record["last_step"] + (not record["overfitted"])
            expected = score([float(loss) for loss in losses[record["first_step"] - 1 : end]], 0.1)
            assert record["score"] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("model", [normalised, tiny.bert], ids=["batch normalisation", "schedule-free"])
    def test_it_measures_what_an_evaluation_does(self, tmp_path, model):
        candidates = TWO
        if model is tiny.bert:
            pytest.importorskip("schedulefree")
            candidates = "schedule_free_adamw:lr=0.01; sgdm:lr=0.05"
        trainer = make(
            tmp_path,
            model=model(),
            eval_strategy="steps",
            eval_steps=4,
            iomt_candidates=candidates,
            iomt_selection="random",
        )
        trainer.train()
        evaluated = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        measured = [
            (record["held_out_loss"], evaluated[record["last_step"]])
            for record in trainer.iomt_history
            if record["held_out_loss"] is not None and not record["overfitted"]
        ]
        assert len(measured) >= 2
        for ours, theirs in measured:
            assert ours == pytest.approx(theirs, rel=1e-4)

    def test_a_second_run_begins_with_the_full_rates(self, tmp_path):
        trainer = make(tmp_path)
        trainer.train()
        assert trainer.interleaved_optimizer.damping < 1
        trainer.train()
        assert trainer.iomt_history[0]["learning_rate"] == pytest.approx(0.01)

    @pytest.mark.parametrize("step", [pytest.param(52, marks=pytest.mark.slow), 220])
    def test_it_resumes_exactly(self, tmp_path, step):
        settings = {"save_strategy": "steps", "save_steps": 4}
        whole = make(tmp_path, **settings)
        whole.train()
        assert overfitted(whole)
        resumed = make(tmp_path, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))

    def test_the_paper_has_none(self, tmp_path):
        assert make(tmp_path, iomt_preset="paper").args.iomt_overfitting_samples == 0


class TestWhere:
    def watch(self, trainer):
        """What a run of this trainer has."""
        found = []

        class Begun(Exception):
            pass

        def begin():
            trainer.create_optimizer()
            found.append(make_watch(trainer, 32, 4))
            raise Begun

        trainer.begin_interleaving = begin
        with pytest.raises(Begun):
            trainer.train()
        return found[0]

    @pytest.mark.parametrize(
        "held_out",
        [tiny.Chance(seed=1), {"first": tiny.Chance(seed=1), "second": Unlabelled()}],
        ids=["a data set", "several"],
    )
    def test_there_is_one(self, tmp_path, held_out):
        assert self.watch(make(tmp_path, held_out=held_out)) is not None

    @pytest.mark.parametrize(
        ("parts", "settings"),
        [
            ({}, {"iomt_overfitting_samples": 0}),
            ({}, {"iomt_candidates": "adam:lr=0.01"}),
            ({"held_out": {}}, {}),
            ({"held_out": tiny.Stream(tiny.Chance())}, {}),
            ({"train": tiny.Stream(tiny.Chance())}, {}),
            # One epoch.
            ({"train": tiny.Chance(9600)}, {}),
            # A handful of samples.
            ({"held_out": tiny.Chance(16)}, {}),
        ],
        ids=["off", "alone", "no data", "held-out stream", "stream", "one epoch", "few samples"],
    )
    def test_there_is_none(self, tmp_path, caplog, parts, settings):
        assert self.watch(make(tmp_path, **parts, **settings)) is None
        assert "overfitting" not in caplog.text

    @pytest.mark.parametrize(
        ("held_out", "why"),
        [
            (Unlabelled(), "did not return a loss"),
            (Spoiled(), "its loss is not finite"),
            (datasets.Dataset.from_dict({"sentence": ["a"] * 64, "answer": ["b"] * 64}), "No columns in the dataset"),
        ],
        ids=["no labels", "no number", "other columns"],
    )
    def test_data_that_give_no_loss(self, tmp_path, caplog, held_out, why):
        trainer = make(tmp_path, held_out=held_out)
        trainer.train()
        assert "`eval_dataset` is not watched for overfitting" in caplog.text and why in caplog.text
        assert trainer.state.global_step == STEPS and not overfitted(trainer)

    def test_other_data_are_evaluated_afterwards(self, tmp_path):
        settings = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
        trainer = make(tmp_path, max_steps=200, **settings)
        trainer.train()
        # Workers that persist would give the data that was watched.
        assert trainer.evaluate(tiny.Chance(20, seed=2))["eval_samples_per_second"] > 0
        assert not getattr(trainer, "_eval_dataloaders", {}) or len(trainer._eval_dataloaders["eval"].dataset) == 20

    @pytest.mark.parametrize("value", [-1, 2.5, True, "many"])
    def test_bad_values(self, tmp_path, value):
        with pytest.raises(ValueError, match="`0 <= iomt_overfitting_samples <= 1000000000` must hold"):
            make(tmp_path, iomt_overfitting_samples=value)
