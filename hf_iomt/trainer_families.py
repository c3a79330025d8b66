"""Families for every name that transformers' `optim=` accepts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from .optim import Family, get_family, list_families

if TYPE_CHECKING:
    from torch import nn


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


def _from_trainer(name: str, args: TrainingArguments, model: nn.Module | None) -> tuple[Any, dict[str, Any]]:
    # A shallow copy: making TrainingArguments anew would set up the device and the process group again.
    named = copy.copy(args)
    named.optim = OptimizerNames(name)
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(named, cast(Any, model))
    return optimizer_class, dict(settings)
