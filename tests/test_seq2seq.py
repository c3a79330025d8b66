"""Seq2SeqTrainer that interleaves optimizers."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import tiny
import torch
from torch.utils.data import Dataset
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from hf_iomt import IOMTSeq2SeqTrainer, IOMTSeq2SeqTrainingArguments

LENGTH, VOCABULARY = 5, 16


class Copies(Dataset):
    """Sequences of one token each, which are to be repeated."""

    def __init__(self, count=64):
        tokens = torch.randint(4, VOCABULARY, (count, 1), generator=torch.Generator().manual_seed(0))
        self.ids = tokens.repeat(1, LENGTH)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def bart(seed=0):
    torch.manual_seed(seed)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=16,
            init_std=0.2,
        )
    )


def share_right(prediction):
    """The share of tokens that are right, after the start token and before the padding."""
    return {"right": float((prediction.predictions[:, 1 : LENGTH + 1] == prediction.label_ids[:, :LENGTH]).mean())}


def make(path, model=None, compute_metrics=share_right, **settings):
    args = IOMTSeq2SeqTrainingArguments(
        **tiny.quiet(
            path,
            **{
                "per_device_train_batch_size": 8,
                "predict_with_generate": True,
                "generation_config": GenerationConfig(
                    max_new_tokens=LENGTH,
                    min_new_tokens=LENGTH,
                    decoder_start_token_id=2,
                    pad_token_id=1,
                    eos_token_id=2,
                ),
                "iomt_candidates": "adamw:lr=0.01; sgdm:lr=0.1; adagrad:lr=0.05",
                "iomt_switch_steps": 4,
                **settings,
            },
        )
    )
    return IOMTSeq2SeqTrainer(
        bart() if model is None else model,
        args,
        train_dataset=Copies(),
        eval_dataset=Copies(16),
        compute_metrics=compute_metrics,
    )


def test_it_generates_during_evaluation_and_learns(tmp_path):
    trainer = make(tmp_path, eval_strategy="steps", eval_steps=50, max_steps=100)
    before = trainer.evaluate()["eval_right"]
    trainer.train()
    found = [entry["eval_right"] for entry in trainer.state.log_history if "eval_right" in entry]
    assert len(found) == 2 and found[-1] > before + 0.3
    assert trainer.predict(Copies(4)).metrics["test_right"] > before + 0.3


def test_stopped_in_the_race_and_in_a_cycle(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 10, "max_steps": 30}
    whole = make(tmp_path, **settings)
    whole.train()
    assert max(record["last_step"] for record in whole.iomt_history if record["phase"] == "race") == 3
    for step in (2, 13):
        resumed = make(tmp_path, bart(seed=5), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


def test_generating_changes_nothing_of_the_training(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 7, "compute_metrics": None}
    plain = make(tmp_path, predict_with_generate=False, **settings)
    plain.train()
    generating = make(tmp_path, **settings)
    generating.train()
    tiny.assert_same_outcome(tiny.outcome(plain), tiny.outcome(generating))


def test_transferability_generates_only_by_name(tmp_path):
    trainer = make(tmp_path)
    found = trainer.assess_transferability(16)
    assert found.left_out["compute_metrics"] == "it would need to generate text"
    assert found.performance_metric == "token accuracy"
    trainer.args.iomt_performance_metric = "right"
    found = trainer.assess_transferability(64)
    assert (found.performance_metric, found.performance) == ("right", trainer.evaluate(Copies(64))["eval_right"])


def test_the_command_line_gives_the_defaults_of_both(tmp_path):
    arguments = [f"--output_dir={tmp_path}", "--use_cpu", "--predict_with_generate", "--iomt_race_steps=3"]
    (args,) = HfArgumentParser(IOMTSeq2SeqTrainingArguments).parse_args_into_dataclasses(arguments)
    expected = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, predict_with_generate=True)
    plain = (str, int, float, bool, list, dict, type(None))
    for item in fields(Seq2SeqTrainingArguments):
        if isinstance(getattr(expected, item.name), plain):
            assert getattr(args, item.name) == getattr(expected, item.name), item.name
    assert (args.iomt_race_steps, args.iomt_switch_steps) == (3, 25)
    assert inspect.signature(IOMTSeq2SeqTrainer) == inspect.signature(Seq2SeqTrainer)


def test_the_settings_survive_a_checkpoint(tmp_path):
    args = make(tmp_path).args
    assert args.to_dict()["iomt_switch_steps"] == 4
    assert args.to_dict()["generation_config"]["max_new_tokens"] == LENGTH


def test_other_arguments_are_refused(tmp_path):
    args = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(TypeError, match="`args` must be IOMTTrainingArguments"):
        IOMTSeq2SeqTrainer(bart(), args)
