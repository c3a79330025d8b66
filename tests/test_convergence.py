from __future__ import annotations

import logging
import math

import pytest
import tiny
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_iomt import ConvergenceCallback, IOMTTrainer, IOMTTrainingArguments

pytestmark = pytest.mark.usefixtures("small_heap")

both = pytest.mark.parametrize("base", [Trainer, IOMTTrainer])
# 16 samples in batches of 4.
EPOCH = 4


class Scripted:
    """Notes the loss of each step, which is what a script says of its epoch, or else that of the model."""

    script = None

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.seen = [*getattr(self, "seen", []), loss.item()]
        return loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.script is None or not model.training:
            return loss
        value = self.script[min(int(self.state.epoch or 0.0), len(self.script) - 1)]
        # The gradients stay, unless they are of no number.
        return loss - loss.detach() + value if math.isfinite(value) else loss * value


def make(path, base=Trainer, callbacks=(), script=None, data=None, rate=1e-3, **settings):
    cls = type("Noting", (Scripted, base), {"script": script})
    settings = tiny.quiet(path, **{"max_steps": -1, "num_train_epochs": 12, **settings})
    if base is Trainer:
        args = TrainingArguments(learning_rate=rate, **settings)
    else:
        candidates = f"adam:lr={rate}; sgdm:lr={rate}"
        args = IOMTTrainingArguments(iomt_candidates=candidates, iomt_switch_steps=3, **settings)
    return cls(
        tiny.bert(dropout=0.0),
        args,
        train_dataset=data or tiny.Texts(16),
        eval_dataset=tiny.Texts(8),
        callbacks=[*callbacks],
    )


def epoch_losses(trainer):
    return [entry["epoch_loss"] for entry in trainer.state.log_history if "epoch_loss" in entry]


@both
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"logging_strategy": "steps", "logging_steps": 3},
        {"logging_strategy": "steps", "logging_steps": 1, "logging_first_step": True},
        {"logging_strategy": "epoch"},
        {"logging_strategy": "steps", "logging_steps": 4, "eval_strategy": "steps", "eval_steps": 3},
        {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2},
    ],
    ids=lambda settings: ", ".join(f"{name}={value}" for name, value in settings.items()) or "default",
)
def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(tmp_path, base, settings):
    trainer = make(tmp_path, base, [ConvergenceCallback()], num_train_epochs=3, rate=0.01, **settings)
    trainer.train()
    # With accumulation, Trainer has divided the losses of the batches already.
    means = [sum(trainer.seen[start : start + 4]) for start in (0, 4, 8)]
    steps = 4 // settings.get("gradient_accumulation_steps", 1)
    assert epoch_losses(trainer) == pytest.approx([mean / steps for mean in means], rel=1e-5)
    assert max(means) - min(means) > 1e-3


@both
def test_training_ends_when_the_losses_of_epochs_have_not_changed_in_a_row(tmp_path, base, caplog):
    # The change to 1.5 begins the count anew.
    script = [1.0, 1.0, 1.0, 1.5, 1.50005, 1.5, 1.5001, 2.0]
    trainer = make(tmp_path, base, [ConvergenceCallback(tolerance=2e-4, epochs=3)], script)
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert trainer.state.global_step == 7 * EPOCH
    assert epoch_losses(trainer) == pytest.approx(script[:7], abs=1e-6)
    assert "Converged: the loss has changed by less than 0.0002 in 3 epochs in a row." in caplog.text
    if base is IOMTTrainer:
        assert trainer.iomt_history[-1]["last_step"] == 7 * EPOCH


def test_the_papers_rule_is_the_default(tmp_path):
    script = [2.0, *[1.0 + 0.9e-4 * (epoch % 2) for epoch in range(20)]]
    trainer = make(tmp_path, Trainer, [ConvergenceCallback()], script, num_train_epochs=20)
    trainer.train()
    assert trainer.state.global_step == 12 * EPOCH
    script = [2.0, *[1.0 + 1.1e-4 * (epoch % 2) for epoch in range(20)]]
    trainer = make(tmp_path, Trainer, [ConvergenceCallback()], script, num_train_epochs=20)
    trainer.train()
    assert trainer.state.global_step == 20 * EPOCH


def test_every_training_counts_for_itself(tmp_path):
    trainer = make(tmp_path, Trainer, [ConvergenceCallback(epochs=2)], [1.0])
    for _ in range(2):
        trainer.train()
        assert trainer.state.global_step == 3 * EPOCH


@both
def test_a_model_that_has_diverged_has_not_converged(tmp_path, base):
    """Trainer logs the losses as if they were constant."""
    trainer = make(tmp_path, base, [ConvergenceCallback(epochs=2)], [1.0, math.nan], num_train_epochs=6)
    trainer.train()
    assert trainer.state.global_step == 6 * EPOCH
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(map(math.isfinite, logged)) and abs(logged[-1] - logged[-2]) < 1e-4


def test_losses_that_are_not_finite_are_no_convergence(tmp_path):
    callbacks = [ConvergenceCallback(epochs=1, tolerance=10.0)]
    script = [math.inf]
    trainer = make(tmp_path, Trainer, callbacks, script, num_train_epochs=3, logging_nan_inf_filter=False)
    trainer.train()
    assert trainer.state.global_step == 3 * EPOCH


@both
@pytest.mark.parametrize("strategy", ["no", "steps"])
def test_a_resumed_run_goes_on_counting(tmp_path, base, strategy):
    """From within an epoch, and from its end, whether or not that was logged before the checkpoint."""
    script = [1.0, 1.1, 1.1, 1.1, 1.1]
    settings = {"save_strategy": "steps", "save_steps": 1, "logging_strategy": strategy, "logging_steps": 3}
    whole = make(tmp_path, base, [ConvergenceCallback(epochs=3)], script, **settings)
    whole.train()
    assert whole.state.global_step == 5 * EPOCH
    for step in (3, 4, 6, 8, 19):
        resumed = make(tmp_path, base, [ConvergenceCallback(epochs=3)], script, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.state.global_step == 5 * EPOCH
        assert epoch_losses(resumed) == epoch_losses(whole)


@pytest.mark.parametrize("settings", [{"save_strategy": "epoch"}, {"save_strategy": "steps", "save_steps": 4}])
def test_what_had_converged_makes_one_more_step(tmp_path, settings):
    callbacks = [ConvergenceCallback(epochs=2)]
    make(tmp_path, Trainer, callbacks, [1.0], **settings).train()
    trainer = make(tmp_path, Trainer, callbacks, [1.0], **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{3 * EPOCH}"))
    assert trainer.state.global_step == 3 * EPOCH + 1
    # Losses, not counts, are kept.
    trainer = make(tmp_path, Trainer, [ConvergenceCallback(epochs=4)], [1.0], **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{2 * EPOCH}"))
    assert trainer.state.global_step == 5 * EPOCH


def test_a_checkpoint_without_the_callback_can_be_gone_on_from(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 6, "logging_strategy": "steps", "logging_steps": 1}
    make(tmp_path, Trainer, (), [3.0, 1.0], num_train_epochs=3, **settings).train()
    trainer = make(tmp_path, Trainer, [ConvergenceCallback(epochs=2)], [3.0, 1.0], **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert epoch_losses(trainer) == pytest.approx([1.0, 1.0, 1.0]) and trainer.state.global_step == 4 * EPOCH


class EndsEpochs(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = state.global_step % 3 == 0


def test_epochs_that_end_early_count(tmp_path):
    trainer = make(tmp_path, Trainer, [EndsEpochs(), ConvergenceCallback(epochs=2)], rate=0.01)
    trainer.train()
    assert epoch_losses(trainer)[:2] == pytest.approx(
        [sum(trainer.seen[:3]) / 3, sum(trainer.seen[3:6]) / 3], rel=1e-5
    )


@both
def test_a_stream_has_epochs_too(tmp_path, base):
    data = tiny.Stream(tiny.Texts(16))
    trainer = make(tmp_path, base, [ConvergenceCallback(epochs=2)], [1.0], data, max_steps=40)
    trainer.train()
    assert trainer.state.global_step == 3 * EPOCH


def test_two_with_different_tolerances_do_not_disturb_each_other(tmp_path):
    callbacks = [ConvergenceCallback(tolerance=1e-6, epochs=1), ConvergenceCallback(tolerance=0.2, epochs=2)]
    trainer = make(tmp_path, Trainer, callbacks, [1.0, 1.1, 1.2, 1.3])
    trainer.train()
    assert trainer.state.global_step == 3 * EPOCH


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"tolerance": 0}, r"`0 < tolerance < infinity` must hold, but got tolerance=0"),
        ({"tolerance": math.nan}, r"but got tolerance=nan"),
        ({"tolerance": "small"}, r"but got tolerance='small'"),
        ({"epochs": 0}, r"`epochs` must be a whole number and at least 1, but got epochs=0"),
        ({"epochs": 2.0}, r"but got epochs=2\.0"),
    ],
)
def test_errors_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvergenceCallback(**settings)


@pytest.mark.parametrize("epochs, warns", [(2, True), (3, False)])
def test_a_run_that_is_too_short_is_warned_of(tmp_path, caplog, epochs, warns):
    make(tmp_path, Trainer, [ConvergenceCallback(epochs=2)], num_train_epochs=epochs).train()
    assert ("it cannot end early" in caplog.text.replace("\n", " ")) == warns


def waits(path, callbacks, monkeypatch):
    """How often a run reads a tensor."""
    calls, item = [], torch.Tensor.item
    args = TrainingArguments(**tiny.quiet(path, max_steps=12, logging_nan_inf_filter=False))
    trainer = Trainer(tiny.bert(), args, train_dataset=tiny.Texts(16), callbacks=callbacks)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "item", lambda tensor: calls.append(1) or item(tensor))
        trainer.train()
    return len(calls)


def test_it_waits_for_the_device_once_an_epoch(tmp_path, monkeypatch):
    """As Trainer does for a log: for the loss, and for the norm of the gradients."""
    assert waits(tmp_path, [ConvergenceCallback()], monkeypatch) - waits(tmp_path, [], monkeypatch) == 2 * 3
