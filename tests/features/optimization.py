"""Gradients, schedules and optimizers."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from features.rows import At, history_of, make, refused, works


@works("gradient_accumulation_steps")
def accumulation(path):
    def train(**settings):
        model = tiny.bert(dropout=0.0)
        # Without it Trainer leaves it to the model to average, which this one does not.
        model.accepts_loss_kwargs = False
        # Rounding must not decide what is chosen.
        trainer = make(path, model, iomt_selection="cyclical", **settings)
        trainer.train()
        return trainer, history_of(trainer, 40)

    whole, expected = train()
    parts, found = train(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert [record["candidate"] for record in expected] == [record["candidate"] for record in found]
    scores = [[record["score"] or 0.0 for record in history] for history in (expected, found)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert tiny.loss_of(whole.model) == pytest.approx(tiny.loss_of(parts.model), rel=0.02)


@works("gradient accumulation where Trainer adds the losses up")
def added_up(path):
    trainer = make(
        path,
        tiny.bert(dropout=0.0),
        iomt_candidates="adam:lr=1e-4; sgd:lr=1e-3; adagrad:lr=1e-4",
        gradient_accumulation_steps=4,
        logging_strategy="steps",
        logging_steps=1,
    )
    before = tiny.loss_of(trainer.model)
    trainer.model.train()
    trainer.train()
    # Trainer takes the model to divide by the number of samples, which it does not.
    assert trainer.state.log_history[0]["loss"] > 2.5 * before
    # Losses are compared with those of the probe, which are means.
    assert 0.5 * before < trainer.interleaving._guard.standing.best < 1.1 * before
    history_of(trainer, 40)


@works("max_grad_norm")
def clipping(path):
    norms = []

    def measure(model, **_):
        norms.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))

    trainer = make(
        path,
        max_grad_norm=0.05,
        callbacks=[At("on_pre_optimizer_step", measure)],
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.train()
    before = [item["grad_norm"] for item in trainer.state.log_history if "grad_norm" in item]
    assert len(norms) == 40 and min(before) > 0.05
    # Clipping divides by the norm and a small constant.
    assert norms == pytest.approx([0.05] * 40, rel=1e-3)


@works("weight_decay")
def decay(path):
    without, with_decay = make(path, tiny.bert(dropout=0.0)), make(path, tiny.bert(dropout=0.0), weight_decay=0.5)
    without.train()
    with_decay.train()
    sizes = [trainer.model.bert.embeddings.position_embeddings.weight.norm() for trainer in (without, with_decay)]
    assert sizes[1] < sizes[0]


def multipliers(path, **settings):
    """Learning rate of every step by that of its candidate, as the optimizer that stepped had it; and the race."""
    found = []

    def read(**_):
        optimizer = trainer.interleaved_optimizer
        rate = optimizer._inner[optimizer.active.family].param_groups[0]["lr"]
        found.append(rate / optimizer.active.learning_rate)

    trainer = make(path, callbacks=[At("on_optimizer_step", read)], iomt_takeover_steps=0, **settings)
    trainer.train()
    raced = max(record["last_step"] for record in history_of(trainer, 40) if record["phase"] == "race")
    assert raced >= 3
    return found, raced


# By type: further arguments, and the multiplier in step `k` of the `n` after the race, with `w` steps of warm-up.
# Metrics are such that nothing counts as an improvement but the first evaluation after the race.
METRIC = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "threshold": 100.0, "threshold_mode": "abs", "min_lr": 0.2},
}
SCHEDULES = {
    "linear": ({}, lambda k, n, w: min(k / w, (n - k) / (n - w))),
    "cosine": ({}, lambda k, n, w: k / w if k < w else (1 + math.cos(math.pi * (k - w) / (n - w))) / 2),
    "cosine_with_restarts": (
        {"lr_scheduler_kwargs": {"num_cycles": 2}},
        lambda k, n, w: k / w if k < w else (1 + math.cos(math.pi * (2 * (k - w) / (n - w) % 1))) / 2,
    ),
    "polynomial": (
        {"lr_scheduler_kwargs": {"power": 2.0, "lr_end": 0.1}},
        lambda k, n, w: k / w if k < w else 0.1 + 0.9 * (1 - (k - w) / (n - w)) ** 2,
    ),
    "constant": ({}, lambda k, n, w: 1.0),
    "constant_with_warmup": ({}, lambda k, n, w: min(1.0, k / w)),
    "inverse_sqrt": ({}, lambda k, n, w: k / w if k < w else math.sqrt(w / k)),
    "reduce_lr_on_plateau": (METRIC, lambda k, n, w: max(0.2, 0.5**k)),
    "cosine_with_min_lr": (
        {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        lambda k, n, w: k / w if k < w else 0.1 + 0.9 * (1 + math.cos(math.pi * (k - w) / (n - w))) / 2,
    ),
    "cosine_warmup_with_min_lr": (
        {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        lambda k, n, w: (k + 1) / w if k < w else 0.1 + 0.9 * (1 + math.cos(math.pi * (k - w + 1) / (n - w))) / 2,
    ),
    "warmup_stable_decay": (
        {"lr_scheduler_kwargs": {"num_decay_steps": 10}},
        lambda k, n, w: min(1.0, k / w) if k < n - 10 else (1 + math.cos(math.pi * (k - n + 10) / 10)) / 2,
    ),
    # Improvements raise it, here the first evaluation after the race.
    "greedy": (
        {**METRIC, "lr_scheduler_kwargs": {**METRIC["lr_scheduler_kwargs"], "max_lr": 1.5}},
        lambda k, n, w: max(0.2, 1.5 * 0.5**k),
    ),
}


def schedule(path, kind):
    settings, expected = SCHEDULES[kind]
    found, raced = multipliers(path, lr_scheduler_type=kind, warmup_steps=5, **settings)
    assert found[:raced] == [1.0] * raced
    assert found[raced:] == pytest.approx([expected(k, 40 - raced, 5) for k in range(40 - raced)])


for kind in SCHEDULES:
    works(f'lr_scheduler_type="{kind}"', kind=kind)(schedule)


@works("warmup_steps, as a number and as a share")
def warm_up(path):
    by_number, raced = multipliers(path, warmup_steps=8)
    # Of the steps after the race.
    by_share, _ = multipliers(path, warmup_steps=7.5 / (40 - raced))
    assert by_number == by_share and by_number[raced] == 0.0 and by_number[raced + 4] == 0.5


@refused("min_lr of the cosine schedules, max_lr below 1 of greedy")
def absolute_rates(path):
    for kind in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        message = rf"`lr_scheduler_kwargs` of {kind!r} has min_lr=1e-05.*`min_lr_rate`"
        with pytest.raises(ValueError, match=message):
            make(path, lr_scheduler_type=kind, lr_scheduler_kwargs={"min_lr": 1e-5})
    with pytest.raises(
        ValueError, match=r"has max_lr=0\.001.*multiples of each candidate's learning rate.*at least 1"
    ):
        make(path, lr_scheduler_type="greedy", eval_strategy="steps", lr_scheduler_kwargs={"max_lr": 1e-3})


@works("optim=, every name the machine can build, as a family")
def names_of_optim(path):
    trainer = make(path, iomt_candidates="adafactor:lr=0.001; adamw_torch:lr=0.01", iomt_selection="cyclical")
    trainer.train()
    assert {record["family"] for record in history_of(trainer, 40)} == {"adafactor", "adamw_torch"}


@works("8-bit optimizers of bitsandbytes")
def eight_bits(path):
    pytest.importorskip("bitsandbytes")
    settings = {
        # Smaller states than this are kept in 32 bits.
        "iomt_candidates": "adamw_8bit:lr=0.01,min_8bit_size=16; lion_8bit:lr=0.001,min_8bit_size=16; sgd:lr=0.1",
        "iomt_selection": "cyclical",
        "save_strategy": "steps",
        "save_steps": 22,
    }
    trainer = make(path, **settings)
    trainer.train()
    assert {"adamw_8bit", "lion_8bit"} <= {record["family"] for record in history_of(trainer, 40)[3:]}
    trainer_names = {id(item): name for name, item in trainer.model.named_parameters()}
    for family in ("adamw_8bit", "lion_8bit"):
        slots = trainer.interleaved_optimizer.release_family(family)["state"]
        names = [trainer_names[id(item)] for item in trainer.interleaved_optimizer._parameters()]
        kinds = {names[number]: item["state1"].dtype for number, item in slots.items()}
        # As Trainer has it, embeddings are spared.
        assert {kind for name, kind in kinds.items() if "embeddings.weight" in name} == {torch.float32}
        assert kinds["bert.pooler.dense.weight"] == torch.uint8
    resumed = make(path, tiny.bert(seed=3), **settings)
    resumed.train(resume_from_checkpoint=str(path / "checkpoint-22"))
    tiny.assert_same_outcome(tiny.outcome(trainer), tiny.outcome(resumed))


@refused("optim_target_modules (GaLore, APOLLO), LOMO")
def low_rank(path):
    for name in ("galore_adamw", "apollo_adamw", "lomo"):
        with pytest.raises(ValueError, match=rf"The optimizer '{name}' (cannot be built here|chooses its own)"):
            make(path, iomt_candidates=f"{name}:lr=0.01; sgd:lr=0.1")
    with pytest.raises(ValueError, match=r"`optim_target_modules` has no effect.*cannot take turns.*leave it out"):
        make(path, optim_target_modules=["query"])
