from __future__ import annotations

import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_iomt.generators import preserved_generators


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_what_is_drawn_outside_does_not_depend_on_what_is_drawn_inside():
    for seed in (0, 1):
        with preserved_generators(5):
            before = draw()
        torch.manual_seed(seed)
        with preserved_generators(5):
            assert draw() == before
        first = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(first, torch.rand(1))


def test_they_come_back_after_an_error():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with pytest.raises(KeyError), preserved_generators(1):
        raise KeyError
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_generators_of_all_devices_come_back_without_a_warning(monkeypatch, kind):
    states = {0: torch.tensor(3), 1: torch.tensor(4)}
    module = SimpleNamespace(
        device_count=lambda: len(states),
        get_rng_state=lambda device: states[device].clone(),
        set_rng_state=lambda state, device: states.update({device: state}),
    )
    monkeypatch.setattr(torch, kind, module, raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: len(states))
    # What seeds devices is replaced by the stand-in, so only the generator of the CPU is seeded.
    monkeypatch.setattr(torch, "manual_seed", lambda seed: states.update({0: torch.tensor(0), 1: torch.tensor(0)}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with preserved_generators(5):
            assert [int(state) for state in states.values()] == [0, 0]
    assert [int(state) for state in states.values()] == [3, 4]
