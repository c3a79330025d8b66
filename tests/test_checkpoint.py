"""Runs that were stopped, or killed anywhere, end as if they had not been."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import tiny
import torch
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.checkpoint import STATE_NAME, find_checkpoint

THREE = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02"
# One does damage at once, one after a while: cycles are undone, and the best parameters come back.
HARMFUL = "sgd:lr=0.05; adam:lr=3.0; sgdm:lr=1.5; rmsprop:lr=0.001|0.02"


def make(path, model=None, callbacks=None, cls=IOMTTrainer, **settings):
    args = IOMTTrainingArguments(
        **tiny.quiet(
            path,
            **{
                "save_strategy": "steps",
                "save_steps": 1,
                "iomt_candidates": THREE,
                "iomt_switch_steps": 4,
                **settings,
            },
        )
    )
    return cls(tiny.lora() if model is None else model, args, train_dataset=tiny.Texts(), callbacks=callbacks)


def slow(settings):
    """What is tested for every change by cases that are like it."""
    return pytest.param(settings, marks=pytest.mark.slow)


class TestExactness:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"gradient_accumulation_steps": 2, "warmup_steps": 5, "max_grad_norm": 0.5},
            slow({"bf16": True}),
            slow({"iomt_score": "probe"}),
            {"iomt_preset": "paper", "iomt_initial_cycles": 3, "iomt_candidates": THREE},
            slow({"iomt_selection": "random"}),
            {"iomt_candidates": HARMFUL, "iomt_patience": 2, "iomt_advantage": 0.0, "weight_decay": 0.1},
            slow({"iomt_candidates": HARMFUL, "iomt_idle_state": "reset", "lr_scheduler_type": "cosine"}),
            slow({"iomt_candidates": "rmsprop:lr=0.01; rmsprop:lr=0.01,momentum=0.9; nag:lr=0.01,momentum=0.9"}),
            slow({"iomt_candidates": "adamw:lr=0.01"}),
            # SWATS switches within its rung of the race, and in a run of its own.
            {"iomt_candidates": "swats:lr=1e-3,tolerance=1e-3; padam:lr=0.1; adabound:lr=1e-3"},
            slow(
                {"iomt_candidates": "swats:lr=1e-3,tolerance=1e-3", "lr_scheduler_type": "cosine", "warmup_steps": 5}
            ),
        ],
        ids=lambda settings: ", ".join(f"{name}={value}" for name, value in settings.items()) or "default",
    )
    def test_from_every_kind_of_moment(self, tmp_path, settings):
        whole = make(tmp_path, **settings)
        whole.train()
        for step in (1, 3, 7, 11, 22, 39):
            resumed = make(tmp_path, tiny.lora(), **settings)
            resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
            tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))

    def test_cycles_are_undone_in_these_runs(self, tmp_path):
        trainer = make(tmp_path, iomt_candidates=HARMFUL, iomt_patience=2, iomt_advantage=0.0, save_strategy="no")
        trainer.train()
        assert any(record["rolled_back"] for record in trainer.iomt_history)
        assert {"race", "surrogate"} <= {record["phase"] for record in trainer.iomt_history}

    def test_all_of_a_model_and_more_epochs(self, tmp_path):
        settings = {"max_steps": -1, "num_train_epochs": 3, "save_steps": 7}
        whole = make(tmp_path, tiny.bert(), **settings)
        whole.train()
        for step in (7, 14, 35):
            resumed = make(tmp_path, tiny.bert(seed=5), **settings)
            resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
            tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


class Killer:
    """Ends its process without warning: within a step, after one, or while the n-th file since then is written."""

    def __init__(self, where, number):
        self.where, self.left = where, number

    def count(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self, trainer):
        killer = self

        class Watching(TrainerCallback):
            def on_substep_end(self, args, state, control, **kwargs):
                if killer.where == "substep":
                    killer.count()

            def on_step_end(self, args, state, control, **kwargs):
                if killer.where == "step":
                    killer.count()

        trainer.add_callback(Watching())
        if self.where != "save":
            return
        save, to_json = torch.save, TrainerState.save_to_json

        def partly(path):
            if killer.left == 1:
                Path(path).write_bytes(b'{"global_step"')
            killer.count()

        def torch_save(value, path, *args, **kwargs):
            partly(path)
            return save(value, path, *args, **kwargs)

        def save_to_json(state, path):
            partly(path)
            return to_json(state, path)

        torch.save, TrainerState.save_to_json = torch_save, save_to_json


def train_until_killed(path, settings, where, number, maker=make):
    torch.set_num_threads(1)
    trainer = maker(path, **settings)
    Killer(where, number).install(trainer)
    last = find_checkpoint(True, str(path))
    trainer.train(resume_from_checkpoint=last if last is not True else None)


def kill(*args):
    """Train in a process of its own, which a fork starts quickly, until it is killed."""
    process = multiprocessing.get_context("fork").Process(target=train_until_killed, args=args)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, args


def test_killed_again_and_again(tmp_path):
    whole = make(tmp_path / "whole")
    whole.train()
    for where, count in (("step", 3), ("save", 7), ("step", 9), ("save", 33), ("step", 5)):
        kill(tmp_path / "killed", {}, where, count)
    resumed = make(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


@pytest.mark.parametrize("settings", [{}, slow({"bf16": True})], ids=["fp32", "bf16"])
def test_killed_at_random(tmp_path, settings):
    """Accumulation, dropout, LoRA: 20 kills, some of them while a checkpoint is written."""
    settings = {**settings, "gradient_accumulation_steps": 2, "max_steps": 30}
    whole = make(tmp_path / "whole", **settings)
    whole.train()
    expected = tiny.outcome(whole)
    draw = random.Random(0 if "bf16" in settings else 1)
    found = set()
    for number in range(20):
        path = tmp_path / str(number)
        where = ("substep", "step", "save")[number % 3]
        # Files by torch and Trainer's state: five for each checkpoint.
        count = draw.randrange(2, 29) * (5 if where == "save" else 1) + (draw.randrange(5) if where == "save" else 0)
        kill(path, settings, where, count)
        resumed = make(path, tiny.lora(), **settings)
        last = find_checkpoint(True, str(path))
        whole_ones = sum((folder / "trainer_state.json").exists() for folder in path.glob("checkpoint-*"))
        found.add((where, len(list(path.glob("checkpoint-*"))) > whole_ones))
        resumed.train(resume_from_checkpoint=last if last is not True else None)
        tiny.assert_same_outcome(expected, tiny.outcome(resumed))
    assert ("save", True) in found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 40 steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    make(folder, save_steps=20).train()
    return folder


class TestWhatDiffers:
    def resume(self, path, step=20, **settings):
        trainer = make(path, **settings)
        trainer.train(resume_from_checkpoint=str(path / f"checkpoint-{step}"))
        return trainer

    def copy(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "copy")
        return tmp_path / "copy"

    @pytest.mark.parametrize(
        "candidates, message",
        [
            (THREE + "; sgd:lr=0.1", r"with other candidates: sgd:lr=0\.1 is new\. Resume with the same"),
            ("adam:lr=0.01; sgdm:lr=0.05", r"other candidates: adagrad:lr=0\.02 is gone\. Resume with the same"),
            ("sgdm:lr=0.05; adam:lr=0.01; adagrad:lr=0.02", r"other candidates: their order\. Resume with the same"),
        ],
    )
    def test_candidates(self, folder, candidates, message):
        with pytest.raises(ValueError, match=message):
            self.resume(folder, iomt_candidates=candidates)

    def test_trainable_parameters(self, folder):
        model = tiny.lora()
        next(item for name, item in model.named_parameters() if "lora_B" in name).requires_grad_(False)
        with pytest.raises(ValueError, match=r"with other trainable parameters: .*lora_B.* is gone"):
            self.resume(folder, model=model)

    def test_a_damaged_state(self, folder, tmp_path):
        path = self.copy(folder, tmp_path)
        (path / "checkpoint-20" / STATE_NAME).write_bytes(b"PK damaged")
        with pytest.raises(ValueError, match=rf"{STATE_NAME} is damaged: .* Resume from another checkpoint"):
            self.resume(path)

    def test_another_version(self, folder, tmp_path):
        path = self.copy(folder, tmp_path)
        state = torch.load(path / "checkpoint-20" / STATE_NAME, weights_only=True)
        torch.save({**state, "version": 99}, path / "checkpoint-20" / STATE_NAME)
        with pytest.raises(ValueError, match=r"has version 99, but this release reads version 3"):
            self.resume(path)

    def test_a_checkpoint_of_trainer(self, tmp_path):
        args = TrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", max_steps=20, save_steps=20, disable_tqdm=True
        )
        Trainer(tiny.lora(), args, train_dataset=tiny.Texts()).train()
        with pytest.raises(ValueError, match=rf"was not written by IOMTTrainer.*no {STATE_NAME}"):
            self.resume(tmp_path)
        # Its weights can be gone on from.
        (tmp_path / "checkpoint-20" / "optimizer.pt").unlink()
        trainer = self.resume(tmp_path)
        assert trainer.state.global_step == 40 and trainer.iomt_history[0]["first_step"] == 21
        assert "race" not in {record["phase"] for record in trainer.iomt_history}

    def test_weights_alone(self, tmp_path, caplog):
        make(tmp_path, save_steps=20, save_only_model=True).train()
        with caplog.at_level(logging.WARNING):
            trainer = self.resume(tmp_path)
        assert trainer.iomt_history[0]["first_step"] == 21
        assert "holds weights only: the selection starts afresh" in caplog.text

    def test_more_steps_than_before(self, folder):
        trainer = self.resume(folder, step=40, max_steps=60)
        assert trainer.state.global_step == 60 and trainer.iomt_history[-1]["last_step"] == 60

    def test_the_file_is_plain(self, folder):
        state = torch.load(folder / "checkpoint-20" / STATE_NAME, weights_only=True)
        assert state["version"] == 3 and state["state"]["step"] == 21


class TestWholeCheckpoints:
    @pytest.mark.parametrize("damage", ["missing", "partial", "empty"])
    def test_what_was_not_written_to_its_end(self, tmp_path, damage):
        trainer = make(tmp_path, save_steps=10)
        trainer.train()
        last = tmp_path / "checkpoint-40" / "trainer_state.json"
        if damage == "missing":
            last.unlink()
        else:
            last.write_text(last.read_text()[: 100 if damage == "partial" else 0])
        assert find_checkpoint(True, str(tmp_path)) == str(tmp_path / "checkpoint-30")
        with pytest.raises(ValueError, match=r"checkpoint-40 was not written to its end: .* Resume from an earlier"):
            make(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))
        resumed = make(tmp_path, tiny.lora(), save_steps=10)
        resumed.train(resume_from_checkpoint=True)
        tiny.assert_same_outcome(tiny.outcome(trainer), tiny.outcome(resumed))
        assert json.loads(last.read_text())["global_step"] == 40

    def test_none_at_all(self, tmp_path):
        with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
            make(tmp_path).train(resume_from_checkpoint=True)

    @pytest.mark.parametrize("asked", [None, False, "somewhere/else"])
    def test_others_are_trainers_business(self, tmp_path, asked):
        assert find_checkpoint(asked, str(tmp_path)) == asked
