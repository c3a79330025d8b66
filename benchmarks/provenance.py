"""Where a result comes from: command, versions, machine."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import hf_iomt

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
    return {"command": command, "versions": versions, "source": hash_source(), "machine": machine}


def hash_source() -> str:
    """Twelve hexadecimal digits by which one can tell whether two results were made by the same code of `hf_iomt`."""
    folder = Path(hf_iomt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
