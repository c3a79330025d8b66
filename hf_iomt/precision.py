"""The most exact numbers that a device has, for what is summed or compared over a run."""

from __future__ import annotations

import torch

# Apple's GPUs, where a tensor of float64 is an error.
WITHOUT_FLOAT64 = {"mps"}


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that lack it."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in the widest type of its device."""
    return tensor.to(widest(tensor.device))
