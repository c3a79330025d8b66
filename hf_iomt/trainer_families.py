"""Families for every name that transformers' `optim=` accepts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from .optim import Family, get_family, list_families


def find_family(args: TrainingArguments, model: nn.Module | None = None) -> Callable[[str], Family]:
    """
    A look-up of families that knows the registered ones and those that Trainer can build from `optim=`.

    Args:
        args ([`~transformers.TrainingArguments`]): Gives `optim_args`, the Adam betas and ε.
        model (`nn.Module`, *optional*): The model, for the optimizers that need it.

    Returns:
        `Callable[[str], Family]` that raises `KeyError`, with what is allowed, for a name that cannot be used.
    """

    def find(name: str) -> Family:
        if name in list_families():
            return get_family(name)
        if name not in {item.value for item in OptimizerNames}:
            raise KeyError(
                f"Unknown optimizer family {name!r}. Known families: {', '.join(list_families())}; "
                f"names of `TrainingArguments.optim`: {', '.join(item.value for item in OptimizerNames)}."
            )
        try:
            optimizer_class, settings = _from_trainer(name, args, model)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise KeyError(f"The optimizer {name!r} cannot be built here: {error}") from None
        unusable = {"params", "model", "optimizer_dict"} & set(settings)
        if unusable or not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
            raise KeyError(
                f"The optimizer {name!r} chooses its own parameters or steps during the backward pass, so it cannot "
                "take turns with others. Use one of the others."
            )
        settings.pop("lr", None)
        return Family(name, optimizer_class, defaults=settings)

    return find


def spare_embeddings(model: nn.Module, families: Iterable[Family]) -> None:
    """Keep the state of embeddings in 32 bits where an optimizer of bitsandbytes has 8, as Trainer does."""
    if not any(
        "bitsandbytes" in str(family.optimizer_class) and family.defaults.get("optim_bits") == 8 for family in families
    ):
        return
    import bitsandbytes

    optim: Any = bitsandbytes.optim
    manager = optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def _from_trainer(name: str, args: TrainingArguments, model: nn.Module | None) -> tuple[Any, dict[str, Any]]:
    # A shallow copy: making TrainingArguments anew would set up the device and the process group again.
    named = copy.copy(args)
    named.optim = OptimizerNames(name)
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(named, cast(Any, model))
    return optimizer_class, dict(settings)
