"""Trainers of small models, and what their history must say."""

from __future__ import annotations

import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

KEYS = {
    "cycle",
    "first_step",
    "last_step",
    "candidate",
    "family",
    "learning_rate",
    "phase",
    "score",
    "predicted_mean",
    "predicted_std",
    "gain",
    "rolled_back",
    "held_out_loss",
    "overfitted",
    "seconds",
}
THREE = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02"
OPTIMIZERS = {
    "sgdm:lr=0.1": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw:lr=0.01": (torch.optim.AdamW, {"lr": 0.01}),
}
SETTINGS = {
    "linear": {},
    "warm-up": {"warmup_steps": 10},
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipping": {"max_grad_norm": 0.1},
    "weight decay": {"weight_decay": 0.01},
    "all": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "weight_decay": 0.01, "warmup_steps": 10},
}


def make(path, model=None, cls=IOMTTrainer, data=None, evaluation=None, callbacks=None, loss=None, **settings):
    args = IOMTTrainingArguments(**tiny.quiet(path, **settings))
    return cls(
        tiny.bert() if model is None else model,
        args,
        train_dataset=tiny.Texts() if data is None else data,
        eval_dataset=evaluation,
        callbacks=callbacks,
        compute_loss_func=loss,
    )


def check_history(trainer, steps):
    """The documented keys, and every step exactly once."""
    history = trainer.iomt_history
    assert all(set(record) == KEYS for record in history)
    assert [record["cycle"] for record in history] == list(range(len(history)))
    covered = [step for record in history for step in range(record["first_step"], record["last_step"] + 1)]
    assert covered == list(range(1, steps + 1))
    known = {candidate.name: candidate.family for candidate in trainer.interleaved_optimizer.candidates}
    assert all(known[record["candidate"]] == record["family"] for record in history)
    assert all(record["score"] is None or -1 <= record["score"] <= 1 for record in history)
    return history


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True
