"""Work on the side that leaves the global random generators as they were."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class preserved_generators:
    """
    Seeds the global generators of Python, NumPy and torch, and puts their state back at the end.

    Args:
        seed (`int`): The seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        # All devices, since `manual_seed` reaches them all; by number, since torch warns of several otherwise.
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._torch = torch.random.fork_rng(
            range(0 if accelerator is None else torch.accelerator.device_count()),
            device_type="cuda" if accelerator is None else accelerator.type,
        )
        self._torch.__enter__()
        random.seed(self._seed)
        np.random.seed(self._seed)
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._torch.__exit__(*error)
        random.setstate(self._python)
        np.random.set_state(self._numpy)
