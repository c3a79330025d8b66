"""A small regression to train, and the candidates to train it with."""

from __future__ import annotations

import copy
import io

import torch
from torch.optim.lr_scheduler import LambdaLR

from hf_iomt.optim import SWATS, AdaBound, Padam

SGD, ASGD, Adagrad, RMSprop = torch.optim.SGD, torch.optim.ASGD, torch.optim.Adagrad, torch.optim.RMSprop
Adam, AdamW, Adamax, NAdam, RAdam = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
)
# Candidates with the plain torch optimizer that they stand for. AdamW's own default of weight decay gives way to that
# of the groups, which is 0 here.
PLAIN = {
    "sgd:lr=0.05": (SGD, {}),
    "sgdm:lr=0.05": (SGD, {"momentum": 0.9}),
    "nag:lr=0.05": (SGD, {"momentum": 0.9, "nesterov": True}),
    "asgd:lr=0.05": (ASGD, {}),
    "adagrad:lr=0.05": (Adagrad, {}),
    "rmsprop:lr=0.01": (RMSprop, {}),
    "adam:lr=0.01": (Adam, {}),
    "adamw:lr=0.01": (AdamW, {"weight_decay": 0.0}),
    "adamax:lr=0.01": (Adamax, {}),
    "nadam:lr=0.01": (NAdam, {}),
    "nadamw:lr=0.01,weight_decay=0.1": (NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "radam:lr=0.01": (RAdam, {}),
    "swats:lr=0.01,tolerance=1": (SWATS, {"tolerance": 1}),
    "padam:lr=0.05": (Padam, {}),
    "adabound:lr=0.01": (AdaBound, {}),
    "sgdm:lr=0.05,momentum=0.5,dampening=0.1,weight_decay=0.1": (
        SGD,
        {"momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1},
    ),
    "asgd:lr=0.05,lambd=0.01,t0=5": (ASGD, {"lambd": 0.01, "t0": 5}),
    "adagrad:lr=0.05,lr_decay=0.1,initial_accumulator_value=0.5": (
        Adagrad,
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "rmsprop:lr=0.01,alpha=0.5,momentum=0.9,centered=true": (
        RMSprop,
        {"alpha": 0.5, "momentum": 0.9, "centered": True},
    ),
    "adam:lr=0.01,betas=0.5/0.6,eps=0.01,amsgrad=true": (Adam, {"betas": (0.5, 0.6), "eps": 0.01, "amsgrad": True}),
    "adamw:lr=0.01,weight_decay=0.3": (AdamW, {"weight_decay": 0.3}),
    "adabound:lr=0.01,amsbound=true,final_lr=0.02": (AdaBound, {"amsbound": True, "final_lr": 0.02}),
    "nadam:lr=0.01,momentum_decay=0.1,decoupled_weight_decay=true,weight_decay=0.1": (
        NAdam,
        {"momentum_decay": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.1},
    ),
}
ONE_PER_FAMILY = "; ".join(list(PLAIN)[:15])


class Problem:
    """A small regression whose gradients depend on the parameters, so that a difference grows from step to step."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 3, generator=generator))
        self.bias = torch.nn.Parameter(torch.randn(3, generator=generator))
        self.parameters = [self.weight, self.bias]
        self._inputs = torch.randn(64, 8, 4, generator=generator)
        self._targets = torch.randn(64, 8, 3, generator=generator)

    def loss(self, step):
        output = torch.tanh(self._inputs[step] @ self.weight + self.bias)
        return (output - self._targets[step]).square().mean()

    def train(self, optimizer, steps, scheduler=None, before=None):
        """Train for the steps of a range; returns the parameters after each."""
        trace = []
        for step in steps:
            if before is not None:
                before(step)
            optimizer.zero_grad()
            self.loss(step).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            trace.append([parameter.detach().clone() for parameter in self.parameters])
        return trace


def assert_equal(first, second):
    """Equality of nested containers to the last bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def linear_decay(optimizer):
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 25))


def through_file(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def switching(optimizer, every=3):
    """Activates the candidates in turn."""

    def before(step):
        if step % every == 0:
            optimizer.activate(step // every % len(optimizer.candidates))

    return before


def copied(optimizer, family):
    """A copy of a family's state."""
    state = optimizer.release_family(family)
    saved = copy.deepcopy(state)
    optimizer.restore_family(family, state)
    return saved
