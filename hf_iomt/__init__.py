"""Fine-tuning without choosing an optimizer or a learning rate."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Imported when first used: `import hf_iomt` and `hf-iomt --help` need not wait for torch.
_EXPORTS = {
    "Candidate": "optim",
    "ConvergenceCallback": "convergence",
    "InterleavedOptimizer": "optim",
    "Interleaving": "interleaving",
    "InterleavingSettings": "interleaving_settings",
    "IOMTSeq2SeqTrainer": "seq2seq",
    "IOMTSeq2SeqTrainingArguments": "seq2seq",
    "IOMTTrainer": "trainer",
    "IOMTTrainerMixin": "trainer",
    "IOMTTrainingArguments": "training_args",
    "Selector": "selection",
    "SelectorSettings": "selection",
    "Transferability": "transferability",
    "list_families": "optim",
    "parse_candidates": "optim",
    "register_family": "optim",
}

__all__ = [
    "Candidate",
    "ConvergenceCallback",
    "IOMTSeq2SeqTrainer",
    "IOMTSeq2SeqTrainingArguments",
    "IOMTTrainer",
    "IOMTTrainerMixin",
    "IOMTTrainingArguments",
    "InterleavedOptimizer",
    "Interleaving",
    "InterleavingSettings",
    "Selector",
    "SelectorSettings",
    "Transferability",
    "__version__",
    "list_families",
    "parse_candidates",
    "register_family",
]

if TYPE_CHECKING:
    from .convergence import ConvergenceCallback
    from .interleaving import Interleaving
    from .interleaving_settings import InterleavingSettings
    from .optim import Candidate, InterleavedOptimizer, list_families, parse_candidates, register_family
    from .selection import Selector, SelectorSettings
    from .seq2seq import IOMTSeq2SeqTrainer, IOMTSeq2SeqTrainingArguments
    from .trainer import IOMTTrainer, IOMTTrainerMixin
    from .training_args import IOMTTrainingArguments
    from .transferability import Transferability


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
