"""Training and evaluation mode of the modules of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """The mode of each module is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        # Modules may have merged weights in `eval()`, which they part in `train()` only.
        model.train(modes[0][1])
        for module, training in modes:
            module.training = training
