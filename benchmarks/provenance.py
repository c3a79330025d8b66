"""Where a result comes from: command, versions, machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = ("hf-iomt", "torch", "transformers", "accelerate", "peft", "datasets", "scikit-learn", "numpy")
# What the benchmarks compare with, where it is installed.
_PEERS = ("schedulefree", "prodigyopt", "pytorch-optimizer", "optuna", "ray")


def provenance(command: str) -> dict[str, Any]:
    """
    What a reader needs to repeat a run.

    Args:
        command (`str`): The command line that made it.
    """
    versions = {name: version(name) for name in _PACKAGES}
    for name in _PEERS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = {"processor": platform.machine(), "python": platform.python_version(), "threads": 1}
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return {"command": command, "versions": versions, "machine": machine}
