"""Data that a model learns by heart, and trainers that watch it."""

from __future__ import annotations

import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

TWO = "adam:lr=0.01; sgdm:lr=0.05"
# 64 samples of chance, which can be learned by heart only, 2 steps of 32 to an epoch.
STEPS = 300


class Unlabelled(tiny.Texts):
    def __getitem__(self, index):
        return {name: value for name, value in super().__getitem__(index).items() if name != "labels"}


def make(path, train=None, held_out=None, model=None, **settings):
    args = IOMTTrainingArguments(
        **tiny.quiet(
            path,
            **{
                "iomt_candidates": TWO,
                "iomt_switch_steps": 4,
                "iomt_race_steps": 0,
                "iomt_transferability": "0.5",
                "per_device_train_batch_size": 32,
                "max_steps": STEPS,
                **settings,
            },
        )
    )
    train, held_out = train or tiny.Chance(), tiny.Chance(seed=1) if held_out is None else held_out
    model = tiny.bert(dropout=0.0) if model is None else model
    return IOMTTrainer(model, args, train_dataset=train, eval_dataset=held_out)


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


class Normalised(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(tiny.LENGTH, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
        )

    def forward(self, input_ids, attention_mask, labels):
        logits = self.layers(input_ids / 32)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def normalised():
    return Normalised()


def overfitted(trainer):
    return [record for record in trainer.iomt_history if record["overfitted"]]


class Spoiled(tiny.Chance):
    """Held-out data whose loss is no number."""

    def __getitem__(self, index):
        # No label counts.
        return {**super().__getitem__(index), "labels": torch.tensor(-100)}
