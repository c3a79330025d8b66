"""Where a result comes from: command, versions, machine."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "scikit-learn", "numpy")


def provenance(command: str) -> dict[str, Any]:
    """
    What a reader needs to repeat a run.

    Args:
        command (`str`): The command line that made it.
    """
    return {
        "command": command,
        "versions": {name: version(name) for name in _PACKAGES},
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "threads": 1},
    }
