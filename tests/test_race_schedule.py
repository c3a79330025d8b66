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


def train(path, schedulers=(None, None), **settings):
    seen = Multipliers()
    settings = {"max_steps": STEPS, "iomt_transferability": "off", **settings}
    args = IOMTTrainingArguments(**tiny.quiet(path, **settings))
    trainer = IOMTTrainer(tiny.lora(), args, train_dataset=tiny.Texts(), callbacks=[seen], optimizers=schedulers)
    trainer.train()
    return trainer, seen


@pytest.mark.parametrize("candidates, races", [(TWO, False), (FOUR, True)])
def test_a_schedule_covers_the_steps_after_the_race_of_those_that_stay(tmp_path, candidates, races):
    trainer, seen = train(tmp_path, iomt_candidates=candidates, lr_scheduler_type="linear", warmup_steps=10)
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
    args = IOMTTrainingArguments(
        **tiny.quiet(tmp_path, max_steps=STEPS, iomt_transferability="off", iomt_candidates=TWO)
    )
    trainer = IOMTTrainer(tiny.lora(), args, train_dataset=tiny.Texts(), callbacks=[Multipliers()])
    scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), lambda step: 0.5)
    trainer.lr_scheduler = scheduler
    trainer.train()
    assert trainer.lr_scheduler is scheduler and trainer.race_plan is None
    assert trainer.range_test.strides[0] == pytest.approx(1e-3, rel=0.01)
