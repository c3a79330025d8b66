"""What can be had in a trainer that is not subclassed: an optimizer that a callback switches by a rule of its own."""

from __future__ import annotations

import pytest
import tiny
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_iomt import InterleavedOptimizer

CANDIDATES = "adam:lr=0.01; sgdm:lr=0.05"


class TakingTurns(TrainerCallback):
    """Another candidate every three steps."""

    def __init__(self):
        self.used = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        optimizer.optimizer.activate(state.global_step // 3 % 2)

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.used.append(optimizer.optimizer.active.family)


def make(path, callback):
    args = TrainingArguments(
        str(path), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=12, save_strategy="steps", save_steps=5
    )
    return Trainer(
        tiny.lora(),
        args,
        train_dataset=tiny.Texts(),
        optimizer_cls_and_kwargs=(InterleavedOptimizer, {"candidates": CANDIDATES}),
        callbacks=[callback],
    )


def test_a_callback_switches_and_the_run_resumes(tmp_path):
    turns = TakingTurns()
    whole = make(tmp_path, turns)
    whole.train()
    assert turns.used == [*["adam"] * 3, *["sgdm"] * 3] * 2
    resumed = make(tmp_path, TakingTurns())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    tiny.assert_same(tiny.values(whole.model), tiny.values(resumed.model))


@pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"])
def test_a_callback_does_not_see_the_loss(tmp_path, event):
    """Should Trainer pass it one day, the choice by the loss could be had without subclassing."""
    seen = set()

    def see(self, args, state, control, **kwargs):
        seen.update(kwargs)

    make(tmp_path, type("Seeing", (TrainerCallback,), {event: see})()).train()
    assert "optimizer" in seen and not any("loss" in name for name in seen)
