"""The rows of the table of features, and what their checks share."""

from __future__ import annotations

import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

THREE = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02"

# What is asserted for a feature, and what the documentation says of it.
ROWS = {}


def works(name, **settings):
    return add(name, "works", settings)


def refused(name, **settings):
    return add(name, "refused", settings)


def add(name, verdict, settings):
    def decorate(check):
        assert name not in ROWS
        ROWS[name] = (verdict, lambda path: check(path, **settings))
        return check

    return decorate


def make(path, model=None, callbacks=None, cls=IOMTTrainer, data=None, model_init=None, evaluation=None, **settings):
    args = IOMTTrainingArguments(
        **tiny.quiet(
            path, **{"iomt_candidates": THREE, "iomt_switch_steps": 4, "iomt_transferability": "0.5", **settings}
        )
    )
    return cls(
        tiny.bert() if model is None and model_init is None else model,
        args,
        train_dataset=tiny.Texts() if data is None else data,
        eval_dataset=evaluation if evaluation is not None else tiny.Texts(16, seed=1),
        callbacks=callbacks,
        model_init=model_init,
    )


def history_of(trainer, steps):
    """The history, in which every step occurs exactly once."""
    history = trainer.iomt_history
    covered = [step for record in history for step in range(record["first_step"], record["last_step"] + 1)]
    assert covered == list(range(1, steps + 1)) and trainer.state.global_step == steps
    assert not trainer.interleaved_optimizer.ignore_schedule
    return history


def differ(first, second):
    return any(not torch.equal(item, second[name]) for name, item in first.items())


class At(TrainerCallback):
    """Calls a function with the event's arguments at an event, at one step or at each."""

    def __init__(self, event, call, step=None):
        def on_event(args, state, control, **kwargs):
            if step in (None, state.global_step):
                call(args=args, state=state, control=control, **kwargs)

        setattr(self, event, on_event)


def stop(control, **_):
    control.should_training_stop = True
