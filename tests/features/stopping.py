"""Evaluation, the best model, stopping and resuming."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import tiny
import torch
from features.rows import At, history_of, make, stop, works
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_iomt import IOMTTrainer

EVALUATION = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}


def with_goodness(path, best, **settings):
    trainer = make(path, metric_for_best_model="goodness", **{**EVALUATION, **settings})
    trainer.compute_metrics = lambda _: {"goodness": float(trainer.state.global_step == best)}
    return trainer


def assert_loaded(trainer, folder):
    saved = tiny.bert().from_pretrained(str(folder))
    tiny.assert_same(tiny.values(trainer.model), tiny.values(saved))


@works("load_best_model_at_end")
def best_model(path):
    trainer = with_goodness(path, 16, load_best_model_at_end=True)
    trainer.train()
    history_of(trainer, 40)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-16")
    assert_loaded(trainer, path / "checkpoint-16")
    assert tiny.loss_of(trainer.model) != tiny.loss_of(tiny.bert().from_pretrained(str(path / "checkpoint-40")))


@works("EarlyStoppingCallback")
def early_stop(path):
    # Stopped by an evaluation in the race, and within a cycle.
    for every, steps in ((1, 2), (5, 10)):
        folder, often = path / str(every), {"eval_steps": every, "save_steps": every}
        trainer = with_goodness(
            folder, every, load_best_model_at_end=True, callbacks=[EarlyStoppingCallback(1)], **often
        )
        trainer.train()
        history_of(trainer, steps)
        assert_loaded(trainer, trainer.state.best_model_checkpoint)
        assert json.loads((folder / "iomt_history.json").read_text()) == trainer.iomt_history


@works("save_total_limit")
def limit(path):
    with_goodness(path, 8, save_total_limit=2, load_best_model_at_end=True).train()
    assert {item.name for item in path.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-40"}
    assert all((item / "iomt_state.pt").exists() for item in path.glob("checkpoint-*"))


@works("eval_on_start")
def evaluated_first(path):
    trainer = make(path, eval_on_start=True)
    expected = trainer.evaluate()["eval_loss"]
    trainer.train()
    first = next(item for item in trainer.state.log_history if "eval_loss" in item)
    assert first["step"] == 0 and first["eval_loss"] == expected
    history_of(trainer, 40)


@works("callbacks that stop training or an epoch")
def stopping(path):
    # In the race, within a cycle, and at the end of one.
    for step in (2, 13, 15):
        trainer = make(path, tiny.bert(dropout=0.0), callbacks=[At("on_step_end", stop, step)])
        trainer.train()
        history_of(trainer, step)
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0)) * 1.05

    def end_epoch(control, **_):
        control.should_epoch_stop = True

    trainer = make(path, max_steps=-1, num_train_epochs=3, callbacks=[At("on_step_end", end_epoch, 6)])
    trainer.train()
    # Ten steps of the first of three epochs are left out.
    history_of(trainer, 38)


@works("resuming after a callback has stopped training")
def stopped_and_resumed(path):
    whole = make(path / "whole")
    whole.train()
    for step in (2, 14):
        folder = path / str(step)
        settings = {"save_strategy": "steps", "save_steps": step}
        make(folder, callbacks=[At("on_step_end", stop, step)], **settings).train()
        resumed = make(folder, tiny.bert(seed=4))
        resumed.train(resume_from_checkpoint=True)
        tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


@works("ignore_data_skip")
def without_skipping(path):
    settings = {"save_strategy": "steps", "save_steps": 6, "data": tiny.Texts(32)}
    make(path, **settings).train()
    read = []

    class Watching(IOMTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            read.append(inputs["input_ids"].clone())
            return super().training_step(model, inputs, *args, **kwargs)

    for skipped in (True, False):
        read.clear()
        resumed = make(path, cls=Watching, ignore_data_skip=not skipped, **settings)
        resumed.train(resume_from_checkpoint=str(path / "checkpoint-6"))
        history_of(resumed, 40)
        # What is left of the first epoch of 8 steps, or all of an epoch.
        epoch = torch.cat(read[:8]).unique(dim=0)
        assert (len(epoch) == 32) is not skipped


def train_until_terminated(path, settings, event, step):
    torch.set_num_threads(1)

    def terminate(**_):
        os.kill(os.getpid(), signal.SIGTERM)
        # The callback of transformers acts on a timer.
        time.sleep(0.3)

    trainer = make(path, enable_jit_checkpoint=True, callbacks=[At(event, terminate, step)], **settings)
    jit = next(item for item in trainer.callback_handler.callbacks if isinstance(item, JITCheckpointCallback))
    jit.jit_manager.kill_wait = 0.05
    trainer.train()


@works("enable_jit_checkpoint (SIGTERM)")
def terminated(path):
    settings = {"gradient_accumulation_steps": 2}
    whole = make(path / "whole", **settings)
    whole.train()
    # In the race, in a cycle and between two epochs of eight steps; noticed before a step, within it and after it.
    for number, (event, step) in enumerate(
        [
            ("on_step_end", 2),
            ("on_substep_end", 1),
            ("on_optimizer_step", 1),
            ("on_step_end", 8),
            ("on_step_end", 13),
            ("on_optimizer_step", 14),
        ]
    ):
        folder = path / str(number)
        process = multiprocessing.get_context("fork").Process(
            target=train_until_terminated, args=(folder, settings, event, step)
        )
        process.start()
        process.join(60)
        assert process.exitcode == 0
        (saved,) = folder.glob("checkpoint-*")
        assert step <= TrainerState.load_from_json(str(saved / "trainer_state.json")).global_step <= step + 1
        resumed = make(folder, tiny.bert(seed=4), **settings)
        resumed.train(resume_from_checkpoint=True)
        tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))
