from __future__ import annotations

import copy
import json
import logging
import math

import numpy as np
import pytest
import tiny
import torch
from rates import MANY, RELATIVE, STEPS, TOO_FEW, Beginning, Stop, make, names
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import PRESETS, parse_candidates, scale_rates
from hf_iomt.probe import Probe
from hf_iomt.range_test import RANGE_TEST_NAME, RangeTest
from hf_iomt.transferability import TRANSFERABILITY_NAME


@pytest.mark.parametrize("kind, unit", [("lora", 1e-2), ("head", 3e-3), ("full", 5e-4)])
def test_without_room_for_a_test_the_usual_rate_counts(tmp_path, kind, unit):
    model = tiny.lora() if kind == "lora" else tiny.bert()
    if kind == "head":
        model.bert.requires_grad_(False)
    trainer = make(tmp_path, model, iomt_candidates="auto", max_steps=2)
    trainer.train()
    assert trainer.range_test is None and not (tmp_path / RANGE_TEST_NAME).exists()
    expected = parse_candidates(scale_rates(PRESETS["auto"], unit))
    assert list(trainer.interleaved_optimizer.candidates) == expected


@pytest.mark.parametrize("kind, highest", [("lora", 0.3), ("head", 0.03), ("full", 0.05)])
def test_no_rate_of_the_test_is_beyond_what_is_worth_a_try(tmp_path, kind, highest):
    """Also where no rate does harm, as here, where the loss does not depend on what trains."""
    model = tiny.lora() if kind == "lora" else tiny.bert()
    if kind == "head":
        # Not linear, for which there would be no such test.
        model.bert.requires_grad_(False)
        model.bert.embeddings.LayerNorm.requires_grad_(True)

    def loss(outputs, labels, **kwargs):
        return 0.0 * outputs["logits"].sum() + 1.0

    trainer = make(tmp_path, model, loss=loss, iomt_candidates="auto")
    trainer.train()
    assert trainer.range_test.rates[-1] == pytest.approx(highest)


def test_rates_are_multiples_of_what_was_found(tmp_path):
    trainer = make(tmp_path, logging_strategy="steps", logging_steps=50)
    trainer.train()
    found = trainer.range_test
    assert names(trainer) == [
        f"adamw:lr={found.learning_rate:g}",
        f"adamw:lr={3 * found.learning_rate:.3g}",
        "sgd:lr=0.01",
    ]
    assert {record["candidate"] for record in trainer.iomt_history} <= set(names(trainer))
    assert RangeTest.read(tmp_path / RANGE_TEST_NAME) == found
    # A model of this size trains at rates in this range, and a scan beyond it does harm.
    assert 1e-4 <= found.learning_rate <= 0.2 and found.batches <= trainer.plan_range_test(STEPS) <= 0.15 * STEPS
    logged = [entry for entry in trainer.state.log_history if "iomt/range_test/learning_rate" in entry]
    assert [entry["step"] for entry in logged] == [0]


def test_the_steps_of_a_budget_leave_room_for_the_test_that_they_get(tmp_path):
    trainer = make(tmp_path)
    for budget in (1, 60, 75, 80, 130, 160, 1000):
        steps = trainer.steps_beside_range_test(budget)
        assert steps + trainer.plan_range_test(steps) <= budget
        assert steps == budget or steps + 1 + trainer.plan_range_test(steps + 1) > budget
    assert trainer.plan_range_test(TOO_FEW) == 0 < trainer.plan_range_test(trainer.steps_beside_range_test(130))


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}, {"max_grad_norm": 0.05}], ids=str)
def test_its_losses_are_those_of_a_loop_written_out(tmp_path, settings):
    model, texts = tiny.lora(dropout=0.0), tiny.Texts(400)
    start = copy.deepcopy(model)
    args = IOMTTrainingArguments(
        **tiny.quiet(tmp_path, max_steps=STEPS, iomt_candidates=RELATIVE, iomt_transferability="off", **settings)
    )
    trainer = IOMTTrainer(model, args, train_dataset=texts)
    trainer.train()
    order = np.random.default_rng(args.seed).permutation(len(texts))
    size = 4 * args.gradient_accumulation_steps
    parameters = [item for item in start.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)

    def loss(rows):
        mask = torch.ones_like(texts.ids[rows])
        return start(input_ids=texts.ids[rows], attention_mask=mask, labels=texts.labels[rows]).loss

    probe, rest = order[:32], order[32:]
    gradients = []
    count = trainer.range_test.gradients
    for number in range(count):
        start.zero_grad()
        loss(rest[number * size :][:size]).backward()
        gradients.append(torch.cat([item.grad.flatten() for item in parameters]).double())
    squares = sum(gradient**2 for gradient in gradients)
    ratios = (sum(gradients) ** 2 / squares)[squares > 0]
    assert trainer.range_test.signal == pytest.approx(float((ratios.mean() - 1) / (count - 1)), rel=1e-3)
    expected = [float(loss(probe).detach())]
    for number, rate in enumerate(trainer.range_test.rates, count):
        optimizer.zero_grad()
        loss(rest[number * size :][:size]).backward()
        torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        expected.append(float(loss(probe).detach()))
    np.testing.assert_allclose(trainer.range_test.losses, expected, rtol=2e-4)
    assert max(abs(np.diff(expected))) > 1e-2


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_accumulation_steps": 2}, {"max_grad_norm": 0.05}, {"bf16": True}], ids=str
)
def test_a_linear_head_takes_gradients_only(tmp_path, settings):
    model, texts = tiny.bert(dropout=0.0), tiny.Texts(400)
    model.bert.requires_grad_(False)
    start, begin = copy.deepcopy(model), Beginning()
    settings = {"iomt_candidates": RELATIVE, "iomt_transferability": "off", "max_steps": 600, **settings}
    args = IOMTTrainingArguments(**tiny.quiet(tmp_path, **settings))
    trainer = IOMTTrainer(model, args, train_dataset=texts, callbacks=[begin, Stop(1)])
    trainer.train()
    found = trainer.range_test
    assert (found.rates, found.losses, found.gradients, found.batches) == ([], [], 8, 8)
    # Nothing was trained before the first step.
    tiny.assert_same(begin.values, tiny.values(start))
    order = np.random.default_rng(args.seed).permutation(len(texts))[32:]
    size = 4 * args.gradient_accumulation_steps
    losses, sizes = [], []
    for number in range(8):
        rows = order[number * size :][:size]
        start.zero_grad()
        ids = texts.ids[rows]
        loss = start(input_ids=ids, attention_mask=torch.ones_like(ids), labels=texts.labels[rows]).loss
        loss.backward()
        losses.append(loss.item())
        sizes.append(sum(float(item.grad.abs().sum()) for item in start.classifier.parameters()))
    # Of 600 steps, with two digits.
    assert found.learning_rate == pytest.approx(0.2 * sum(losses) / sum(sizes) * 2 ** (-1 / 3), rel=0.06)
    assert names(trainer)[0] == f"adamw:lr={found.learning_rate:g}"
    assert RangeTest.read(tmp_path / RANGE_TEST_NAME) == found


def begun(path, model):
    """A trainer that has trained the model, the parameters before the test, and those that training began at."""
    begin, before = Beginning(), tiny.values(model)
    trainer = make(path, model, [begin])
    trainer.train()
    # Something was learned.
    assert min(trainer.range_test.losses) < 0.95 * trainer.range_test.losses[0]
    return trainer, before, begin.values


def test_adapters_begin_at_the_best_parameters_of_the_test(tmp_path):
    model = tiny.lora()
    trainer, before, values = begun(tmp_path, model)
    assert any(not torch.equal(before[name], values[name]) for name in before)
    # The model, put back to where training began, has the lowest loss on the samples of the probe.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(values[name])
    assert float(Probe(trainer, 32)().mean()) == pytest.approx(min(trainer.range_test.losses), rel=1e-5)


def test_where_all_of_a_model_trains_it_begins_at_the_initial_parameters(tmp_path):
    _, before, values = begun(tmp_path, tiny.bert())
    tiny.assert_same(before, values)


def test_it_leaves_the_generators_as_they_were(tmp_path):
    """Dropout and the order of batches are those of a run with the rates as numbers, from the same parameters."""
    tested, plain = Beginning(), Beginning()
    make(tmp_path / "one", callbacks=[tested]).train()
    make(tmp_path / "two", iomt_candidates="adamw:lr=1e-3|3e-3; sgd:lr=0.01", callbacks=[plain]).train()
    assert torch.equal(tested.generator, plain.generator)


@pytest.mark.parametrize("norm", [-1.0, math.nan])
def test_a_norm_that_is_not_above_0_clips_nothing(tmp_path, norm):
    found = []
    for max_grad_norm in (0.0, norm):
        trainer = make(tmp_path, callbacks=[Stop(1)], max_grad_norm=max_grad_norm)
        trainer.train()
        found.append(trainer.range_test.losses)
    assert found[0] == found[1]


def test_in_a_search_it_is_written_for_each_trial(tmp_path):
    pytest.importorskip("optuna")
    args = IOMTTrainingArguments(
        **tiny.quiet(tmp_path, max_steps=STEPS, iomt_candidates=RELATIVE, iomt_transferability="0.5")
    )
    trainer = IOMTTrainer(
        None,
        args,
        train_dataset=tiny.Texts(),
        eval_dataset=tiny.Texts(16),
        model_init=lambda: tiny.lora(),
        callbacks=[Stop(1)],
    )
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"iomt_switch_steps": trial.suggest_categorical("iomt_switch_steps", [4])},
        n_trials=1,
        direction="minimize",
        backend="optuna",
    )
    for name in (RANGE_TEST_NAME, TRANSFERABILITY_NAME):
        assert (tmp_path / "run-0" / name).exists() and not (tmp_path / name).exists()


def test_a_resumed_run_keeps_the_rates(tmp_path):
    whole = make(tmp_path / "whole")
    whole.train()
    make(tmp_path / "part", callbacks=[Stop(70)]).train()
    checkpoint = tmp_path / "part" / "checkpoint-70"
    assert json.loads((checkpoint / RANGE_TEST_NAME).read_text())["learning_rate"] == whole.range_test.learning_rate
    resumed = make(tmp_path / "part")
    resumed.train(resume_from_checkpoint=True)
    tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))
    assert names(resumed) == names(whole) and resumed.range_test.learning_rate == whole.range_test.learning_rate


def test_training_twice_tests_twice(tmp_path):
    trainer = make(tmp_path)
    trainer.train()
    first = trainer.range_test
    trainer.train()
    assert trainer.range_test is not first and trainer.range_test.losses[0] < first.losses[0]
    assert names(trainer)[0] == f"adamw:lr={trainer.range_test.learning_rate:g}"


def test_a_model_that_cannot_be_trained_keeps_the_usual_rate(tmp_path, caplog):
    class Broken(IOMTTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan")

    args = IOMTTrainingArguments(**tiny.quiet(tmp_path, max_steps=STEPS, iomt_candidates=RELATIVE))
    trainer = Broken(tiny.lora(), args, train_dataset=tiny.Texts())
    with caplog.at_level(logging.WARNING, "hf_iomt"):
        trainer.train()
    assert "The range test found no learning rate" in caplog.text
    assert names(trainer)[0] == "adamw:lr=0.01"


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"max_grad_norm": 0.0},
        {"iomt_race_steps": 0},
        {"iomt_offload": "disk"},
        {"iomt_candidates": MANY, "bf16": True, "warmup_steps": 10},
        {"iomt_candidates": MANY, "gradient_accumulation_steps": 2, "iomt_offload": "disk"},
        {"iomt_candidates": "adafactor:lr=1e-3; adamax:lr=1e-3; adamw:lr=1e-3; sgd:lr=0.1"},
        {"iomt_candidates": "schedule_free_adamw:lr=1e-3; adafactor:lr=1e-3; adamw:lr=1e-3; sgd:lr=0.1"},
    ],
    ids=str,
)
def test_it_works_with(tmp_path, settings):
    if "schedule_free" in settings.get("iomt_candidates", ""):
        pytest.importorskip("schedulefree")
    trainer = make(tmp_path, **settings)
    trainer.train()
    assert trainer.range_test is not None and trainer.state.global_step == STEPS


def test_running_statistics_are_those_that_training_begins_with(tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2)

        def forward(self, input_ids, labels, **kwargs):
            logits = self.head(self.norm(input_ids.float()))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    seen = Beginning()
    args = {"iomt_candidates": MANY, "max_steps": STEPS, "iomt_transferability": "off"}
    model = Model()
    expected = {name: item.clone() for name, item in model.state_dict().items()}
    trainer = IOMTTrainer(
        model, IOMTTrainingArguments(**tiny.quiet(tmp_path, **args)), train_dataset=tiny.Texts(), callbacks=[seen]
    )
    statistics = []

    class Keep(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            statistics.append({name: item.clone() for name, item in model.state_dict().items()})

    trainer.add_callback(Keep())
    trainer.train()
    assert trainer.range_test.strides
    for name, value in statistics[0].items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "data",
    [tiny.Stream(tiny.Texts(400)), tiny.Stream(tiny.Texts(60)), tiny.Texts(5)],
    ids=["stream", "short stream", "fewer than it reads"],
)
def test_it_reads(tmp_path, data):
    args = IOMTTrainingArguments(**tiny.quiet(tmp_path, max_steps=STEPS, iomt_candidates=RELATIVE))
    trainer = IOMTTrainer(tiny.lora(), args, train_dataset=data)
    trainer.train()
    assert trainer.range_test is not None
