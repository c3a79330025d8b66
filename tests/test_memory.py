"""What is held in memory, counted tensor by tensor in real runs, against what was said beforehand."""

from __future__ import annotations

import gc
import logging
import os
from dataclasses import replace

import pytest
import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.memory import MemoryNeed, memory_need, report_memory, state_size
from hf_iomt.optim import Family, InterleavedOptimizer, Storage, make_candidate, trainable_tensors
from hf_iomt.race_plan import plan_race
from hf_iomt.trainer_families import find_family

SIX = "adam:lr=0.01|0.02; sgdm:lr=0.05; adagrad:lr=0.02; nadam:lr=0.01; sgd:lr=0.1"
HARMFUL = "sgd:lr=0.05; adam:lr=3.0; sgdm:lr=1.5; rmsprop:lr=0.001|0.02"
# Two steps and more for everyone: a mean of one alone is gone before its like is counted.
RACE = {"iomt_race_steps": 8, "max_steps": 2000}


class Counting(TrainerCallback):
    """
    Bytes of all tensors that have the shape of a trainable one, found by the garbage collector: before a step, after
    it, at its end and wherever the probe is measured. Batches and activations have other shapes.
    """

    def __init__(self, trainer, race_only):
        self.trainer, self.race_only = trainer, race_only
        self.trained = [item for item in trainer.model.parameters() if item.requires_grad]
        self.shapes = {item.shape for item in self.trained}
        self.peak = 0

    def count(self):
        gradients = [item.grad for item in self.trained if item.grad is not None]
        found = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
        storages = {
            item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
            for item in (*found, *gradients, *self.trained)
            if item.shape in self.shapes and item.is_floating_point() and item.is_cpu
        }
        self.peak = max(self.peak, sum(storages.values()))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.count()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.count()

    def on_step_end(self, args, state, control, **kwargs):
        self.count()
        if self.race_only and not self.trainer.interleaved_optimizer.ignore_schedule:
            control.should_training_stop = True


class CountingTrainer(IOMTTrainer):
    def compute_loss(self, model, *args, **kwargs):
        if not torch.is_grad_enabled():
            self.counting.count()
        return super().compute_loss(model, *args, **kwargs)


def make(path, cls=IOMTTrainer, model=None, **settings):
    args = IOMTTrainingArguments(
        **tiny.quiet(
            path, **{"iomt_candidates": SIX, "iomt_switch_steps": 4, "iomt_transferability": "0.5", **settings}
        )
    )
    return cls(tiny.bert() if model is None else model, args, train_dataset=tiny.Texts())


def train_alone(trainer):
    """Train while the garbage collector does not look at what was there before."""
    gc.collect()
    gc.freeze()
    try:
        trainer.train()
    finally:
        gc.unfreeze()


def counted(path, race_only=False, **settings):
    """What a run held at most, and what was said beforehand."""
    trainer = make(path, CountingTrainer, **settings)
    trainer.counting = Counting(trainer, race_only)
    trainer.add_callback(trainer.counting)
    train_alone(trainer)
    interleaving = trainer.interleaving
    need = memory_need(
        trainable_tensors(trainer.model), trainer.interleaved_optimizer, interleaving.settings, trainer.race_plan
    )
    return trainer.counting.peak, need, trainer


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iomt_candidates": "adam:lr=0.01|0.02|0.03|0.04"},
        {"iomt_candidates": "full", "iomt_score": "probe"},
        {"iomt_candidates": "adam:lr=0.01; sgd:lr=0.1"},
        {"bf16": True, "iomt_idle_state": "reset"},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["none", "disk"])
def test_a_race(tmp_path, monkeypatch, settings, place):
    """The peak is in the race, and exactly what was said."""
    # As where there is no room for a range test: all shall race.
    monkeypatch.setattr("hf_iomt.learning_rate.plan_range_test", lambda *_: None)
    peak, need, trainer = counted(tmp_path, True, iomt_offload=place, **RACE, **settings)
    assert {record["phase"] for record in trainer.iomt_history} == {"race"}
    assert peak == (need.together if place == "none" else need.in_use)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iomt_rollback": False},
        {"iomt_patience": 0},
        {"iomt_idle_state": "reset"},
        {"iomt_score": "probe"},
        {"iomt_score": "probe", "iomt_rollback": False},
        {"iomt_preset": "paper", "iomt_candidates": SIX},
        {"iomt_candidates": "adamw:lr=0.01|0.02"},
        {"iomt_candidates": "adamw:lr=0.01"},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["none", "disk"])
def test_cycles_without_a_race(tmp_path, settings, place):
    settings = {"iomt_race_steps": 0, "iomt_selection": "cyclical", "max_steps": 80, **settings}
    peak, need, _ = counted(tmp_path, iomt_offload=place, **settings)
    assert peak == (need.together if place == "none" else need.in_use)


@pytest.mark.parametrize("score", ["trend", "probe"])
@pytest.mark.parametrize("race_steps", [0, 4])
def test_where_cycles_are_undone_it_is_no_more_than_that(tmp_path, score, race_steps):
    peak, need, trainer = counted(
        tmp_path, iomt_candidates=HARMFUL, iomt_race_steps=race_steps, iomt_score=score, iomt_patience=2, max_steps=80
    )
    assert any(record["rolled_back"] for record in trainer.iomt_history)
    # Those that did damage early are dropped.
    assert 0.5 * need.together <= peak <= need.together


@pytest.mark.parametrize("place, copies", [("none", 7), ("disk", 5)])
@pytest.mark.parametrize("settings", [{}, {"iomt_candidates": "adam:lr=0.01|0.02|0.03|0.04"}], ids=str)
def test_strides(tmp_path, monkeypatch, settings, place, copies):
    trainer, peaks = make(tmp_path, **{"max_steps": 150, "iomt_offload": place, **settings}), []
    counting = Counting(trainer, False)

    class Seen(InterleavedOptimizer):
        def step(self, closure=None):
            result = super().step(closure)
            if self.ignore_schedule and not trainer.state.global_step:
                counting.count()
                peaks.append(counting.peak)
            return result

    monkeypatch.setattr("hf_iomt.trainer.InterleavedOptimizer", Seen)
    trainer.create_optimizer()
    train_alone(trainer)
    assert trainer.range_test.strides and peaks
    size = sum(item.numel() * 4 for item in counting.trained)
    # Parameters, gradients, the state of Adam, and three copies, of which two need not be here.
    assert max(peaks) == copies * size
    # The same of it as if nothing else took memory.
    tensors, settings = trainable_tensors(trainer.model), trainer.interleaving.settings
    few = replace(settings, rollback=False, patience=0)
    need = memory_need(tensors, trainer.interleaved_optimizer, few, tested=True, strides=True)
    assert need.in_use == 5 * size and need.together >= 7 * size


class TestNeed:
    def test_in_units_of_the_parameters(self, tmp_path):
        """The race of seven that full fine-tuning has by default, and its cycles."""
        model = tiny.bert()
        tensors = trainable_tensors(model)
        settings = IOMTTrainingArguments(str(tmp_path), report_to="none").interleaving_settings(25)
        text = "adamw:lr=5e-5|1e-4|2e-5; nadam:lr=5e-5; rmsprop:lr=3e-5; sgdm:lr=0.01|0.003"
        optimizer = InterleavedOptimizer(tensors, text)
        size = sum(tensor.numel() * 4 for tensor in tensors)
        need = memory_need(tensors, optimizer, settings, plan_race(range(7), 40, 1000))
        assert need == MemoryNeed(size, 5 * size, 19 * size, 21 * size)
        # The states of AdamW, NAdam, RMSprop and SGDM, and what rollback and patience need.
        need = memory_need(tensors, optimizer, settings)
        assert need == MemoryNeed(size, 4 * size, 7 * size, 10 * size)
        # One copy more for the watch over overfitting.
        assert memory_need(tensors, optimizer, settings, watched=True) == MemoryNeed(
            size, 4 * size, 8 * size, 11 * size
        )

    @pytest.mark.parametrize(
        "family, settings, expected",
        [
            ("sgd", {}, 0),
            ("sgdm", {}, 1),
            ("nag", {}, 1),
            ("asgd", {}, 1),
            ("adagrad", {}, 1),
            ("rmsprop", {}, 1),
            ("rmsprop", {"momentum": 0.9}, 2),
            ("rmsprop", {"momentum": 0.9, "centered": True}, 3),
            ("adam", {}, 2),
            ("adam", {"amsgrad": True}, 3),
            ("adamw", {}, 2),
            ("adamax", {}, 2),
            ("nadam", {}, 2),
            ("nadamw", {}, 2),
            ("radam", {}, 2),
            ("swats", {}, 2),
            ("padam", {}, 3),
            ("adabound", {}, 2),
            ("adabound", {"amsbound": True}, 3),
            ("adamw_torch_fused", {}, 2),
        ],
    )
    def test_states(self, tmp_path, family, settings, expected):
        find = find_family(IOMTTrainingArguments(str(tmp_path), report_to="none"))
        before = torch.random.get_rng_state()
        candidate = make_candidate(family, {"lr": 0.1, **settings}, find)
        assert state_size(find(family), candidate, torch.zeros(1)) == expected
        assert torch.equal(before, torch.random.get_rng_state())

    def test_an_optimizer_of_ones_own_is_not_tried_out(self):
        class Own(torch.optim.SGD):
            def step(self, closure=None):
                raise AssertionError("stepped")

        own = Family("own", Own)
        assert state_size(own, make_candidate("own", {"lr": 0.1}, lambda name: own), torch.zeros(1)) == 2

    def test_it_is_logged_before_training(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, "hf_iomt"):
            make(tmp_path / "a", max_steps=8).train()
            make(tmp_path / "b", max_steps=8, iomt_offload="disk").train()
        lines = [record.message for record in caplog.records if record.message.startswith("Memory")]
        assert "for trainable parameters of" in lines[0] and "of it for what is not in use." in lines[0]
        assert f"on the disk of {tmp_path / 'b'}" in lines[1]

    def test_a_disk_without_room_is_refused_before_training(self, tmp_path):
        need = MemoryNeed(parameters=1, in_use=4, kept=2**62, together=2**62)
        with pytest.raises(ValueError, match=r"may need .* GiB in .*, but only .* are free there\. Make room"):
            report_memory(need, Storage("disk", tmp_path))
        report_memory(need, Storage("none"))


class TestOffload:
    @pytest.mark.parametrize(
        "place, settings",
        [
            ("cpu", {}),
            ("disk", {}),
            ("disk", {"iomt_score": "probe", "bf16": True}),
            ("disk", {"iomt_candidates": HARMFUL, "iomt_patience": 2, "iomt_advantage": 0.0}),
        ],
        ids=str,
    )
    def test_the_run_is_the_same_and_resumes_exactly(self, tmp_path, place, settings):
        whole = make(tmp_path / "whole", model=tiny.lora(), **settings)
        whole.train()
        saving = {"iomt_offload": place, "save_strategy": "steps", "save_steps": 3, **settings}
        moved = make(tmp_path / "moved", model=tiny.lora(), **saving)
        moved.train()
        expected = tiny.outcome(whole)
        tiny.assert_same(expected[0], tiny.outcome(moved)[0])
        assert expected[1] == tiny.outcome(moved)[1]
        # In the race and in cycles; the place may differ.
        for step, other in ((3, place), (3, "none"), (24, place)):
            resumed = make(tmp_path / "moved", model=tiny.lora(), **{**saving, "iomt_offload": other})
            resumed.train(resume_from_checkpoint=str(tmp_path / "moved" / f"checkpoint-{step}"))
            tiny.assert_same(expected[0], tiny.outcome(resumed)[0])
            assert expected[1] == tiny.outcome(resumed)[1]

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files")
    @pytest.mark.parametrize("place", ["cpu", "disk"])
    def test_nothing_is_left_where_training_fails(self, tmp_path, place):
        class Failing(IOMTTrainer):
            def compute_loss(self, *args, **kwargs):
                if self.state.global_step == 20:
                    raise RuntimeError("failed")
                return super().compute_loss(*args, **kwargs)

        trainer = make(tmp_path, Failing, iomt_offload=place)
        with pytest.raises(RuntimeError, match="failed"):
            trainer.train()
        assert os.listdir(tmp_path) == ["iomt_transferability.json"]
        deleted = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        assert any(str(tmp_path) in name for name in deleted) == (place == "disk")
        del trainer
        gc.collect()
        deleted = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        assert not any(str(tmp_path) in name for name in deleted)


def test_a_place_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="`iomt_offload` must be one of none, cpu, disk, but got 'gpu'"):
        IOMTTrainingArguments(str(tmp_path), report_to="none", iomt_offload="gpu")
