from __future__ import annotations

import gc
import weakref

import pytest
import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.checkpoint import STATE_NAME


class Interrupt(TrainerCallback):
    """Ends training with an error at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Beginnings(TrainerCallback):
    """Keeps what a run begins with, and which parameters of the runs before are still there."""

    def __init__(self):
        self.values, self.parameters, self.alive = [], [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        gc.collect()
        self.alive.append([reference() is not None for reference in self.parameters])
        self.parameters.append(weakref.ref(model.classifier.weight))
        self.values.append(tiny.values(model))


class Values(TrainerCallback):
    """Keeps the parameters after each step."""

    def __init__(self):
        self.values = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.values.append(tiny.values(model))


def make(path, callbacks=(), model_init=None, **settings):
    settings = {"iomt_candidates": "adam:lr=1e-3; sgd:lr=1e-2", "iomt_switch_steps": 4, "max_steps": 20, **settings}
    args = IOMTTrainingArguments(**tiny.quiet(path, iomt_transferability="0.5", **settings))
    model = tiny.bert() if model_init is None else None
    return IOMTTrainer(
        model,
        args,
        train_dataset=tiny.Texts(),
        callbacks=[*callbacks],
        model_init=model_init,
        eval_dataset=tiny.Texts(),
    )


@pytest.mark.parametrize(("settings", "step", "kept"), [({"iomt_race_steps": 0}, 6, 4), ({"max_steps": 100}, 2, 0)])
def test_an_interrupted_run_goes_back_at_once(tmp_path, settings, step, kept):
    """In a cycle to where it began, in a race to where that did; what is loaded then stays."""
    begun, made = Beginnings(), Values()
    trainer = make(tmp_path, [begun, made, interrupt := Interrupt(step)], **settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    steps = [begun.values[0], *made.values]
    tiny.assert_same(tiny.values(trainer.model), steps[kept])
    assert trainer.iomt_history
    trainer.remove_callback(interrupt)
    trainer.model.load_state_dict(tiny.bert(seed=5).state_dict())
    trainer.train()
    tiny.assert_same(begun.values[1], tiny.values(tiny.bert(seed=5)))


def test_a_run_leaves_nothing_of_its_parameters_to_the_next(tmp_path):
    begun = Beginnings()
    trainer = make(tmp_path, [begun], model_init=lambda: tiny.bert())
    trainer.train()
    trainer.train()
    assert begun.alive == [[], [False]]


@pytest.mark.parametrize("interrupted", [False, True])
def test_no_copies_of_the_parameters_are_left(tmp_path, interrupted):
    """In a checkpoint of the last step they are, for a longer run."""
    settings = {"per_device_train_batch_size": 32, "max_steps": 300, "save_strategy": "steps", "save_steps": 300}
    callbacks = [Interrupt(150)] if interrupted else []
    trainer = make(tmp_path, callbacks, iomt_race_steps=0, iomt_candidates="adam:lr=0.01; sgdm:lr=0.05", **settings)
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert interrupted
    else:
        saved = torch.load(tmp_path / "checkpoint-300" / STATE_NAME, weights_only=True)["state"]
        assert saved["guard"]["best"] is not None and saved["overfitting"]["best"] is not None
    state = trainer.interleaving.state_dict()
    assert state["guard"]["start"] is None and state["guard"]["best"] is None
    assert state["overfitting"]["best"] is None
    assert trainer.iomt_history
