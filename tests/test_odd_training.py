"""Losses and gradients of unusual kinds, through the real Trainer."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from odd import HOW, THREE, check, failing, make

from hf_iomt import IOMTTrainer

pytestmark = pytest.mark.usefixtures("small_heap")


class TestNoNumbers:
    # Race: 1 to 3. Cycles of four steps: 4 to 7, and so on; 40 is the first of the last.
    @pytest.mark.parametrize("step", [1, 3, 4, 7, 11, 22, 40])
    @pytest.mark.parametrize("how", HOW)
    def test_at_one_step(self, tmp_path, how, step):
        trainer = make(tmp_path, cls=failing(lambda number, _: number == step, how))
        trainer.train()
        history = check(trainer)
        last = tiny.loss_of(trainer.model)
        assert last < 1.1 * tiny.loss_of(tiny.bert())
        if how != "inf" and step < 40:
            record = next(record for record in history if record["first_step"] <= step <= record["last_step"])
            assert record["rolled_back"]

    @pytest.mark.parametrize("settings", [{"max_steps": 43}, {"iomt_score": "losses"}, {"iomt_score": "probe"}])
    @pytest.mark.parametrize("step", [8, 39, 43])
    @pytest.mark.parametrize("how", HOW)
    def test_at_the_end_of_a_cycle(self, tmp_path, how, step, settings):
        settings = {"iomt_race_steps": 0, "iomt_patience": 0, **settings}
        trainer = make(tmp_path, cls=failing(lambda number, _: number == step, how), **settings)
        trainer.train()
        check(trainer, settings.get("max_steps", 40))

    @pytest.mark.parametrize("how", HOW)
    @pytest.mark.parametrize("start", [1, 6, 20])
    def test_from_some_step_on(self, tmp_path, how, start):
        trainer = make(tmp_path, cls=failing(lambda number, _: number >= start, how))
        trainer.train()
        check(trainer)
        if start == 1:
            tiny.assert_same(tiny.values(trainer.model), tiny.values(tiny.bert()))

    @pytest.mark.parametrize("family", ["adam", "sgdm"])
    def test_with_one_candidate(self, tmp_path, family):
        trainer = make(
            tmp_path,
            tiny.bert(dropout=0.0),
            cls=failing(lambda _, active: active == family, "gradients"),
            iomt_candidates="adam:lr=0.003; sgdm:lr=0.03; adagrad:lr=0.01",
            iomt_selection="cyclical",
            iomt_race_steps=0,
        )
        trainer.train()
        history = check(trainer)
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))
        scores = {item["family"]: [] for item in history}
        for item in history[:-1]:
            scores[item["family"]].append(item["score"])
        assert set(scores.pop(family)) == {-1.0}
        assert all(-1.0 not in others for others in scores.values())

    @pytest.mark.parametrize("preset", ["default", "paper"])
    def test_in_the_data(self, tmp_path, preset):
        """The probe has it as well, so that there is nothing to compare with."""
        data = tiny.Texts(regression=True)
        data.labels[:] = math.nan
        trainer = make(tmp_path, tiny.bert(labels=1), data=data, iomt_preset=preset, iomt_candidates=THREE)
        trainer.train()
        assert trainer.state.global_step == 40
        if preset == "default":
            check(trainer)
            tiny.assert_same(tiny.values(trainer.model), tiny.values(tiny.bert(labels=1)))


class Worse(IOMTTrainer):
    """Weights that the last step of a cycle destroys, finite and not; in a short run each step is the last of one."""

    step = 12

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        if self.state.global_step + 1 == self.step:
            for item in model.parameters():
                item.grad.mul_(1e12)
        return loss


class TestTheLastStepOfACycle:
    @pytest.mark.parametrize("tau, steps, patience", [(1, 20, 0), (4, 20, 0), (4, 20, 2), (4, 12, 0)])
    def test_its_damage_is_undone_with_the_next_loss(self, tmp_path, tau, steps, patience):
        settings = {"iomt_switch_steps": tau, "max_steps": steps, "max_grad_norm": 0.0, "iomt_patience": patience}
        candidates = "sgdm:lr=0.003; sgd:lr=0.003"
        settings |= {"iomt_race_steps": 0, "iomt_candidates": candidates, "per_device_train_batch_size": 16}
        trainer = make(tmp_path, cls=Worse, **settings)
        trainer.train()
        history = check(trainer, steps)
        assert [record["last_step"] for record in history if record["rolled_back"]] == [12]
        assert tiny.loss_of(trainer.model) < 1.1 * tiny.loss_of(tiny.bert())

    def test_a_candidate_that_destroys_at_once(self, tmp_path):
        trainer = make(
            tmp_path,
            tiny.bert(dropout=0.0),
            iomt_candidates="adam:lr=0.003; sgd:lr=1e6",
            iomt_switch_steps=1,
            iomt_race_steps=0,
            iomt_selection="cyclical",
            # A destroyed model is right about the one class that a small batch may be of.
            per_device_train_batch_size=16,
        )
        trainer.train()
        history = check(trainer)
        assert {record["rolled_back"] for record in history if record["family"] == "sgd"} == {True}
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))


def shifted(by, factor=1.0):
    class Shifted(IOMTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            loss = factor * loss + by
            return (loss, outputs) if return_outputs else loss

    return Shifted


class TestLossesBelowZero:
    @pytest.mark.parametrize("by, factor", [(-0.9, 1.0), (-0.7, 10.0), (-1000.0, 1.0), (0.0, -1e-6)])
    @pytest.mark.parametrize("score", ["losses", "trend", "probe"])
    def test_a_constant_changes_little(self, tmp_path, score, by, factor):
        trainer = make(
            tmp_path, tiny.bert(dropout=0.0), shifted(by, factor), iomt_score=score, per_device_train_batch_size=16
        )
        trainer.train()
        check(trainer)
        if factor > 0:
            assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))

    @pytest.mark.parametrize("by", [-0.7, -5.0])
    def test_damage_is_still_seen(self, tmp_path, by):
        trainer = make(tmp_path, tiny.bert(dropout=0.0), shifted(by), iomt_candidates="adam:lr=0.003; sgd:lr=1e6")
        trainer.train()
        check(trainer)
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))

    def test_losses_around_zero_are_no_damage(self, tmp_path):
        """As those of reinforcement learning, which begin at 0 and say nothing by their level."""

        class Around(IOMTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
                centred = outputs["logits"][:, 0] * (inputs["input_ids"][:, 0] - 16.5) * 0.01
                loss = centred.mean() - centred.mean().detach() + 0.0 * loss + 1e-3 * torch.randn(())
                return (loss, outputs) if return_outputs else loss

        trainer = make(tmp_path, cls=Around, iomt_race_steps=0, iomt_candidates="sgd:lr=1e-4; sgdm:lr=1e-4")
        trainer.train()
        assert not any(record["rolled_back"] for record in check(trainer))

    def test_exactly_zero(self, tmp_path):
        trainer = make(tmp_path, cls=shifted(0.0, 0.0))
        trainer.train()
        history = check(trainer)
        assert {record["score"] for record in history[:-1]} == {0.0}
        assert not any(record["rolled_back"] for record in history)
        # The mean of equal branches is equal up to rounding.
        before, after = tiny.values(tiny.bert()), tiny.values(trainer.model)
        assert all(torch.allclose(before[name], item, rtol=1e-5) for name, item in after.items())
