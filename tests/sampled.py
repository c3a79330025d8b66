"""Trainers whose samples are looked at."""

from __future__ import annotations

import tiny
from transformers import Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

# Few, but enough for a race and for the range test of an adapter or a head.
STEPS = 80


def make(path, model=None, data=None, cls=IOMTTrainer, evaluation=None, collator=None, loss=None, **settings):
    settings = {"iomt_candidates": "adamw:lr=1x|3x; sgd:lr=0.01", "max_steps": STEPS, **settings}
    return cls(
        tiny.bert() if model is None else model,
        IOMTTrainingArguments(**tiny.quiet(path, **settings)),
        train_dataset=data,
        eval_dataset=evaluation,
        data_collator=collator,
        compute_loss_func=loss,
    )


def begun(model, data, cls=Trainer, **settings):
    """A trainer as it is when training has begun."""
    args = TrainingArguments(**tiny.quiet("run", **settings))
    trainer = cls(model, args, train_dataset=data)
    trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
    trainer.model.train()
    return trainer


def assert_all_parts(trainer):
    """A run to its end, with a range test and a race."""
    assert trainer.state.global_step == STEPS and trainer.range_test is not None
    assert "race" in {record["phase"] for record in trainer.iomt_history}


def sizes(groups):
    return [sum(count for _, count in group) for group in groups]


def rows_of(groups, texts):
    """Which texts are in each group."""
    places = {tuple(row): index for index, row in enumerate(texts.ids.tolist())}
    return [[places[tuple(row)] for inputs, _ in group for row in inputs["input_ids"].tolist()] for group in groups]
