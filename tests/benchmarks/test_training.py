"""Each kind of method does what its name says, through the real trainers."""

from __future__ import annotations

import dataclasses
import time

import pytest
import tiny
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.experiment import Experiment, load_tier
from benchmarks.methods import METHODS, Method, peer, single
from benchmarks.peers import PEERS
from benchmarks.search import search
from benchmarks.training import make_trainer, train_once
from benchmarks.tuning import Task, build_task, classification_metrics, collate

(SMOKE,) = load_tier("smoke")


class Rates(TrainerCallback):
    """The learning rate that each step used."""

    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.found.append(optimizer.param_groups[0]["lr"])


def test_a_single_method_is_plain_trainer(tmp_path):
    task, other = build_task(SMOKE, seed=1), build_task(SMOKE, seed=1)
    found = train_once(task, SMOKE, single("adamw:lr=0.003,weight_decay=0"), seed=1)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        seed=1,
        max_steps=30,
        per_device_train_batch_size=16,
        learning_rate=0.003,
        # The default is a fused one, which rounds otherwise.
        optim="adamw_torch",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(other.model, args, train_dataset=other.train, data_collator=other.collator).train()
    for first, second in zip(task.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(first, second)
    assert found["steps"] == 30 and found["history"] == [] and found["switched_at"] is None


@pytest.mark.parametrize(
    "method, expected",
    [
        (single("sgd:lr=0.1"), lambda step: 0.1 * (1 - step / 30)),
        (single("sgd:lr=0.1", schedule="constant"), lambda step: 0.1),
        # 30 steps in four parts of 8.
        (
            single("sgd:lr=0.1", schedule="steps", schedule_arguments={"drops": 3, "factor": 0.1}),
            lambda step: 0.1 ** (1 + step // 8),
        ),
    ],
)
def test_schedules(tmp_path, method, expected):
    rates = Rates()
    make_trainer(build_task(SMOKE, 0), SMOKE, method, 0, str(tmp_path), [rates]).train()
    assert rates.found == pytest.approx([expected(step) for step in range(30)])


def test_weight_decay_is_that_of_the_candidate(tmp_path):
    method = single("sgd:lr=0.1,weight_decay=0.01")
    trainer = make_trainer(build_task(SMOKE, 0), SMOKE, method, 0, str(tmp_path))
    trainer.train()
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.01, 0.0}


@pytest.mark.parametrize("name", ["iomt paper", "iomt grid, cyclical", "adam:lr=0.1"])
def test_all_methods_of_a_seed_see_the_same_batches(tmp_path, name):
    seen = []
    for method in (METHODS["sgdm:lr=0.1"], METHODS[name]):
        task, found = build_task(SMOKE, seed=3), []

        def note(module, args, kwargs, found=found):
            # Evaluations and probes are others.
            if module.training:
                found.append(kwargs["pixel_values"].sum().item())

        task.model.register_forward_pre_hook(note, with_kwargs=True)
        make_trainer(task, SMOKE, method, 3, str(tmp_path)).train()
        seen.append(found)
    assert len(seen[0]) == 30 and seen[0] == seen[1]


def test_a_run_that_ends_between_evaluations_has_its_end_in_the_curve():
    found = train_once(build_task(SMOKE, 0), SMOKE, METHODS["adam:lr=0.1"], seed=0, steps=31)
    assert [point["step"] for point in found["curve"]] == [10, 20, 30, 31]
    assert found["curve"][-1]["accuracy"] == found["validation"]["accuracy"]


def test_evaluations_are_not_on_the_clock():
    task = build_task(SMOKE, 0)
    slow = task.compute_metrics

    def slower(prediction):
        time.sleep(0.5)
        return slow(prediction)

    task.compute_metrics = slower
    start = time.perf_counter()
    found = train_once(task, SMOKE, METHODS["adam:lr=0.1"], seed=0)
    # Three evaluations in training and three afterwards.
    assert time.perf_counter() - start > 3 > 1.4 > found["seconds"]["total"]


def test_greedy_stays_within_its_bounds(tmp_path):
    rates = Rates()
    method = single("adamw:lr=0.001,weight_decay=0", schedule="greedy")
    make_trainer(build_task(SMOKE, 0), SMOKE, method, 0, str(tmp_path), [rates]).train()
    assert all(1e-5 <= rate <= 1e-2 for rate in rates.found)
    # It has moved.
    assert rates.found[0] == 0.001 != rates.found[-1]


def test_the_best_checkpoint_is_what_is_left():
    # A rate so large that the last parameters are not the best.
    last, best = (single("sgdm:lr=1", best_checkpoint=kept) for kept in (False, True))
    experiment = dataclasses.replace(SMOKE, evaluations=6, schedule="constant")
    runs = [train_once(build_task(SMOKE, 0), experiment, method, seed=0) for method in (last, best)]
    accuracies = [point["accuracy"] for point in runs[0]["curve"]]
    assert [point["accuracy"] for point in runs[1]["curve"]] == accuracies
    assert runs[0]["validation"]["accuracy"] == accuracies[-1] < max(accuracies)
    assert runs[1]["validation"]["accuracy"] == max(accuracies)


LORA = Experiment("lora", "smoke", "digits", "small_cnn", "lora", (), batch_size=4, size=8, steps=12, evaluations=2)


@pytest.mark.parametrize("name", PEERS)
def test_peers_learn(name):
    package = {"prodigy": "prodigyopt", "lora_rite": "pytorch_optimizer"}.get(name, "peft")
    pytest.importorskip("schedulefree" if name.startswith("schedule_free") else package)
    data = tiny.Texts(40)
    task = Task(tiny.lora(), data, data, data, collate, classification_metrics)
    before = tiny.values(task.model)
    method = peer(name, 1.0 if name == "prodigy" else 0.01, schedule="constant")
    found = train_once(task, LORA, method, seed=0)
    trained = {name for name, value in tiny.values(task.model).items() if not torch.equal(value, before[name])}
    assert found["steps"] == 12 and found["test"]["loss"] > 0
    # LoRA's matrices and the new classifier.
    assert any("lora_B" in name for name in trained) and any("classifier" in name for name in trained)


def test_an_unequal_rate_for_the_rest_follows_the_schedule(tmp_path):
    pytest.importorskip("pytorch_optimizer")
    data = tiny.Texts(40)
    task = Task(tiny.lora(), data, data, data, collate, classification_metrics)
    trainer = make_trainer(task, LORA, peer("lora_rite", 0.01, schedule="linear"), 0, str(tmp_path))
    trainer.train()
    parts = trainer.optimizer.optimizer.parts
    # A linear schedule has come to its end.
    assert [group["lr"] for part in parts for group in part.param_groups] == [0.0, 0.0]


def test_optuna_keeps_to_its_budget():
    pytest.importorskip("optuna")
    found = search(SMOKE, METHODS["Optuna, 1 × steps"], seed=0)
    *short, last = found["trials"]
    assert found["steps"] == 30 and [trial["steps"] for trial in short] == [1] * 8 and last["steps"] == 22
    best = max(short, key=lambda trial: trial["validation"]["accuracy"])
    assert last["candidate"] == best["candidate"] == found["candidate"]
    assert found["seconds"]["total"] > found["seconds"]["selection"] > 0


def test_a_method_that_cannot_run_says_why():
    assert "not installed" in Method("peer", {}, requires="a_package_of_nobody").reason_against


@pytest.mark.slow
def test_a_population_is_on_the_clock_of_all_its_members():
    pytest.importorskip("ray")
    found = search(SMOKE, METHODS["population-based training, 4 × steps"], seed=0)
    assert found["steps"] == 120 and len(found["trials"]) == 4
    best = max(trial["validation"]["accuracy"] for trial in found["trials"])
    assert found["validation"]["accuracy"] == best
    assert found["seconds"]["total"] > found["processor_seconds"] > found["seconds"]["training"] / 2
