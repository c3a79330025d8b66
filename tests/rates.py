"""Trainers that find their learning rate."""

from __future__ import annotations

import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

# A tiny adapter has a range test of all steps and gradients from 107 steps on, and none below 67.
STEPS = 150
TOO_FEW = 60
RELATIVE = "adamw:lr=1x|3x; sgd:lr=0.01"
# Rates of Adam and SGD with momentum around what suits, and far from it.
MANY = "adam:lr=1e-3|1e-8|10.0; sgdm:lr=1e-2|1e-8|1e5,momentum=0.9"


class Stop(TrainerCallback):
    """Stops with a checkpoint after some steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


class Beginning(TrainerCallback):
    """Keeps the parameters and the state of the global generator that the first step begins with."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.values, self.generator = tiny.values(model), torch.get_rng_state()


def make(path, model=None, callbacks=None, loss=None, **settings):
    settings = {"iomt_candidates": RELATIVE, "max_steps": STEPS, "iomt_transferability": "off", **settings}
    args = IOMTTrainingArguments(**tiny.quiet(path, **settings))
    return IOMTTrainer(
        model or tiny.lora(), args, train_dataset=tiny.Texts(), callbacks=callbacks, compute_loss_func=loss
    )


def names(trainer):
    return [candidate.name for candidate in trainer.interleaved_optimizer.candidates]
