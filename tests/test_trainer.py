from __future__ import annotations

import copy
import itertools
import json
import math

import pytest
import tiny
import torch
from trainers import OPTIMIZERS, SETTINGS, THREE, StopAt, check_history, make
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import parse_candidates


class TestOneCandidateIsPlainTrainer:
    """To the last bit, dropout and the order of the data included."""

    def train_both(self, tmp_path, text, settings, model=tiny.bert, runs=1):
        optimizer_class, arguments = OPTIMIZERS[text]
        settings = {"max_steps": 50, **settings}
        plain = Trainer(
            model(),
            TrainingArguments(**tiny.quiet(tmp_path, learning_rate=arguments["lr"], **settings)),
            train_dataset=tiny.Texts(),
            optimizer_cls_and_kwargs=(optimizer_class, dict(arguments)),
        )
        for _ in range(runs):
            plain.train()
        # One after the other: a trainer seeds the generators when it is made.
        interleaved = make(tmp_path, model(), iomt_candidates=text, **settings)
        before = tiny.values(interleaved.model)
        for _ in range(runs):
            interleaved.train()
        tiny.assert_same(tiny.values(plain.model), tiny.values(interleaved.model))
        moved = [not torch.equal(before[name], item) for name, item in tiny.values(interleaved.model).items()]
        assert all(moved)

    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
    @pytest.mark.parametrize("text", OPTIMIZERS)
    def test_weights(self, tmp_path, text, settings):
        self.train_both(tmp_path, text, settings)

    @pytest.mark.parametrize("text", OPTIMIZERS)
    def test_weights_of_an_adapter(self, tmp_path, text):
        self.train_both(tmp_path, text, SETTINGS["all"], tiny.lora)

    def test_weights_after_training_twice(self, tmp_path):
        self.train_both(tmp_path, "adamw:lr=0.01", {"max_steps": 20}, runs=2)

    def test_there_is_neither_a_race_nor_a_rollback(self, tmp_path):
        trainer = make(tmp_path, iomt_candidates="sgdm:lr=1000", max_steps=30)
        trainer.train()
        history = check_history(trainer, 30)
        assert {record["phase"] for record in history} <= {"initial", "surrogate"}
        assert not any(record["rolled_back"] for record in history)


class TestDefaultSettings:
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_the_papers_candidates_do_no_damage(self, tmp_path, model):
        trainer = make(tmp_path, model(dropout=0.0), iomt_candidates="paper", max_steps=60)
        before = tiny.loss_of(trainer.model)
        trainer.train()
        assert all(item.isfinite().all() for item in tiny.values(trainer.model).values())
        assert tiny.loss_of(trainer.model) < before
        # Too few steps for a range test.
        history = check_history(trainer, 60)
        assert history[0]["phase"] == "race" and history[-1]["phase"] in ("initial", "surrogate")
        raced = max(record["last_step"] for record in history if record["phase"] == "race")
        assert 8 <= raced <= 12

    def test_candidates_that_all_destroy_leave_the_model_as_it_was(self, tmp_path):
        trainer = make(
            tmp_path, tiny.bert(dropout=0.0), iomt_candidates="sgd:lr=1e6; sgdm:lr=1e6; adam:lr=1e6", max_steps=60
        )
        before = tiny.values(trainer.model)
        trainer.train()
        # The last cycle may end in its first half.
        assert sum(record["rolled_back"] for record in trainer.iomt_history) >= len(trainer.iomt_history) - 1
        assert tiny.loss_of(trainer.model) == pytest.approx(tiny.loss_of(tiny.bert(dropout=0.0)), rel=1e-5)
        tiny.assert_same(tiny.values(trainer.model), before)

    def test_the_history_is_written_beside_the_model(self, tmp_path):
        trainer = make(tmp_path, iomt_candidates=THREE)
        assert trainer.iomt_history == []
        trainer.train()
        assert json.loads((tmp_path / "iomt_history.json").read_text()) == check_history(trainer, 40)

    def test_one_seed_gives_one_run(self, tmp_path):
        def run(seed):
            trainer = make(tmp_path, iomt_candidates="paper", max_steps=60, seed=seed)
            trainer.train()
            return tiny.values(trainer.model), [{**record, "seconds": 0.0} for record in trainer.iomt_history]

        (values, history), (again, same_history), (others, _) = run(1), run(1), run(2)
        tiny.assert_same(values, again)
        assert history == same_history
        assert not all(torch.equal(values[name], others[name]) for name in values)

    def test_the_papers_preset(self, tmp_path):
        trainer = make(tmp_path, iomt_preset="paper", iomt_switch_steps=3, iomt_initial_cycles=4)
        trainer.train()
        history = check_history(trainer, 40)
        assert [record["phase"] for record in history] == ["initial"] * 2 + ["surrogate"] * 12
        assert [record["score"] is None for record in history] == [False] * 13 + [True]


class TestLogs:
    def test_decisions_and_the_true_learning_rate(self, tmp_path):
        trainer = make(tmp_path, iomt_candidates=THREE, logging_strategy="steps", logging_steps=1, iomt_switch_steps=5)
        trainer.train()
        history = check_history(trainer, 40)
        raced = max(record["last_step"] for record in history if record["phase"] == "race")
        names = [candidate.name for candidate in trainer.interleaved_optimizer.candidates]
        logs = [item for item in trainer.state.log_history if "loss" in item]
        assert [item["step"] for item in logs] == list(range(1, 41))
        family, since = None, 0
        for item in logs:
            step = item["step"]
            record = next(record for record in history if record["first_step"] <= step <= record["last_step"])
            (candidate,) = parse_candidates(record["candidate"])
            # A race runs at full rates, and the schedule begins after it.
            multiplier = 1.0 if record["phase"] == "race" else 1 - (step - 1 - raced) / (40 - raced)
            # Half of a cycle of 5 steps for the rise after a takeover; the race's last entrant is none of the cycles.
            since = since + 1 if candidate.family == family and step > raced + 1 else 1
            family = candidate.family
            if record["phase"] != "race":
                multiplier *= min(since / 2, 1.0)
            assert item["learning_rate"] == pytest.approx(candidate.learning_rate * multiplier)
            assert item["iomt/learning_rate"] == item["learning_rate"]
            assert type(item["iomt/candidate"]) is float and item["iomt/switch"] in (0.0, 1.0)
            if record["phase"] != "race" or step != record["last_step"]:
                assert names[int(item["iomt/candidate"])] == record["candidate"]
        assert {"iomt/score", "iomt/selection_seconds"} <= set(logs[-1])

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_scores_are_those_of_the_logged_losses(self, tmp_path, accumulation):
        trainer = make(
            tmp_path,
            iomt_preset="paper",
            iomt_candidates=THREE,
            iomt_switch_steps=4,
            gradient_accumulation_steps=accumulation,
            logging_strategy="steps",
            logging_steps=1,
            max_steps=25,
        )
        trainer.train()
        losses = [item["loss"] for item in trainer.state.log_history if "loss" in item]
        for record in trainer.iomt_history[:-1]:
            cycle = losses[record["first_step"] - 1 : record["last_step"] + 1]
            first, rest, tau = cycle[0], cycle[1:], len(cycle) - 1
            assert tau == 4
            deltas = [(before - after) / max(before, after) for before, after in itertools.pairwise(cycle)]
            mean = sum(deltas) / tau
            spread = math.sqrt(sum((item - mean) ** 2 for item in deltas) / tau)
            upper = (first - max(rest)) / max(first, *rest) / tau
            lower = (first - min(rest)) / max(first, min(rest)) / tau
            # Losses are logged in single precision or rounded.
            assert record["score"] == pytest.approx(math.tanh((mean + upper + lower) / 3 + 0.1 * spread), abs=2e-3)

    def test_evaluation_logs_stay_as_they_are(self, tmp_path):
        trainer = make(
            tmp_path,
            iomt_candidates=THREE,
            evaluation=tiny.Texts(16, seed=1),
            eval_strategy="steps",
            eval_steps=10,
            logging_strategy="steps",
            logging_steps=10,
        )
        trainer.train()
        evaluations = [item for item in trainer.state.log_history if "eval_loss" in item]
        assert [item["step"] for item in evaluations] == [10, 20, 30, 40]
        assert not any(key.startswith("iomt/") for item in evaluations for key in item)
        assert evaluations[-1]["eval_loss"] == pytest.approx(
            tiny.loss_of(trainer.model, tiny.Texts(16, seed=1)), rel=1e-4
        )
        check_history(trainer, 40)


class TestStoppingAndResuming:
    @pytest.mark.parametrize("kwargs, steps", [({}, 2), ({}, 17), ({"iomt_race_steps": 0}, 23)])
    def test_a_callback_stops_training(self, tmp_path, kwargs, steps):
        trainer = make(
            tmp_path,
            tiny.bert(dropout=0.0),
            iomt_candidates=THREE,
            callbacks=[StopAt(steps)],
            max_steps=100,
            **kwargs,
        )
        trainer.train()
        assert trainer.state.global_step == steps
        check_history(trainer, steps)
        assert not trainer.interleaved_optimizer.ignore_schedule
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0)) * 1.05
        assert json.loads((tmp_path / "iomt_history.json").read_text()) == trainer.iomt_history

    def test_stopped_in_a_race_the_branches_that_destroy_are_left(self, tmp_path):
        trainer = make(
            tmp_path,
            tiny.bert(dropout=0.0),
            iomt_candidates="adam:lr=0.003; sgd:lr=1e6",
            callbacks=[StopAt(7)],
            max_steps=100,
        )
        trainer.train()
        assert trainer.iomt_history[-1]["candidate"].startswith("sgd")
        assert not trainer.interleaved_optimizer.ignore_schedule
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0)) * 1.05

    def test_one_candidate_resumes_to_the_bit(self, tmp_path):
        settings = {"iomt_candidates": "adamw:lr=0.01", "save_strategy": "steps", "save_steps": 20}
        whole = make(tmp_path / "whole", **settings)
        whole.train()
        resumed = make(tmp_path / "whole", tiny.bert(seed=9), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-20"))
        tiny.assert_same(tiny.values(whole.model), tiny.values(resumed.model))
        check_history(resumed, 40)

    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_many_candidates_resume_with_their_moments(self, tmp_path, model):
        settings = {
            "iomt_candidates": THREE,
            "save_strategy": "steps",
            "save_steps": 20,
            "iomt_switch_steps": 4,
        }
        make(tmp_path, model(), **settings).train()
        saved = torch.load(tmp_path / "checkpoint-20" / "optimizer.pt", weights_only=True)
        found = []

        class Look(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if not found:
                    found.append(copy.deepcopy(resumed.interleaved_optimizer.state_dict()))

        resumed = make(tmp_path, model(seed=9), callbacks=[Look()], **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
        check_history(resumed, 40)
        assert saved["state"].keys() == found[0]["state"].keys() and saved["state"]
        for number, slots in saved["state"].items():
            assert slots.keys() == found[0]["state"][number].keys()
            for slot, value in slots.items():
                assert value is None or torch.equal(torch.as_tensor(value), found[0]["state"][number][slot])

    def test_training_twice(self, tmp_path):
        trainer = make(tmp_path, tiny.bert(dropout=0.0), iomt_candidates=THREE)
        trainer.train()
        middle = tiny.values(trainer.model)
        trainer.train()
        check_history(trainer, 40)
        assert trainer.iomt_history[0]["learning_rate"] == 0.01
        assert not all(torch.equal(item, middle[name]) for name, item in tiny.values(trainer.model).items())
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))


class TestRefusals:
    def test_arguments_of_trainer(self, tmp_path):
        with pytest.raises(TypeError, match=r"must be IOMTTrainingArguments, but got TrainingArguments\. Replace"):
            IOMTTrainer(tiny.bert(), TrainingArguments(**tiny.quiet(tmp_path)), train_dataset=tiny.Texts())

    def test_no_arguments(self):
        with pytest.raises(TypeError, match=r"must be IOMTTrainingArguments, but got TrainingArguments"):
            IOMTTrainer(tiny.bert(), train_dataset=tiny.Texts())

    @pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs"])
    def test_an_optimizer(self, tmp_path, way):
        model = tiny.bert()
        given = {
            "optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None),
            "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1}),
        }[way]
        args = IOMTTrainingArguments(**tiny.quiet(tmp_path))
        with pytest.raises(ValueError, match=r"chooses the optimizer itself: pass no optimizer.*`iomt_candidates`"):
            IOMTTrainer(model, args, train_dataset=tiny.Texts(), **{way: given})

    def test_a_scheduler(self, tmp_path):
        model = tiny.bert()
        scheduler = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD(model.parameters(), lr=1.0), lambda step: 0.5)
        args = IOMTTrainingArguments(**tiny.quiet(tmp_path))
        message = r"a LambdaLR that is passed belongs to another one.*`trainer.lr_scheduler = LambdaLR\(trainer\."
        with pytest.raises(ValueError, match=message):
            IOMTTrainer(model, args, train_dataset=tiny.Texts(), optimizers=(None, scheduler))

    def test_another_optimizer_in_a_subclass(self, tmp_path):
        class Own(IOMTTrainer):
            def create_optimizer(self, model=None):
                self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
                return self.optimizer

        trainer = make(tmp_path, cls=Own)
        with pytest.raises(TypeError, match=r"must be the InterleavedOptimizer.*got AdamW.*`super\(\)"):
            trainer.train()

    def test_nothing_to_train(self, tmp_path):
        trainer = make(tmp_path, tiny.bert().requires_grad_(False))
        with pytest.raises(ValueError, match=r"no trainable parameter: every.*`peft.get_peft_model`"):
            trainer.train()

    def test_half_precision_parameters(self, tmp_path):
        model = tiny.bert()
        model.classifier.half()
        trainer = make(tmp_path, model)
        message = r"2 trainable parameters are float16, for example 'classifier.weight'.*`fp16=True`"
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_frozen_half_precision_parameters_are_fine(self, tmp_path):
        model = tiny.lora()
        model.base_model.model.bert.pooler.dense.half()
        trainer = make(tmp_path, model)
        trainer.create_optimizer()
        assert trainer.interleaved_optimizer.param_groups

    def test_a_pattern_that_matches_nothing(self, tmp_path):
        trainer = make(tmp_path, iomt_state_parameters="decoder", iomt_candidates=THREE)
        with pytest.raises(ValueError, match=r"No trainable parameter matches `iomt_state_parameters='decoder'`"):
            trainer.train()
        assert trainer.state.global_step == 0
