"""What a trainer chooses from, and whether the model has anything to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .optim import PRESETS, Candidate, has_relative_rates, parse_candidates, scale_rates

# Learning rates of AdamW and its like that are usual for what is trained, in a model as large as BERT.
_NOMINAL_UNITS = {"lora": 1e-3, "head": 3e-3, "full": 5e-5}
_NOMINAL_SIZE = 110e6
# Larger models are trained with smaller rates. A head does not depend on how large what it reads from is.
_SIZE_POWER = -1 / 3
_MOST_FOR_SIZE = 10.0
# The highest that a range test tries. Within so few steps no rate harms a head, whose loss is convex, nor adapters
# that learn nothing.
_HIGHEST_RATES = {"lora": 0.3, "head": 0.03, "full": 0.05}


def candidate_text(args: Any) -> str:
    """The candidate list of some arguments, with presets replaced by what they stand for."""
    text = str(args.iomt_candidates)
    return PRESETS.get(text, text)


def resolve_candidates(args: Any, model: nn.Module, find: Any, unit: float | None = None) -> list[Candidate]:
    """
    The candidates of a trainer's arguments.

    Args:
        args ([`IOMTTrainingArguments`]): Name the list.
        model (`nn.Module`): What is trained.
        find (`Callable`): Look-up of families.
        unit (`float`, *optional*): What relative learning rates are multiples of; the usual learning rate for what is
            trained if left out.
    """
    text = candidate_text(args)
    # How many there are must not depend on the unit: a rate in numbers may be equal to a relative one by chance.
    relative = has_relative_rates(text)
    return parse_candidates(scale_rates(text, unit or nominal_unit(model)), find, unique=not relative)


def nominal_unit(model: nn.Module) -> float:
    """
    A usual learning rate of AdamW for what is trainable, see `kind_of_tuning`: the unit without a range test.

    With adapters and where all of a model trains it falls with the third root of the number of parameters, as the
    rates of GPT-3 do from 125 million to 175 billion (Brown et al., *Language Models are Few-Shot Learners*, 2020,
    table 2.1): 5e-5 for 110 million, all of BERT, and 1e-3 for adapters on them; 1.3e-5 and 2.5e-4 for 7 billion;
    never more than ten times those of BERT.
    """
    kind = kind_of_tuning(model)
    size = sum(_count(parameter) for parameter in model.parameters())
    factor = 1.0 if kind == "head" else min((size / _NOMINAL_SIZE) ** _SIZE_POWER, _MOST_FOR_SIZE)
    return float(f"{_NOMINAL_UNITS[kind] * factor:.2g}")


def highest_rate(model: nn.Module) -> float:
    """The highest learning rate of AdamW that is worth a try for what is trainable."""
    return _HIGHEST_RATES[kind_of_tuning(model)]


def kind_of_tuning(model: nn.Module) -> str:
    """`lora` where adapters of PEFT train, `head` where less than a tenth of the parameters trains, else `full`."""
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if any("lora_" in name for name in trainable):
        return "lora"
    numbers = [_count(parameter) for parameter in model.parameters() if parameter.requires_grad]
    return "head" if sum(numbers) < 0.1 * sum(map(_count, model.parameters())) else "full"


def trains_linear_head(model: nn.Module) -> bool:
    """
    Whether all that trains of a `head` are the weights of linear layers, two at most: a loss that is convex in them,
    or nearly so.
    """
    owners = [item for item in model.modules() if any(own.requires_grad for own in item.parameters(recurse=False))]
    linear = all(isinstance(item, nn.Linear) and item.weight.requires_grad for item in owners)
    return linear and len(owners) <= 2 and kind_of_tuning(model) == "head"


def _count(parameter: nn.Parameter) -> int:
    """How many numbers a parameter holds: bitsandbytes packs two of four bits into a byte."""
    packed = getattr(parameter, "bnb_quantized", False)
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)


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
