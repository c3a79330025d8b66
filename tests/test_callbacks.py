from __future__ import annotations

import json

import pytest
import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.callbacks import InterleavingCallback

CANDIDATES = "adam:lr=0.01; sgdm:lr=0.05"


def make(path, model=None, callbacks=None, **settings):
    settings = tiny.quiet(
        path,
        **{
            "max_steps": 20,
            "iomt_candidates": CANDIDATES,
            "iomt_race_steps": 0,
            "iomt_switch_steps": 4,
            "iomt_selection": "cyclical",
            **settings,
        },
    )
    return IOMTTrainer(
        tiny.bert(dropout=0.0) if model is None else model,
        IOMTTrainingArguments(**settings),
        train_dataset=tiny.Texts(),
        eval_dataset=tiny.Texts(16, seed=1),
        callbacks=callbacks,
    )


class Watch(TrainerCallback):
    """Copies of the parameters at the events of training."""

    def __init__(self):
        self.at = {}

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.at["evaluate", state.global_step] = tiny.values(model)

    def on_save(self, args, state, control, model=None, **kwargs):
        self.at["save", state.global_step] = tiny.values(model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.at["begin", state.global_step + 1] = tiny.values(model)


def test_there_is_one_callback(tmp_path):
    trainer = make(tmp_path)
    assert sum(isinstance(item, InterleavingCallback) for item in trainer.callback_handler.callbacks) == 1


def test_nothing_is_interleaved_before_training(tmp_path):
    trainer = make(tmp_path)
    assert trainer.interleaving is None and trainer.iomt_history == []
    trainer.evaluate()
    trainer.predict(tiny.Texts(4))
    assert trainer.interleaving is None and not (tmp_path / "iomt_history.json").exists()


def test_a_step_is_counted_for_each_optimizer_step(tmp_path):
    trainer = make(tmp_path, gradient_accumulation_steps=2)
    trainer.train()
    assert [record["last_step"] for record in trainer.iomt_history] == [4, 8, 12, 16, 20]


def test_what_is_evaluated_and_saved_at_the_end_of_a_cycle_has_been_judged(tmp_path):
    watch = Watch()
    trainer = make(
        tmp_path,
        callbacks=[watch],
        iomt_candidates="adam:lr=0.01; sgdm:lr=1e5",
        eval_strategy="steps",
        eval_steps=8,
        save_strategy="steps",
        save_steps=8,
        max_steps=16,
    )
    trainer.train()
    assert [record["rolled_back"] for record in trainer.iomt_history] == [False, True, False, True]
    # The second and the fourth cycle are undone before Trainer looks.
    for step in (8, 16):
        tiny.assert_same(watch.at["evaluate", step], watch.at["begin", step - 3])
        tiny.assert_same(watch.at["save", step], watch.at["begin", step - 3])
    tiny.assert_same(tiny.values(trainer.model), watch.at["begin", 13])


def test_the_last_cycle_is_judged_before_the_last_evaluation(tmp_path):
    watch = Watch()
    trainer = make(
        tmp_path,
        callbacks=[watch],
        iomt_candidates="adam:lr=0.01; sgdm:lr=1e5",
        eval_strategy="steps",
        eval_steps=15,
        max_steps=15,
    )
    # 15 steps leave room for cycles of 3, the last of which is whole; the one before it did damage.
    trainer.train()
    assert trainer.iomt_history[-1]["last_step"] == 15
    tiny.assert_same(tiny.values(trainer.model), watch.at["evaluate", 15])


def test_the_history_is_written_with_every_checkpoint(tmp_path):
    seen = {}

    class Read(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            path = tmp_path / "iomt_history.json"
            seen[state.global_step] = json.loads(path.read_text()) if path.exists() else None

    trainer = make(tmp_path, callbacks=[Read()], save_strategy="steps", save_steps=8)
    trainer.train()
    assert seen[7] is None
    assert [record["last_step"] for record in seen[8]] == [4, 8]
    assert [record["last_step"] for record in seen[16]] == [4, 8, 12, 16]
    assert json.loads((tmp_path / "iomt_history.json").read_text()) == trainer.iomt_history


@pytest.mark.parametrize("best", [10, 20])
def test_the_best_checkpoint_stays_loaded(tmp_path, best):
    def compute_metrics(prediction):
        # The evaluation at step `best` is declared the best.
        return {"goodness": float(trainer.state.global_step == best)}

    trainer = make(
        tmp_path,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="steps",
        save_steps=10,
        load_best_model_at_end=True,
        metric_for_best_model="goodness",
        max_steps=30,
    )
    trainer.compute_metrics = compute_metrics
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    saved = tiny.bert(dropout=0.0).from_pretrained(str(tmp_path / f"checkpoint-{best}"))
    tiny.assert_same(tiny.values(trainer.model), tiny.values(saved))


def test_stopping_leaves_the_last_cycles_damage_out(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 7

    watch = Watch()
    trainer = make(tmp_path, callbacks=[watch, Stop()], iomt_candidates="adam:lr=0.01; sgdm:lr=1e5")
    trainer.train()
    assert trainer.state.global_step == 7
    assert trainer.iomt_history[-1]["rolled_back"] and trainer.iomt_history[-1]["score"] == -1.0
    tiny.assert_same(tiny.values(trainer.model), watch.at["begin", 5])
    assert all(torch.isfinite(item).all() for item in tiny.values(trainer.model).values())
