"""What a trainer chooses from, and whether the model has anything to train."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from .optim import PRESETS, Candidate, parse_candidates

logger = logging.getLogger(__name__)


def resolve_candidates(text: str, model: nn.Module, find: Any) -> list[Candidate]:
    """
    Expand the name of a preset, or `auto`, to candidates.

    `auto` is `lora` where adapters of PEFT train, `head` where less than a tenth of the parameters trains, else
    `full`.
    """
    if text == "auto":
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        numbers = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
        total = sum(parameter.numel() for parameter in model.parameters())
        if any("lora_" in name for name in trainable):
            text = "lora"
        else:
            text = "head" if sum(numbers) < 0.1 * total else "full"
        logger.info("iomt_candidates='auto' stands for the preset %r.", text)
    return parse_candidates(PRESETS.get(text, text), find)


def check_trainable(model: nn.Module) -> None:
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            "The model has no trainable parameter: every parameter has `requires_grad=False`. "
            "Unfreeze some, or add an adapter with `peft.get_peft_model`."
        )
    half = [name for name, parameter in trainable if parameter.dtype == torch.float16]
    if half:
        raise ValueError(
            f"{len(half)} trainable parameters are float16, for example {half[0]!r}: they cannot be trained. "
            "Load the model in float32 or bfloat16; for mixed precision set `fp16=True`, which keeps float32 weights."
        )


def trains(optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
    """Whether an optimizer has the trainable parameters of a model: another adapter may have become active."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
