"""Training that is odd in one way, and what must hold all the same."""

from __future__ import annotations

import math

import tiny
import trainers
from trainers import THREE

from hf_iomt import IOMTTrainer

FAMILIES = ("sgd", "sgdm", "nag", "asgd", "adagrad", "rmsprop", "adam", "adamw", "adamax", "nadam", "nadamw", "radam")
FAMILIES += ("swats", "padam", "adabound")


def make(path, *parts, **others):
    return trainers.make(path, *parts, **{"iomt_candidates": THREE, "iomt_switch_steps": 4, **others})


def check(trainer, steps=40):
    """Every step is in the history, all numbers are finite, and so are the weights."""
    history = trainer.iomt_history
    assert trainer.state.global_step == steps
    covered = [step for record in history for step in range(record["first_step"], record["last_step"] + 1)]
    assert covered == list(range(1, steps + 1))
    numbers = [value for record in history for value in record.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert [name for name, item in trainer.model.state_dict().items() if not item.isfinite().all()] == []
    return history


def assert_resumes(path, model, steps=(15,), **settings):
    """A run that is resumed ends as one that was not, to the last bit."""
    settings = {"save_strategy": "steps", "save_steps": 15, **settings}
    whole = make(path, model(), **settings)
    whole.train()
    for step in steps:
        resumed = make(path, model(), **settings)
        resumed.train(resume_from_checkpoint=str(path / f"checkpoint-{step}"))
        first, second = tiny.outcome(whole), tiny.outcome(resumed)
        tiny.assert_same(first[0], second[0])
        assert first[1] == second[1]
    return whole


def failing(when, how):
    """A trainer whose loss or gradients are no numbers in some steps; `when` takes the step and the candidate."""

    class Failing(IOMTTrainer):
        def hit(self):
            return when(self.state.global_step + 1, self.interleaved_optimizer.active.family)

        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            if model.training and how != "gradients" and self.hit():
                loss = loss * float(how)
            return (loss, outputs) if return_outputs else loss

        def training_step(self, model, *args, **kwargs):
            loss = super().training_step(model, *args, **kwargs)
            if how == "gradients" and self.hit():
                for item in model.parameters():
                    item.grad.fill_(math.nan)
            return loss

    return Failing


HOW = ("nan", "inf", "gradients")
