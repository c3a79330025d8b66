"""Trainers of TRL that interleave optimizers."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from dataclasses import dataclass, fields

import pytest
import tiny
import torch
from test_checkpoint import kill
from tiny_language import adapter, language_model, preferences, texts
from transformers import HfArgumentParser, LlamaForSequenceClassification, TrainerCallback

trl = pytest.importorskip("trl")

from hf_iomt import IOMTTrainerMixin, IOMTTrainingArguments  # noqa: E402
from hf_iomt.interleaving import Interleaving  # noqa: E402
from hf_iomt.trl import (  # noqa: E402
    IOMTDPOConfig,
    IOMTDPOTrainer,
    IOMTRewardConfig,
    IOMTRewardTrainer,
    IOMTSFTConfig,
    IOMTSFTTrainer,
)

CANDIDATES = "adamw:lr=0.01; sgdm:lr=0.1; adagrad:lr=0.02"
PAIRS = [
    (IOMTSFTConfig, trl.SFTConfig),
    (IOMTDPOConfig, trl.DPOConfig),
    (IOMTRewardConfig, trl.RewardConfig),
]
# Of TRL's `stacklevel`s and transformers' names for the next major version.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def settings_for(path, **settings):
    return tiny.quiet(
        path,
        **{
            "per_device_train_batch_size": 2,
            "max_steps": 24,
            "max_length": 32,
            "gradient_checkpointing": False,
            "iomt_candidates": CANDIDATES,
            "iomt_switch_steps": 4,
            "iomt_probe_samples": 4,
            "iomt_transferability": "0.5",
            **settings,
        },
    )


def make_sft(path, callbacks=None, data=None, **settings):
    model, tokenizer = language_model()
    return IOMTSFTTrainer(
        model,
        IOMTSFTConfig(**settings_for(path, **settings)),
        train_dataset=texts() if data is None else data,
        eval_dataset=texts(8),
        processing_class=tokenizer,
        peft_config=adapter(),
        callbacks=callbacks,
    )


def make_dpo(path, callbacks=None, **settings):
    model, tokenizer = language_model()
    return IOMTDPOTrainer(
        model,
        args=IOMTDPOConfig(**settings_for(path, **settings)),
        train_dataset=preferences(),
        eval_dataset=preferences(8),
        processing_class=tokenizer,
        peft_config=adapter(),
        callbacks=callbacks,
    )


def make_reward(path, callbacks=None, **settings):
    language, tokenizer = language_model()
    torch.manual_seed(0)
    language.config.num_labels, language.config.pad_token_id = 1, tokenizer.pad_token_id
    return IOMTRewardTrainer(
        LlamaForSequenceClassification(language.config),
        IOMTRewardConfig(**settings_for(path, **settings)),
        train_dataset=preferences(),
        eval_dataset=preferences(8),
        processing_class=tokenizer,
        peft_config=adapter(task_type="SEQ_CLS"),
        callbacks=callbacks,
    )


MAKERS = {"sft": make_sft, "dpo": make_dpo, "reward": make_reward}


class TestConfigs:
    @pytest.mark.parametrize("ours, theirs", PAIRS)
    def test_the_command_line_gives_the_defaults_of_both(self, tmp_path, ours, theirs):
        arguments = [f"--output_dir={tmp_path}", "--use_cpu", "--max_length=7", "--iomt_race_steps=3"]
        (config,) = HfArgumentParser(ours).parse_args_into_dataclasses(arguments)
        expected = theirs(str(tmp_path), use_cpu=True, max_length=7)
        values = {item.name: getattr(config, item.name) for item in fields(theirs)}
        # The time is part of it.
        assert values.pop("logging_dir", None) == getattr(expected, "logging_dir", None)
        plain = (str, int, float, bool, list, type(None))
        assert {name: value for name, value in values.items() if isinstance(value, plain)} == {
            name: getattr(expected, name) for name, value in values.items() if isinstance(value, plain)
        }
        assert (config.iomt_race_steps, config.iomt_switch_steps, config.iomt_rollback) == (3, 25, True)
        assert isinstance(config, theirs) and isinstance(config, IOMTTrainingArguments)

    @pytest.mark.parametrize("ours, theirs", PAIRS)
    def test_both_check_their_values(self, tmp_path, ours, theirs):
        with pytest.raises(ValueError, match="`iomt_selection` must be one of"):
            ours(str(tmp_path), use_cpu=True, iomt_selection="best")
        config = ours(str(tmp_path), use_cpu=True, pad_to_multiple_of="8", eval_strategy="steps", logging_steps=5)
        assert (config.pad_to_multiple_of, config.eval_steps) == (8, 5)

    def test_a_reference_that_moves_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"no cycle could be judged\. Set `sync_ref_model=False`"):
            IOMTDPOConfig(str(tmp_path), use_cpu=True, sync_ref_model=True)

    @pytest.mark.parametrize(
        "trainer, theirs",
        [(IOMTSFTTrainer, trl.SFTTrainer), (IOMTDPOTrainer, trl.DPOTrainer), (IOMTRewardTrainer, trl.RewardTrainer)],
    )
    def test_the_signature_is_theirs_and_another_config_is_refused(self, tmp_path, trainer, theirs):
        assert inspect.signature(trainer) == inspect.signature(theirs)
        args = IOMTTrainingArguments(str(tmp_path), use_cpu=True)
        with pytest.raises(TypeError, match=r"`args` must be IOMT\w+Config, but got IOMTTrainingArguments\. Pass"):
            trainer(None, args=args)
        with pytest.raises(TypeError, match=r"but got NoneType"):
            trainer(None)


def test_without_trl_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "hf_iomt.trl")
    with pytest.raises(ImportError, match=r"which is not installed.*pip install 'hf-iomt\[trl\]'"):
        importlib.import_module("hf_iomt.trl")


@pytest.mark.parametrize(
    "name, settings",
    [
        ("sft", {"gradient_checkpointing": True}),
        pytest.param("dpo", {"gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_race_and_in_a_cycle(tmp_path, name, settings):
    """TRL draws the adapter from the seed, so a resumed run has the same model below it."""
    settings = {**settings, "max_steps": 30, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    whole = MAKERS[name](tmp_path / "whole", **{**settings, "save_strategy": "no"})
    whole.train()
    race = [record for record in whole.iomt_history if record["phase"] == "race"]
    assert race[-1]["last_step"] == 3
    # Within a step, whose checkpoint is then missing: the last ones are of step 2, and of step 13, amid a cycle.
    kill(tmp_path / "killed", settings, "step", 3, MAKERS[name])
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    kill(tmp_path / "killed", settings, "step", 12, MAKERS[name])
    assert (tmp_path / "killed" / "checkpoint-13").exists()
    resumed = MAKERS[name](tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=True)
    tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))
    assert any(float(item.abs().sum()) > 0 for key, item in tiny.values(resumed.model).items() if "lora_B" in key)


def test_the_loss_of_a_step_is_the_mean_over_its_tokens(tmp_path, monkeypatch):
    taken, batches = [], []

    class Seeing(IOMTSFTTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            batches.append({name: item.clone() for name, item in inputs.items()})
            return super().training_step(model, inputs, num_items_in_batch)

    after_backward = Interleaving.after_backward

    def seen(self, loss):
        taken.append(float(loss))
        after_backward(self, loss)

    monkeypatch.setattr(Interleaving, "after_backward", seen)
    model, tokenizer = language_model()
    config = IOMTSFTConfig(
        **settings_for(tmp_path, max_steps=2, gradient_accumulation_steps=3, bf16=False),
    )
    config.iomt_candidates = "sgd:lr=1e-12"
    Seeing(model, config, train_dataset=texts(), processing_class=tokenizer).train()
    assert len(taken) == 2 and len(batches) == 6
    for step, loss in enumerate(taken):
        total, tokens = 0.0, 0
        for batch in batches[3 * step : 3 * step + 3]:
            count = int((batch["labels"][:, 1:] != -100).sum())
            with torch.no_grad():
                mean = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
            total, tokens = total + float(mean) * count, tokens + count
        assert loss == pytest.approx(total / tokens, rel=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_logs_are_those_of_training_and_evaluation_alone(tmp_path, name):
    """Steps too small to change anything, so that only what is measured on the side could make a difference."""
    settings = {
        "max_steps": 4,
        "iomt_candidates": "sgd:lr=1e-12|1e-13",
        "iomt_selection": "cyclical",
        "iomt_switch_steps": 1,
        "iomt_race_steps": 0,
        "iomt_rollback": False,
        "logging_strategy": "steps",
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }

    def logs(**more):
        trainer = MAKERS[name](tmp_path, **settings, **more)
        if more:
            trainer.assess_transferability(8)
        trainer.train()
        return [
            {key: value for key, value in entry.items() if not re.search("iomt/|time|per_second", key)}
            for entry in trainer.state.log_history
            if "eval_loss" in entry or "loss" in entry
        ]

    plain, probed = logs(iomt_score="losses"), logs(iomt_score="probe", iomt_preset="default")
    assert len(plain) == len(probed) == 4 and {"num_tokens", "loss"} <= set(plain[0])
    for first, second in zip(plain, probed, strict=True):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-4)


class StopAtOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def test_tokens_of_the_range_test_are_not_counted(tmp_path):
    settings = {"max_steps": 150, "logging_strategy": "steps", "logging_steps": 1, "iomt_race_steps": 0}

    def count(candidates):
        trainer = make_sft(tmp_path, [StopAtOnce()], iomt_candidates=candidates, **settings)
        trainer.train()
        return trainer, next(entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry)

    (tested, after), (plain, without) = count("adamw:lr=1x|3x"), count("adamw:lr=0.01|0.03")
    assert tested.range_test is not None and plain.range_test is None
    assert after == without > 0


@pytest.mark.parametrize(
    "settings",
    [{"loss_type": ["hinge"], "beta": 10.0}, {"loss_type": ["robust"], "label_smoothing": 0.4, "beta": 2.0}],
    ids=["zero", "negative"],
)
def test_losses_of_zero_and_below_are_scored(tmp_path, settings):
    trainer = make_dpo(tmp_path, logging_strategy="steps", logging_steps=1, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert min(losses[-8:]) < 0 if settings["loss_type"] == ["robust"] else 0.0 in losses
    cycles = [record for record in trainer.iomt_history if record["phase"] != "race"]
    assert all(-1 <= record["score"] <= 1 for record in cycles[:-1])
    assert not any(record["rolled_back"] for record in cycles if record["candidate"].startswith("adamw"))


class TestTransferability:
    def test_of_a_language_model(self, tmp_path):
        trainer = make_sft(tmp_path, bf16=False, data=texts(8))
        found = trainer.assess_transferability(8)
        right = tokens = 0
        for row in trainer.train_dataset:
            ids = torch.tensor([row["input_ids"]])
            with torch.no_grad():
                predicted = trainer.model.eval()(ids).logits[0, :-1].argmax(-1)
            right, tokens = right + int((predicted == ids[0, 1:]).sum()), tokens + len(predicted)
        assert found.performance_metric == "token accuracy"
        assert found.performance == pytest.approx(right / tokens)
        assert found.leep is not None

    @pytest.mark.parametrize("name", ["dpo", "reward"])
    def test_of_preferences(self, tmp_path, name):
        trainer = MAKERS[name](tmp_path)
        found = trainer.assess_transferability(8)
        assert (found.weight, found.left_out["performance"]) == (0.5, "the data has no labels")
        trainer.args.iomt_performance_metric = "loss"
        assert trainer.assess_transferability(8).performance == pytest.approx(0.5, abs=0.1)


def test_a_reward_model(tmp_path):
    trainer = make_reward(tmp_path, logging_strategy="steps", logging_steps=1, max_steps=40)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "accuracy" in entry]
    assert sum(entry["accuracy"] for entry in logged[-10:]) / 10 > 0.9
    assert trainer.iomt_history[-1]["last_step"] == 40


def test_another_trainer_of_trl(tmp_path):
    """As the README shows it."""

    @dataclass
    class MyConfig(trl.KTOConfig, IOMTTrainingArguments):
        pass

    class MyTrainer(IOMTTrainerMixin, trl.KTOTrainer):
        pass

    model, tokenizer = language_model()
    config = MyConfig(**settings_for(tmp_path, max_steps=10))
    assert (config.desirable_weight, config.bf16, config.iomt_switch_steps) == (1.0, True, 4)
    trainer = MyTrainer(
        model, args=config, train_dataset=preferences(), processing_class=tokenizer, peft_config=adapter()
    )
    trainer.train()
    assert trainer.iomt_history[-1]["last_step"] == 10
