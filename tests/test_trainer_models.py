"""Models, optimizers, schedules and data through the trainer."""

from __future__ import annotations

import inspect

import pytest
import tiny
import torch
from trainers import THREE, check_history, make
from transformers import Trainer

from hf_iomt import IOMTTrainer, IOMTTrainerMixin, register_family
from hf_iomt.optim import families


class TestModels:
    def test_only_the_adapter_is_in_the_optimizer_and_saved(self, tmp_path):
        trainer = make(tmp_path, tiny.lora(), iomt_candidates=THREE)
        frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
        trainer.train()
        held = {id(item) for group in trainer.interleaved_optimizer.param_groups for item in group["params"]}
        assert held == {id(item) for item in trainer.model.parameters() if item.requires_grad}
        parameters = dict(trainer.model.named_parameters())
        assert frozen and all(torch.equal(parameters[name], item) for name, item in frozen.items())
        trainer.save_model(str(tmp_path / "saved"))
        names = {item.name for item in (tmp_path / "saved").iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "model.safetensors" not in names

    def test_regression(self, tmp_path):
        texts = tiny.Texts(regression=True)
        trainer = make(tmp_path, tiny.bert(labels=1, dropout=0.0), data=texts, iomt_candidates=THREE)
        before = tiny.loss_of(trainer.model, texts)
        trainer.train()
        check_history(trainer, 40)
        assert tiny.loss_of(trainer.model, texts) < before

    def test_weight_decay_spares_biases_and_normalisations(self, tmp_path):
        trainer = make(tmp_path, iomt_candidates="sgd:lr=0.1; adamw:lr=0.01,weight_decay=0.5", weight_decay=0.25)
        trainer.create_optimizer()
        names = {id(item): name for name, item in trainer.model.named_parameters()}
        for group in trainer.interleaved_optimizer.param_groups:
            spared = {"bias" in names[id(item)] or "LayerNorm" in names[id(item)] for item in group["params"]}
            assert spared == {not group["decay"]}
            assert group["weight_decay"] == (0.25 if group["decay"] else 0.0)

    def test_a_trainer_of_ones_own(self, tmp_path):
        calls = []

        class Own(Trainer):
            def compute_loss(self, model, inputs, *args, **kwargs):
                calls.append(model.training)
                return super().compute_loss(model, inputs, *args, **kwargs)

        class Mixed(IOMTTrainerMixin, Own):
            pass

        trainer = make(tmp_path, cls=Mixed, iomt_candidates=THREE)
        trainer.train()
        check_history(trainer, 40)
        # Training steps and probes alike.
        assert calls.count(True) == 40 and calls.count(False) > 0

    def test_the_signature_is_trainers(self):
        assert inspect.signature(IOMTTrainer) == inspect.signature(Trainer)


class TestOptimizers:
    def test_trainers_names_are_families(self, tmp_path):
        text = "adafactor:lr=0.001; adamw_torch_fused:lr=0.01"
        trainer = make(tmp_path, tiny.bert(dropout=0.0), iomt_candidates=text, iomt_selection="cyclical")
        before = tiny.loss_of(trainer.model)
        trainer.train()
        history = check_history(trainer, 40)
        assert {record["family"] for record in history} == {"adafactor", "adamw_torch_fused"}
        assert tiny.loss_of(trainer.model) < before

    def test_an_optimizer_of_ones_own(self, tmp_path):
        known = dict(families._FAMILIES)
        steps = []

        class Signs(torch.optim.Optimizer):
            def __init__(self, params, lr, power=1.0):
                super().__init__(params, {"lr": lr, "power": power})

            @torch.no_grad()
            def step(self, closure=None):
                steps.append(self.param_groups[0]["power"])
                for group in self.param_groups:
                    for item in group["params"]:
                        if item.grad is not None:
                            item.add_(item.grad.sign(), alpha=-group["lr"])

        try:
            register_family("signs", Signs, defaults={"power": 2.0})
            trainer = make(
                tmp_path,
                tiny.bert(dropout=0.0),
                iomt_candidates="signs:lr=0.003; adam:lr=0.01",
                iomt_selection="cyclical",
            )
            trainer.train()
        finally:
            families._FAMILIES.clear()
            families._FAMILIES.update(known)
        taken = sum(
            record["last_step"] - record["first_step"] + 1
            for record in check_history(trainer, 40)
            if record["family"] == "signs"
        )
        assert steps == [2.0] * taken and taken > 0

    @pytest.mark.parametrize("seed", [0, 1])
    def test_candidates_of_one_family_with_other_slots(self, tmp_path, seed):
        trainer = make(
            tmp_path,
            iomt_candidates="rmsprop:lr=1e-3,momentum=0|0.9",
            # With these seeds the first or the second comes first after the race.
            iomt_selection="random",
            iomt_switch_steps=4,
            seed=seed,
        )
        trainer.train()
        history = check_history(trainer, 40)
        assert history[0]["phase"] == "race" and len({record["candidate"] for record in history[2:]}) == 2


class TestSchedulesAndData:
    @pytest.mark.parametrize(
        "settings",
        [
            {"lr_scheduler_type": "linear", "warmup_steps": 30},
            {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10},
            {"lr_scheduler_type": "cosine"},
        ],
    )
    def test_schedulers(self, tmp_path, settings):
        trainer = make(tmp_path, tiny.bert(dropout=0.0), iomt_candidates=THREE, **settings)
        before = tiny.loss_of(trainer.model)
        trainer.train()
        check_history(trainer, 40)
        assert tiny.loss_of(trainer.model) < before

    def test_a_plateau_lowers_every_candidates_rate(self, tmp_path):
        trainer = make(
            tmp_path,
            iomt_candidates="adam:lr=0.01; sgd:lr=0.5",
            iomt_race_steps=0,
            iomt_switch_steps=5,
            iomt_selection="cyclical",
            lr_scheduler_type="reduce_lr_on_plateau",
            # Nothing improves by so much, so that each evaluation but the first halves the rate.
            lr_scheduler_kwargs={"factor": 0.5, "patience": 0, "threshold": 100.0, "threshold_mode": "abs"},
            evaluation=tiny.Texts(16),
            eval_strategy="steps",
            eval_steps=10,
        )
        trainer.train()
        rates = [record["learning_rate"] for record in check_history(trainer, 40)]
        assert rates == pytest.approx([0.01, 0.5, 0.01, 0.5, 0.005, 0.25, 0.0025, 0.125])

    def test_gradient_accumulation_counts_optimizer_steps(self, tmp_path):
        trainer = make(
            tmp_path, iomt_candidates=THREE, gradient_accumulation_steps=3, iomt_race_steps=0, iomt_switch_steps=4
        )
        trainer.train()
        history = check_history(trainer, 40)
        assert [record["last_step"] for record in history] == list(range(4, 41, 4))

    def test_data_without_a_length(self, tmp_path):
        trainer = make(tmp_path, data=tiny.Stream(tiny.Texts()), iomt_candidates=THREE)
        trainer.train()
        check_history(trainer, 40)

    @pytest.mark.parametrize("accumulation, expected", [(1, 8), (2, 4)])
    def test_a_share_of_an_epoch(self, tmp_path, accumulation, expected):
        # 64 samples in batches of 4: 16 batches an epoch.
        trainer = make(
            tmp_path,
            iomt_candidates=THREE,
            iomt_switch_steps=0.5,
            iomt_race_steps=0,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        assert check_history(trainer, 40)[0]["last_step"] == expected

    def test_a_share_of_an_epoch_without_a_length(self, tmp_path):
        trainer = make(tmp_path, data=tiny.Stream(tiny.Texts()), iomt_candidates=THREE, iomt_switch_steps=0.5)
        with pytest.raises(ValueError, match=r"`iomt_switch_steps=0.5` is a share.*no length.*number of steps"):
            trainer.train()

    @pytest.mark.parametrize("preset", ["default", "paper"])
    @pytest.mark.parametrize("steps", [1, 2, 5, 9])
    def test_short_runs(self, tmp_path, steps, preset):
        trainer = make(tmp_path, iomt_preset=preset, iomt_candidates="paper", max_steps=steps)
        before = tiny.values(trainer.model)
        trainer.train()
        check_history(trainer, steps)
        assert all(item.isfinite().all() for item in tiny.values(trainer.model).values())
        assert trainer.state.global_step == steps and before.keys() == tiny.values(trainer.model).keys()

    def test_epochs_instead_of_steps(self, tmp_path):
        trainer = make(tmp_path, iomt_candidates=THREE, max_steps=-1, num_train_epochs=2)
        trainer.train()
        check_history(trainer, 32)
