"""fp16: steps that the gradient scaler leaves out are not steps, and an overflow is not a divergence."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from test_checkpoint import make

from hf_iomt import IOMTTrainer
from hf_iomt.overflow import OverflowWatch

GENTLE = "adam:lr=0.003; sgdm:lr=0.02; adagrad:lr=0.005"


class HalfPrecision(IOMTTrainer):
    """fp16 as on a GPU, which Accelerate does not offer on CPUs: autocast, and a scaler that grows to overflow."""

    init_scale, growth_interval = 2.0**16, 4
    forced: tuple[int, ...] = ()

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.accelerator.state._mixed_precision = "fp16"
        self.accelerator.native_amp = True
        self.accelerator.scaler = torch.amp.GradScaler(
            "cpu", init_scale=self.init_scale, growth_interval=self.growth_interval
        )
        self.skipped = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        # A loss beyond the range of fp16 at this step, whatever the scale.
        return loss * math.inf if model.training and self.state.global_step in self.forced else loss

    def log(self, *args, **kwargs):
        self.skipped.append((self.state.global_step, self.accelerator.optimizer_step_was_skipped))
        super().log(*args, **kwargs)


def train(path, **settings):
    trainer = make(
        path,
        cls=type("HalfPrecision", (HalfPrecision,), settings.pop("attributes", {})),
        **{"save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1, "max_steps": 80, **settings},
    )
    trainer.train()
    return trainer


def count_skipped(trainer):
    return sum(skipped for step, skipped in set(trainer.skipped) if step > 0)


@pytest.mark.parametrize("score", ["trend", "losses", "probe"])
@pytest.mark.parametrize(
    "attributes",
    [
        # At the start, as the scale falls from far too large; again and again, as it grows; at ends of cycles too.
        {"init_scale": 2.0**24},
        {"growth_interval": 1},
        {"forced": (3, 8, 9, 17, 26, 27, 40, 41, 42, 43, 44, 60)},
    ],
    ids=["from a large scale", "growing scale", "overflowing losses"],
)
@pytest.mark.parametrize("rollback", [True, False], ids=["rollback", ""])
def test_no_candidate_is_penalised(tmp_path, attributes, score, rollback):
    settings = {"iomt_candidates": GENTLE, "iomt_score": score, "iomt_rollback": rollback}
    trainer = train(tmp_path, attributes=attributes, **settings)
    assert count_skipped(trainer) >= 5
    history = trainer.iomt_history
    assert not any(record["rolled_back"] for record in history)
    # What is penalised scores -1: here all cycles did no worse than noise.
    assert min(record["score"] for record in history if record["score"] is not None) > -0.9
    assert history[-1]["last_step"] == 80


def test_skipped_steps_are_not_steps_of_a_cycle(tmp_path):
    trainer = train(tmp_path, attributes={"forced": (3, 20, 21, 33)}, iomt_candidates=GENTLE, iomt_race_steps=0)
    skipped = {step for step, was in trainer.skipped if was}
    assert {4, 21, 22, 34} <= skipped
    for record in trainer.iomt_history[:-1]:
        steps = range(record["first_step"], record["last_step"] + 1)
        assert len([step for step in steps if step not in skipped]) == 4, record


@pytest.mark.parametrize("race_steps", [0, 40])
def test_divergence_is_seen_through_the_skipped_steps(tmp_path, race_steps):
    """A candidate that ruins the parameters makes every step overflow: that ends its cycle, or its race."""
    candidates = f"{GENTLE}; sgd:lr=1e14"
    settings = {"iomt_candidates": candidates, "iomt_selection": "cyclical", "iomt_patience": 0}
    # Before a race there are too few steps for a range test, which would leave it out.
    settings["max_steps"] = 60 if race_steps else 80
    trainer = train(tmp_path, iomt_race_steps=race_steps, **settings)
    ruined = [record for record in trainer.iomt_history if record["candidate"] == "sgd:lr=1e+14"]
    assert ruined and all(record["rolled_back"] for record in ruined)
    assert all(record["last_step"] - record["first_step"] <= 20 for record in ruined)
    others = [record for record in trainer.iomt_history if record not in ruined]
    assert not any(record["rolled_back"] for record in others) and len(others) > 5
    assert all(value.isfinite().all() for value in tiny.values(trainer.model).values())
    # What the scale lost meanwhile has come back.
    assert trainer.accelerator.scaler.get_scale() > 2**8


@pytest.mark.parametrize("step", [3, 9, 10, 22, 27, 41])
def test_resumes_exactly(tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 45, "iomt_candidates": GENTLE}
    settings["attributes"] = {"growth_interval": 2, "forced": (8, 9, 26, 40)}
    whole = train(tmp_path, **dict(settings))
    cls = type("HalfPrecision", (HalfPrecision,), settings.pop("attributes"))
    resumed = make(tmp_path, tiny.lora(), cls=cls, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


class TestOverflowWatch:
    def watch(self):
        parameter = torch.nn.Parameter(torch.ones(3))
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(1))
        watch = OverflowWatch([parameter], lambda tensor: tensor, scaler)
        watch.begin()
        return watch, parameter, scaler

    def test_twenty_skipped_steps_in_a_row_are_no_overflow(self):
        watch, _, scaler = self.watch()
        assert [watch.after_step(True) for _ in range(19)] == [False] * 19
        assert not watch.after_step(False)
        for _ in range(19):
            assert not watch.after_step(True)
        scaler.update(1.0)
        assert watch.after_step(True) and scaler.get_scale() == 2**16

    def test_parameters_that_are_not_finite(self):
        watch, parameter, _ = self.watch()
        parameter.data[1] = math.nan
        assert watch.after_step(True)

    def test_a_loss_that_is_not_finite_announces_a_skipped_step(self):
        watch, _, _ = self.watch()
        assert watch.expects(torch.tensor(math.inf)) and watch.expects(torch.tensor(math.nan))
        assert not watch.expects(torch.tensor(3.0))
        watch.after_step(False)
        assert not OverflowWatch([], lambda tensor: tensor).expects(torch.tensor(math.nan))
