"""What a range test makes of the candidates that are named."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tiny
from rates import MANY, RELATIVE, STEPS, TOO_FEW, Stop, make, names
from transformers import TrainerCallback

from hf_iomt.race_plan import FINALISTS
from hf_iomt.range_test import RANGE_TEST_NAME, RangeTest


@pytest.mark.parametrize(
    "candidates, phases",
    [
        ("auto", {"initial", "surrogate"}),
        # Nothing has shown what these rates do.
        # The second is equal to the first as long as the test has not found anything else.
        ("adamw:lr=1x|1e-3", {"race", "initial", "surrogate"}),
        ("adamw:lr=1x|2x; adagrad:lr=5x", {"race", "initial", "surrogate"}),
        # Of four only those race that stay, and here few do.
        ("adamw:lr=0.5x|1x|2x|4x", {"initial", "surrogate"}),
    ],
)
def test_rates_that_the_test_has_covered_do_not_race(tmp_path, candidates, phases):
    trainer = make(tmp_path, iomt_candidates=candidates, iomt_switch_steps=10, iomt_initial_cycles=3)
    trainer.train()
    assert {record["phase"] for record in trainer.iomt_history} == phases


def test_of_many_candidates_those_far_from_what_it_finds_stay_out(tmp_path, caplog):
    trainer = make(tmp_path, iomt_candidates=MANY, iomt_switch_steps=10)
    with caplog.at_level(logging.INFO, "hf_iomt"):
        trainer.train()
    found = trainer.range_test
    assert found.batches <= trainer.plan_range_test(STEPS) <= 0.15 * STEPS
    assert found.strides[:3] == pytest.approx([1e-3, 1e-8, 10.0], rel=0.01)
    assert np.array(found.strides[4:]) / found.strides[3] == pytest.approx([1e-6, 1e7])
    assert RangeTest.read(tmp_path / RANGE_TEST_NAME) == found
    near = {name for name, stride in zip(names(trainer), found.strides, strict=True) if 1e-6 < stride < 1}
    used = {record["candidate"] for record in trainer.iomt_history}
    assert used <= near and len(near) == 2 and trainer.interleaving.selector.contenders == trainer.entrants
    # What the test has shown needs no race.
    assert trainer.race_plan is None and all(record["phase"] != "race" for record in trainer.iomt_history)
    assert "Left out 4 of 6 candidates" in caplog.text and "adam:lr=10" in caplog.text
    logged = [entry for entry in trainer.state.log_history if "iomt/range_test/left_out" in entry]
    assert [(entry["step"], entry["iomt/range_test/left_out"]) for entry in logged] == [(0, 4)]


@pytest.mark.parametrize(
    "candidates, trusted",
    [("adamw:lr=1x|0.5x|1e-9; sgd:lr=1e5", 0), ("sgd:lr=1e5|1e-9; adamw:lr=0.8x|0.2x", 2)],
)
def test_the_first_is_trusted_where_it_suits(tmp_path, candidates, trusted):
    trainer = make(tmp_path, iomt_candidates=candidates)
    trainer.train()
    assert trainer.entrants[0] == trainer.interleaving.selector.trusted == trusted
    assert trainer.iomt_history[0]["candidate"] == names(trainer)[trusted]


def test_strides_are_of_clipped_gradients_of_a_step(tmp_path):
    trainer = make(tmp_path, tiny.lora(dropout=0.0), iomt_candidates="sgd:lr=1|2|3|4", max_grad_norm=1e-3)
    counts = []

    class Count(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            counts.append(sum(int((item.grad != 0).sum()) for item in model.parameters() if item.grad is not None))

    trainer.add_callback(Count())
    trainer.train()
    # Training begins where they were measured; which batch it is does not change how many move.
    expected = 1e-3 / np.sqrt(counts[0])
    assert trainer.range_test.strides == pytest.approx(expected * np.arange(1, 5), rel=0.01)


def test_several_that_stay_race(tmp_path):
    candidates = "adam:lr=1e-3|2e-3|3e-3|4e-3|1e-8|10.0"
    trainer = make(tmp_path, iomt_candidates=candidates)
    trainer.train()
    raced = {record["candidate"] for record in trainer.iomt_history if record["phase"] == "race"}
    assert raced == {names(trainer)[index] for index in trainer.entrants} and len(raced) > FINALISTS


@pytest.mark.parametrize(
    "settings", [{"iomt_race_steps": 0}, {"max_steps": 60}, {"iomt_preset": "paper", "iomt_candidates": MANY}], ids=str
)
def test_without_a_race_or_room_for_a_test_nothing_stays_out(tmp_path, settings):
    trainer = make(tmp_path, **{"iomt_candidates": MANY, **settings})
    trainer.train()
    assert trainer.range_test is None and trainer.plan_range_test(trainer.args.max_steps) == 0
    assert trainer.entrants == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("candidates", [MANY, "adam:lr=1e-3|2e-3|3e-3|4e-3|1e-8; sgd:lr=0.1x"])
@pytest.mark.parametrize("step", [5, 70])
def test_a_resumed_run_leaves_the_same_out(tmp_path, candidates, step):
    settings = {"iomt_candidates": candidates, "lr_scheduler_type": "linear", "iomt_switch_steps": 10}
    whole = make(tmp_path / "whole", **settings)
    whole.train()
    make(tmp_path / "part", callbacks=[Stop(step)], **settings).train()
    resumed = make(tmp_path / "part", **settings)
    resumed.train(resume_from_checkpoint=True)
    tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))
    assert resumed.entrants == whole.entrants and resumed.race_plan == whole.race_plan


@pytest.mark.parametrize("candidates", [MANY, RELATIVE])
def test_a_run_that_is_resumed_for_fewer_steps_keeps_what_was_found(tmp_path, candidates):
    """Also where there would be no room for a test in so many steps."""
    settings = {"iomt_candidates": candidates, "iomt_switch_steps": 10}
    first = make(tmp_path, callbacks=[Stop(TOO_FEW - 10)], **settings)
    first.train()
    resumed = make(tmp_path, max_steps=TOO_FEW, **settings)
    assert resumed.plan_range_test(TOO_FEW) == 0
    resumed.train(resume_from_checkpoint=True)
    assert names(resumed) == names(first) and resumed.entrants == first.entrants
    assert resumed.state.global_step == TOO_FEW


def test_other_candidates_in_the_next_training(tmp_path):
    trainer = make(tmp_path, iomt_candidates=MANY)
    trainer.train()
    trainer.args.iomt_candidates, trainer.optimizer = "adam:lr=1e-3; sgd:lr=0.1", None
    trainer.train()
    assert trainer.range_test is None and trainer.entrants == [0, 1]


def test_without_room_for_a_test_they_race(tmp_path):
    trainer = make(tmp_path, iomt_candidates="auto", max_steps=TOO_FEW)
    trainer.train()
    assert trainer.range_test is None and trainer.iomt_history[0]["phase"] == "race"
