from __future__ import annotations

import pytest
import tiny
import torch
from transformers import TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

# Enough for a range test, which leaves out what is far from what it finds.
STEPS = 150
# Two stay, and do not race, or four, which do.
TWO = "adam:lr=1e-3|1e-8|10.0; sgdm:lr=1e-2|1e-8|1e5,momentum=0.9"
FOUR = "adam:lr=1e-3|2e-3|3e-3|4e-3|1e-8|10.0"


class Multipliers(TrainerCallback):
    """Keeps what the schedule multiplies learning rates by."""

    def __init__(self):
        self.values = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        self.values.append(optimizer.param_groups[0]["lr"])
        self.scheduler = lr_scheduler


def make(path, cls=IOMTTrainer, **settings):
    seen = Multipliers()
    settings = {"max_steps": STEPS, "iomt_transferability": "off", **settings}
    args = IOMTTrainingArguments(**tiny.quiet(path, **settings))
    return cls(tiny.lora(), args, train_dataset=tiny.Texts(), callbacks=[seen]), seen


@pytest.mark.parametrize("candidates, races", [(TWO, False), (FOUR, True)])
def test_a_schedule_covers_the_steps_after_the_race_of_those_that_stay(tmp_path, candidates, races):
    trainer, seen = make(tmp_path, iomt_candidates=candidates, lr_scheduler_type="linear", warmup_steps=10)
    trainer.train()
    raced = trainer.steps_raced
    assert (raced > 0) == races and raced == sum(
        record["last_step"] - record["first_step"] + 1 for record in trainer.iomt_history if record["phase"] == "race"
    )
    left = STEPS - raced
    expected = [min(k / 10, (left - k) / (left - 10)) for k in range(left)]
    assert seen.values[raced:] == pytest.approx(expected)
    assert seen.scheduler is trainer.lr_scheduler


def test_a_schedule_of_the_user_stays(tmp_path):
    """It has been built for an optimizer of the user's trainer, which is made before the test."""
    trainer, seen = make(tmp_path, iomt_candidates=TWO, logging_strategy="steps", logging_steps=STEPS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), lambda step: 0.5)
    trainer.lr_scheduler = scheduler
    trainer.train()
    assert trainer.lr_scheduler is scheduler and trainer.race_plan is None
    assert trainer.range_test.strides[0] == pytest.approx(1e-3, rel=0.01)
    assert set(seen.values) == {0.5}
    logged = next(entry for entry in trainer.state.log_history if "learning_rate" in entry)
    assert logged["learning_rate"] == pytest.approx(0.5 * trainer.interleaved_optimizer.active.learning_rate)


class Own(IOMTTrainer):
    """Builds its schedule itself, which Trainer allows."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer, lambda step: 1 - step / num_training_steps
            )
        return self.lr_scheduler


@pytest.mark.parametrize("steps", [60, STEPS])
def test_a_trainer_that_builds_its_schedule_itself_races(tmp_path, steps):
    trainer, seen = make(tmp_path, Own, iomt_candidates=FOUR, max_steps=steps)
    trainer.train()
    raced = trainer.steps_raced
    assert raced == sum(
        record["last_step"] - record["first_step"] + 1 for record in trainer.iomt_history if record["phase"] == "race"
    )
    assert raced > 0
    # It begins after the race.
    assert seen.values[raced:] == pytest.approx([1 - step / steps for step in range(steps - raced)])
    trainer.args.iomt_race_steps = 0
    trainer.train()
    assert {record["phase"] for record in trainer.iomt_history} == {"surrogate"}
