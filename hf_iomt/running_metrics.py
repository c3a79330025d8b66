"""What trainers of other libraries sum up over batches until it is logged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of TRL, and of sentence-transformers, whose losses may return their parts.
_NAMES = ("_metrics", "_total_train_tokens", "accum_loss_components")


@contextmanager
def kept_metrics(trainer: Any) -> Iterator[None]:
    """
    Leave these sums as they were, so that batches computed on the side are in no log.

    Args:
        trainer (`Trainer`): The trainer that computes them.
    """
    kept = {name: getattr(trainer, name) for name in _NAMES if hasattr(trainer, name)}
    for name, value in kept.items():
        setattr(trainer, name, copy.deepcopy(value))
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(trainer, name, value)
