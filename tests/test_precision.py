"""Training on devices without float64, as Apple's GPUs are."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_iomt import IOMTTrainer, IOMTTrainingArguments, precision


class WithoutFloat64(TorchDispatchMode):
    """Refuses to make such numbers of others on the CPU, which stands in for the device. Files may hold some."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given, found = (
            {item.dtype for item in tree_leaves(value) if isinstance(item, torch.Tensor)}
            for value in ((args, kwargs), made)
        )
        if given and torch.float64 in found - given:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return made


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", {"cpu"})


def test_the_stand_in_refuses():
    with WithoutFloat64(), pytest.raises(TypeError, match="float64"):
        torch.zeros(2).double()


@pytest.mark.parametrize("device, expected", [("mps", torch.float32), ("cpu", torch.float64), ("cuda", torch.float64)])
def test_the_widest_type_of_a_device(device, expected):
    assert precision.widest(torch.device(device)) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iomt_score": "probe"},
        {"iomt_preset": "paper", "iomt_initial_cycles": 3},
        {"iomt_candidates": "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02", "iomt_advantage": 0.0},
        {"iomt_candidates": "adam:lr=0.01|1.0; sgdm:lr=0.05; swats:lr=0.01"},
    ],
    ids=str,
)
@pytest.mark.parametrize("regression", [False, True])
def test_trains_and_resumes(tmp_path, without_float64, settings, regression):
    settings = {"max_steps": 40, "iomt_switch_steps": 4, "save_strategy": "steps", "save_steps": 10, **settings}

    def make():
        model, data = tiny.bert(labels=1 if regression else 2), tiny.Texts(regression=regression)
        return IOMTTrainer(model, IOMTTrainingArguments(**tiny.quiet(tmp_path, **settings)), train_dataset=data)

    trainer, resumed = make(), make()
    with WithoutFloat64():
        trainer.train()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    tiny.assert_same_outcome(tiny.outcome(trainer), tiny.outcome(resumed))
