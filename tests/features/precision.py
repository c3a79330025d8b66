"""Precision, speed and memory."""

from __future__ import annotations

import pytest
import tiny
import torch
from features.rows import At, history_of, make, works

from hf_iomt import IOMTTrainer


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
