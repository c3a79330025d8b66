"""A training loop in plain PyTorch, with the interleaving in it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from hf_iomt import InterleavedOptimizer, Interleaving, InterleavingSettings, Selector, SelectorSettings
from hf_iomt.optim import trainable_tensors
from hf_iomt.selection import ParameterProjection

TWO = "sgd:lr=0.1; adam:lr=0.01"
DAMAGE = "adam:lr=0.01; sgdm:lr=1000"


class RecordingSelector(Selector):
    """Chooses as its base does, and keeps what it was told."""

    def __init__(self, *args):
        super().__init__(*args)
        self.told = []
        self.states = []

    def observe(self, candidate, state, score):
        self.told.append((candidate, score))
        super().observe(candidate, state, score)

    def choose(self, state):
        self.states.append(np.array(state))
        return super().choose(state)


class HostReads(TorchFunctionMode):
    """Counts what waits for the device."""

    NAMES = frozenset({"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__array__"})

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


class Loop:
    """A plain PyTorch loop on noisy linear regression: a batch of 8 each step, or where it is even all of the data."""

    def __init__(self, text=TWO, probe=None, race=None, selection="cyclical", normalised=False, begin=True, **kwargs):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(64, 3, generator=generator)
        noise = 0.1 * torch.randn(64, generator=generator)
        self.targets = self.inputs @ torch.tensor([1.0, -2.0, 0.5]) + noise
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 1)
        if normalised:
            self.model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), self.model)
        self.optimizer = InterleavedOptimizer(self.model.parameters(), text)
        self.selector = RecordingSelector(
            [candidate.family for candidate in self.optimizer.candidates],
            [candidate.settings for candidate in self.optimizer.candidates],
            SelectorSettings(selection=selection, initial_cycles=2, advantage=0.0),
            0,
        )
        self.even = kwargs.pop("even", False)
        others = {name: kwargs.pop(name) for name in ("race_probe", "reduce", "share", "first_step") if name in kwargs}
        self.tensors = trainable_tensors(self.model)
        self.interleaving = Interleaving(
            self.optimizer,
            self.selector,
            self.tensors,
            ParameterProjection(list(self.model.named_parameters()), 0),
            InterleavingSettings(**kwargs),
            probe=self.probe if probe is True else probe,
            race=race,
            **others,
        )
        self.losses, self.values, self.reads = [], [self.now()], []
        self.used = []
        if begin:
            self.interleaving.begin()

    def loss(self, rows):
        return (self.model(self.inputs[rows]).squeeze(1) - self.targets[rows]).square().mean()

    @torch.no_grad()
    def probe(self):
        self.model.eval()
        losses = np.array([float(self.loss(slice(0, 16))), float(self.loss(slice(16, 32)))])
        self.model.train()
        return losses

    def now(self):
        return [tensor.detach().clone() for tensor in self.tensors] if hasattr(self, "tensors") else None

    def run(self, steps, poison=()):
        """Make steps; the losses of those in `poison`, numbered from 1, are reported as not a number."""
        for _ in range(steps):
            step = len(self.losses)
            start = 8 * (step % 8)
            self.optimizer.zero_grad()
            loss = self.loss(slice(None) if self.even else slice(start, start + 8))
            loss.backward()
            reported = loss.detach() * (math.nan if step + 1 in poison else 1.0)
            with HostReads() as before:
                self.interleaving.after_backward(reported)
            self.optimizer.step()
            self.used.append(self.optimizer.active.name)
            self.losses.append(float(reported))
            with HostReads() as after:
                self.interleaving.after_step()
            self.reads.append((before.names, after.names))
            self.values.append(self.now())
        return self

    @property
    def records(self):
        return self.interleaving.records


def equation_2(losses, alpha):
    """Eq. 2 for positive losses, word for word."""
    tau = len(losses) - 1
    deltas = [(losses[t - 1] - losses[t]) / max(losses[t - 1], losses[t]) for t in range(1, tau + 1)]
    mean = sum(deltas) / tau
    spread = math.sqrt(sum((delta - mean) ** 2 for delta in deltas) / tau)
    highest, lowest = max(losses[1:]), min(losses[1:])
    upper = (losses[0] - highest) / max(losses[0], highest) / tau
    lower = (losses[0] - lowest) / max(losses[0], lowest) / tau
    return math.tanh((mean + upper + lower) / 3 + alpha * spread)


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def bounds(records):
    return [(record.first_step, record.last_step) for record in records]


def script(*values):
    """A probe that returns these one after the other."""
    remaining = iter(values)
    return lambda: np.array([next(remaining)])
