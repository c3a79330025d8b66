"""What of Trainer works while optimizers are interleaved, and what is refused: one row for each feature."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import hub
import pytest
import tiny
import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import SchedulerType

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

THREE = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02"
PAGE = Path(__file__).parent.parent / "docs" / "features.md"

# The table: what is asserted for a feature, and what the documentation says of it. Features that other files test have
# the place of the test.
ROWS = {}
ELSEWHERE = {
    "resume_from_checkpoint": ("works", "test_checkpoint.py::test_killed_at_random"),
    "fp16, steps that the gradient scaler leaves out": ("works", "test_overflow.py::test_no_candidate_is_penalised"),
    "a create_scheduler of one's own": (
        "works",
        "test_race_schedule.py::test_a_trainer_that_builds_its_schedule_itself_races",
    ),
    "DDP, by torchrun or accelerate launch": ("works", "test_distributed.py::test_resumes_exactly"),
    "FSDP2, by fsdp=True or accelerate launch": ("works", "test_distributed.py::test_resumes_exactly"),
    "FSDP1, DeepSpeed, FSDP of XLA": ("refused", "test_distributed.py::test_what_is_refused"),
    "tensor, context and sequence parallelism": ("refused", "test_distributed.py::test_what_is_refused"),
}


def works(name, **settings):
    return add(name, "works", settings)


def refused(name, **settings):
    return add(name, "refused", settings)


def add(name, verdict, settings):
    def decorate(check):
        assert name not in ROWS
        ROWS[name] = (verdict, lambda path: check(path, **settings))
        return check

    return decorate


def make(path, model=None, callbacks=None, cls=IOMTTrainer, data=None, model_init=None, evaluation=None, **settings):
    args = IOMTTrainingArguments(
        **tiny.quiet(
            path, **{"iomt_candidates": THREE, "iomt_switch_steps": 4, "iomt_transferability": "0.5", **settings}
        )
    )
    return cls(
        tiny.bert() if model is None and model_init is None else model,
        args,
        train_dataset=tiny.Texts() if data is None else data,
        eval_dataset=evaluation if evaluation is not None else tiny.Texts(16, seed=1),
        callbacks=callbacks,
        model_init=model_init,
    )


def history_of(trainer, steps):
    """The history, in which every step occurs exactly once."""
    history = trainer.iomt_history
    covered = [step for record in history for step in range(record["first_step"], record["last_step"] + 1)]
    assert covered == list(range(1, steps + 1)) and trainer.state.global_step == steps
    assert not trainer.interleaved_optimizer.ignore_schedule
    return history


def differ(first, second):
    return any(not torch.equal(item, second[name]) for name, item in first.items())


class At(TrainerCallback):
    """Calls a function with the event's arguments at an event, at one step or at each."""

    def __init__(self, event, call, step=None):
        def on_event(args, state, control, **kwargs):
            if step in (None, state.global_step):
                call(args=args, state=state, control=control, **kwargs)

        setattr(self, event, on_event)


def stop(control, **_):
    control.should_training_stop = True


# Optimization


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


def test_every_schedule_has_a_row():
    assert set(SCHEDULES) == {item.value for item in SchedulerType}


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


# Precision and speed


def computed_in(path, **settings):
    """Type of what a layer computes in training, and of the parameters."""
    found, model = set(), tiny.bert()
    layer = model.bert.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    trainer = make(path, model, **settings)
    trainer.train()
    history_of(trainer, 40)
    return trainer, found, {item.dtype for item in trainer.model.parameters()}


@works("bf16")
def bfloat16(path):
    _, found, parameters = computed_in(path, bf16=True)
    # Training steps and probes alike.
    assert (found, parameters) == ({torch.bfloat16}, {torch.float32})


@works("fp16")
def float16(path):
    trainer, found, parameters = computed_in(path, fp16=True, use_cpu=not torch.cuda.is_available())
    assert parameters == {torch.float32}
    # Without a GPU Accelerate leaves it out.
    assert found == ({torch.float16} if torch.cuda.is_available() else {torch.float32})
    assert (trainer.accelerator.scaler is not None) is torch.cuda.is_available()


@works("tf32, on a GPU that has it")
def tensor_float(path):
    with pytest.raises(ValueError, match="tf32 requires Ampere or a newer GPU"):
        make(path, tf32=True)


@works("torch_compile")
def compiled(path):
    losses = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = make(path, tiny.bert(dropout=0.0), iomt_selection="cyclical", max_steps=20, **settings)
        trainer.train()
        history_of(trainer, 20)
        losses.append(tiny.loss_of(trainer.model))
    assert isinstance(trainer.model_wrapped, torch._dynamo.eval_frame.OptimizedModule)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@works("activation_checkpointing (gradient_checkpointing)")
def recomputing(path):
    passes = []

    def train(**settings):
        model = tiny.bert()
        passes.append(0)

        def count(*_):
            passes[-1] += 1

        model.bert.encoder.layer[0].attention.self.query.register_forward_hook(count)
        trainer = make(path, model, **settings)
        trainer.train()
        return tiny.outcome(trainer)

    tiny.assert_same_outcome(train(), train(activation_checkpointing=True))
    # Every training step computes the layer a second time.
    assert passes[1] - passes[0] == 40


@works("torch_empty_cache_steps")
def emptying(path):
    emptied = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.trainer.clear_device_cache", lambda: emptied.append(trainer.state.global_step))
        trainer = make(path, torch_empty_cache_steps=10)
        trainer.train()
    assert emptied == [0, 10, 20, 30]


@works("auto_find_batch_size")
def shrinking(path):
    """Memory runs out in the race of the first attempt and in a cycle of the second."""
    attempts, races = [], []

    class Large(IOMTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            size, step = len(inputs["input_ids"]), self.state.global_step
            if model.training and (size, step) in ((8, 2), (7, 30)):
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *args, **kwargs)

    def begin(model, **_):
        attempts.append((trainer._train_batch_size, tiny.loss_of(model)))
        races.append([group["lr"] for group in trainer.interleaved_optimizer.param_groups])
        model.train()

    # Raced first: what it leaves behind must not be what the second attempt begins with.
    trainer = make(
        path,
        tiny.bert(dropout=0.0),
        cls=Large,
        auto_find_batch_size=True,
        per_device_train_batch_size=8,
        iomt_candidates="sgd:lr=1e4; adam:lr=0.01; sgdm:lr=0.05",
        callbacks=[At("on_train_begin", begin)],
        # Entrants make three steps each.
        max_steps=100,
    )
    trainer.train()
    assert [size for size, _ in attempts] == [8, 7, 6]
    # The first attempt did not come beyond its race; what the second one learnt is carried on, as Trainer does.
    assert attempts[0][1] == attempts[1][1] > attempts[2][1]
    assert races[0] == races[1] == races[2]
    history = history_of(trainer, 100)
    assert [record["phase"] for record in history[:3]] == ["race"] * 3 and history[3]["phase"] == "surrogate"
    assert tiny.loss_of(trainer.model) < attempts[2][1]


@works("auto_find_batch_size on resume")
def shrinking_on_resume(path):
    starts = []

    class Large(IOMTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if model.training and len(inputs["input_ids"]) == 8 and self.state.global_step == 20 and starts:
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *args, **kwargs)

    def begin(state, model, **_):
        if state.global_step:
            starts.append(tiny.values(model))

    settings = {"auto_find_batch_size": True, "per_device_train_batch_size": 8}
    make(path, save_strategy="steps", save_steps=14, **settings).train()
    trainer = make(path, cls=Large, callbacks=[At("on_train_begin", begin)], **settings)
    trainer.train(resume_from_checkpoint=str(path / "checkpoint-14"))
    # Each attempt begins with the checkpoint.
    tiny.assert_same(*starts)
    history_of(trainer, 40)


@works("train() after one that failed")
def after_a_failure(path):
    def fail(**_):
        raise KeyboardInterrupt

    trainer = make(
        path,
        tiny.bert(dropout=0.0),
        iomt_candidates="sgd:lr=1e4; adam:lr=0.01",
        callbacks=[failing := At("on_optimizer_step", fail, 1)],
    )
    before = tiny.loss_of(trainer.model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(failing)
    trainer.args.iomt_race_steps = 0
    at_start = []
    trainer.add_callback(At("on_train_begin", lambda model, **_: at_start.append(tiny.loss_of(model))))
    trainer.train()
    assert at_start == [before]
    assert history_of(trainer, 40)[0]["phase"] == "surrogate"


# Evaluation, the best model, stopping


EVALUATION = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}


def with_goodness(path, best, **settings):
    trainer = make(path, metric_for_best_model="goodness", **{**EVALUATION, **settings})
    trainer.compute_metrics = lambda _: {"goodness": float(trainer.state.global_step == best)}
    return trainer


def assert_loaded(trainer, folder):
    saved = tiny.bert().from_pretrained(str(folder))
    tiny.assert_same(tiny.values(trainer.model), tiny.values(saved))


@works("load_best_model_at_end")
def best_model(path):
    trainer = with_goodness(path, 16, load_best_model_at_end=True)
    trainer.train()
    history_of(trainer, 40)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-16")
    assert_loaded(trainer, path / "checkpoint-16")
    assert tiny.loss_of(trainer.model) != tiny.loss_of(tiny.bert().from_pretrained(str(path / "checkpoint-40")))


@works("EarlyStoppingCallback")
def early_stop(path):
    # Stopped by an evaluation in the race, and within a cycle.
    for every, steps in ((1, 2), (5, 10)):
        folder, often = path / str(every), {"eval_steps": every, "save_steps": every}
        trainer = with_goodness(
            folder, every, load_best_model_at_end=True, callbacks=[EarlyStoppingCallback(1)], **often
        )
        trainer.train()
        history_of(trainer, steps)
        assert_loaded(trainer, trainer.state.best_model_checkpoint)
        assert json.loads((folder / "iomt_history.json").read_text()) == trainer.iomt_history


@works("save_total_limit")
def limit(path):
    with_goodness(path, 8, save_total_limit=2, load_best_model_at_end=True).train()
    assert {item.name for item in path.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-40"}
    assert all((item / "iomt_state.pt").exists() for item in path.glob("checkpoint-*"))


@works("eval_on_start")
def evaluated_first(path):
    trainer = make(path, eval_on_start=True)
    expected = trainer.evaluate()["eval_loss"]
    trainer.train()
    first = next(item for item in trainer.state.log_history if "eval_loss" in item)
    assert first["step"] == 0 and first["eval_loss"] == expected
    history_of(trainer, 40)


@works("callbacks that stop training or an epoch")
def stopping(path):
    # In the race, within a cycle, and at the end of one.
    for step in (2, 13, 15):
        trainer = make(path, tiny.bert(dropout=0.0), callbacks=[At("on_step_end", stop, step)])
        trainer.train()
        history_of(trainer, step)
        assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0)) * 1.05

    def end_epoch(control, **_):
        control.should_epoch_stop = True

    trainer = make(path, max_steps=-1, num_train_epochs=3, callbacks=[At("on_step_end", end_epoch, 6)])
    trainer.train()
    # Ten steps of the first of three epochs are left out.
    history_of(trainer, 38)


@works("resuming after a callback has stopped training")
def stopped_and_resumed(path):
    whole = make(path / "whole")
    whole.train()
    for step in (2, 14):
        folder = path / str(step)
        settings = {"save_strategy": "steps", "save_steps": step}
        make(folder, callbacks=[At("on_step_end", stop, step)], **settings).train()
        resumed = make(folder, tiny.bert(seed=4))
        resumed.train(resume_from_checkpoint=True)
        tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


@works("ignore_data_skip")
def without_skipping(path):
    settings = {"save_strategy": "steps", "save_steps": 6, "data": tiny.Texts(32)}
    make(path, **settings).train()
    read = []

    class Watching(IOMTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            read.append(inputs["input_ids"].clone())
            return super().training_step(model, inputs, *args, **kwargs)

    for skipped in (True, False):
        read.clear()
        resumed = make(path, cls=Watching, ignore_data_skip=not skipped, **settings)
        resumed.train(resume_from_checkpoint=str(path / "checkpoint-6"))
        history_of(resumed, 40)
        # What is left of the first epoch of 8 steps, or all of an epoch.
        epoch = torch.cat(read[:8]).unique(dim=0)
        assert (len(epoch) == 32) is not skipped


def train_until_terminated(path, settings, event, step):
    torch.set_num_threads(1)

    def terminate(**_):
        os.kill(os.getpid(), signal.SIGTERM)
        # The callback of transformers acts on a timer.
        time.sleep(0.3)

    trainer = make(path, enable_jit_checkpoint=True, callbacks=[At(event, terminate, step)], **settings)
    jit = next(item for item in trainer.callback_handler.callbacks if isinstance(item, JITCheckpointCallback))
    jit.jit_manager.kill_wait = 0.05
    trainer.train()


@works("enable_jit_checkpoint (SIGTERM)")
def terminated(path):
    settings = {"gradient_accumulation_steps": 2}
    whole = make(path / "whole", **settings)
    whole.train()
    # In the race, in a cycle and between two epochs of eight steps; noticed before a step, within it and after it.
    for number, (event, step) in enumerate(
        [
            ("on_step_end", 2),
            ("on_substep_end", 1),
            ("on_optimizer_step", 1),
            ("on_step_end", 8),
            ("on_step_end", 13),
            ("on_optimizer_step", 14),
        ]
    ):
        folder = path / str(number)
        process = multiprocessing.get_context("fork").Process(
            target=train_until_terminated, args=(folder, settings, event, step)
        )
        process.start()
        process.join(60)
        assert process.exitcode == 0
        (saved,) = folder.glob("checkpoint-*")
        assert step <= TrainerState.load_from_json(str(saved / "trainer_state.json")).global_step <= step + 1
        resumed = make(folder, tiny.bert(seed=4), **settings)
        resumed.train(resume_from_checkpoint=True)
        tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))


# Runs


@works("train() twice")
def twice(path):
    trainer = make(path, tiny.bert(dropout=0.0))
    losses = [tiny.loss_of(trainer.model)]
    for _ in range(2):
        trainer.train()
        history = history_of(trainer, 40)
        losses.append(tiny.loss_of(trainer.model))
        assert history[0]["phase"] == "race" and history[0]["learning_rate"] == 0.01
    assert losses[0] > losses[1] > losses[2]


@works("model_init")
def made_anew(path):
    trainer = make(path, model_init=lambda: tiny.bert(dropout=0.0))
    trainer.train()
    first, model = tiny.outcome(trainer), trainer.model
    trainer.train()
    assert trainer.model is not model
    tiny.assert_same_outcome(first, tiny.outcome(trainer))


@works("hyperparameter_search with Optuna")
def search(path):
    optuna = pytest.importorskip("optuna")
    space = {"iomt_switch_steps": [3, 5]}
    starts = []
    trainer = make(
        path,
        model_init=lambda: tiny.bert(dropout=0.0),
        callbacks=[At("on_train_begin", lambda model, **_: starts.append(tiny.values(model)))],
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {name: trial.suggest_categorical(name, values) for name, values in space.items()},
        n_trials=2,
        direction="minimize",
        backend="optuna",
        sampler=optuna.samplers.GridSampler(space, seed=0),
    )
    tiny.assert_same(*starts)
    lengths = set()
    for number in range(2):
        history = json.loads((path / f"run-{number}" / "iomt_history.json").read_text())
        assert history[-1]["last_step"] == 40 and history[0]["phase"] == "race"
        cycle = next(record for record in history if record["phase"] == "surrogate")
        lengths.add(cycle["last_step"] - cycle["first_step"] + 1)
    assert lengths == {3, 5} and best.hyperparameters["iomt_switch_steps"] in (3, 5)


@refused("hyperparameter_search over learning_rate or optim")
def search_in_vain(path):
    pytest.importorskip("optuna")
    trainer = make(path, model_init=lambda: tiny.bert())
    # The default space of transformers.
    with pytest.raises(
        ValueError, match=r"searches `learning_rate`, which has no effect.*`iomt_candidates`.*hp_space"
    ):
        trainer.hyperparameter_search(n_trials=1, direction="minimize", backend="optuna")
    with pytest.raises(ValueError, match=r"`0 <= iomt_min_weight <= 1` must hold, but got iomt_min_weight=7"):
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"iomt_min_weight": trial.suggest_categorical("iomt_min_weight", [7.0])},
            n_trials=1,
            direction="minimize",
            backend="optuna",
        )


# Data and loss


@works("IterableDataset")
def stream(path):
    trainer = make(path, tiny.bert(dropout=0.0), data=tiny.Stream(tiny.Texts()))
    trainer.train()
    history_of(trainer, 40)
    assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))


class Lengths(tiny.Texts):
    def __getitem__(self, index):
        return {"input_ids": self.ids[index][: 2 + index % 5], "labels": self.labels[index]}


def pad(rows):
    ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.stack([row["labels"] for row in rows]),
    }


@works('train_sampling_strategy="group_by_length"')
def grouped(path):
    def padding(strategy):
        lengths = []

        class Watching(IOMTTrainer):
            def training_step(self, model, inputs, *args, **kwargs):
                lengths.append(inputs["attention_mask"].sum(1))
                return super().training_step(model, inputs, *args, **kwargs)

        trainer = make(path, cls=Watching, data=Lengths(), train_sampling_strategy=strategy)
        trainer.data_collator = pad
        trainer.train()
        history_of(trainer, 40)
        return sum(int((batch.max() - batch).sum()) for batch in lengths)

    assert padding("group_by_length") < 0.5 * padding("random")


@works("dataloader_num_workers")
def workers(path):
    # With workers random numbers are drawn in another order.
    expected = make(path, tiny.bert(dropout=0.0))
    found = make(path, tiny.bert(dropout=0.0), dataloader_num_workers=1, dataloader_persistent_workers=True)
    expected.train()
    found.train()
    tiny.assert_same_outcome(tiny.outcome(expected), tiny.outcome(found))


@works("label_smoothing_factor")
def smoothing(path):
    trainer = make(path, tiny.bert(dropout=0.0), label_smoothing_factor=0.2, logging_strategy="steps", logging_steps=1)
    seen = []

    def first_loss(inputs):
        logits = torch.log_softmax(tiny.bert(dropout=0.0)(inputs["input_ids"]).logits, -1)
        right = logits.gather(1, inputs["labels"][:, None])[:, 0]
        return float(-(0.8 * right + 0.2 * logits.mean(-1)).mean())

    step = trainer.training_step

    def watch(model, inputs, *args, **kwargs):
        seen.append(dict(inputs))
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(first_loss(seen[0]), abs=1e-3)
    # The probe of the race sees the same loss.
    history = history_of(trainer, 40)
    assert history[0]["score"] is not None


@works("neftune_noise_alpha")
def noise(path):
    quiet, noisy = make(path, tiny.bert(dropout=0.0)), make(path, tiny.bert(dropout=0.0), neftune_noise_alpha=5.0)
    probed = []

    def probe(**_):
        probed.extend(float(noisy.interleaving._guard._probe().mean()) for _ in range(2))

    noisy.add_callback(At("on_step_begin", probe, 20))
    quiet.train()
    noisy.train()
    assert differ(tiny.values(quiet.model), tiny.values(noisy.model))
    # Training is noisy, what is measured is not, and the hook is gone afterwards.
    assert probed[0] == probed[1]
    assert not noisy.model.get_input_embeddings()._forward_hooks
    history_of(noisy, 40)


@works("logging_nan_inf_filter")
def filtered(path):
    """The logs do not show that a candidate diverges; the selection sees it all the same."""

    class Diverging(IOMTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            diverges = model.training and 10 <= self.state.global_step < 14
            return loss * float("nan") if diverges else loss

    trainer = make(
        path, tiny.bert(dropout=0.0), cls=Diverging, logging_strategy="steps", logging_steps=1, iomt_race_steps=0
    )
    trainer.train()
    assert all(math.isfinite(item["loss"]) for item in trainer.state.log_history if "loss" in item)
    undone = [record for record in history_of(trainer, 40) if record["rolled_back"]]
    assert undone and {record["first_step"] for record in undone} == {9, 13}
    assert math.isfinite(tiny.loss_of(trainer.model)) and tiny.loss_of(trainer.model) < tiny.loss_of(
        tiny.bert(dropout=0.0)
    )


# The Hub


PUSHING = '''
import json, sys, torch, tiny
from peft import PeftModel
from hf_iomt import IOMTTrainer, IOMTTrainingArguments

torch.set_num_threads(1)
args = IOMTTrainingArguments(
    output_dir=sys.argv[1], use_cpu=True, report_to="none", disable_tqdm=True, save_steps=10, max_steps=30,
    per_device_train_batch_size=4, iomt_candidates=sys.argv[2], iomt_switch_steps=4, iomt_transferability=0.5,
    push_to_hub=True, hub_strategy="every_save", hub_always_push=True, hub_model_id="tester/adapter", hub_token="hf_x",
)
class Waiting(IOMTTrainer):
    """A push reads its files while training goes on; waiting shows what was there when it began."""

    def _push_from_checkpoint(self, folder):
        super()._push_from_checkpoint(folder)
        self._finish_current_push()

trainer = Waiting(tiny.lora(), args, train_dataset=tiny.Texts())
trainer.train()
trainer.push_to_hub()
read = PeftModel.from_pretrained(tiny.bert(), "tester/adapter", is_trainable=True)
tiny.assert_same(tiny.values(trainer.model), tiny.values(read))
'''


@works("push_to_hub while training")
def pushed(path):
    with hub.serve() as served:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": served.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(path / "home"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        result = subprocess.run(
            [sys.executable, "-c", PUSHING, str(path / "run"), THREE],
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
        )
    assert result.returncode == 0, result.stderr[-3000:]
    commits = served.commits["tester/adapter"]
    steps = []
    for message, files in commits:
        if match := re.match(r"Training in progress, step (\d+)", message):
            steps.append(int(match[1]))
            # What was done until this very save.
            assert json.loads(files["iomt_history.json"])[-1]["last_step"] == steps[-1]
            assert {"adapter_model.safetensors", "adapter_config.json"} <= set(files)
    assert steps == [10, 20, 30]
    assert {"README.md", "iomt_history.json"} <= set(commits[-1][1])


# The table itself


def documented_rows():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")][2:]
    return {cells[0].replace("`", "").strip(): cells[1].strip() for cells in rows}


def test_the_documentation_shows_these_rows():
    expected = {name: verdict for name, (verdict, _) in {**ROWS, **ELSEWHERE}.items()}
    assert documented_rows() == expected


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_tests_are_there(name):
    file, _, test = ELSEWHERE[name][1].partition("::")
    assert f"\ndef {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_feature(name, tmp_path):
    ROWS[name][1](tmp_path)
