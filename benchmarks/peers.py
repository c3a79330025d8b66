"""Optimizers that users would try instead, set up as their authors say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# What PEFT's documentation recommends for the ratio of the learning rates of B and A.
_LORA_PLUS_RATIO = 16


def _prodigy(model: Any, rate: float) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    # For a schedule that decays, as its README says.
    return Prodigy(_trainable(model), lr=rate, safeguard_warmup=True, use_bias_correction=True)  # type: ignore[no-any-return]


def _lora_plus(model: Any, rate: float) -> torch.optim.Optimizer:
    from peft.optimizers import create_loraplus_optimizer

    return create_loraplus_optimizer(  # type: ignore[no-any-return]
        model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=_LORA_PLUS_RATIO
    )


def _riemannian(model: Any, rate: float) -> torch.optim.Optimizer:
    from peft.optimizers.riemannian import create_riemannian_optimizer

    return create_riemannian_optimizer(model, torch.optim.AdamW, lr=rate, weight_decay=0.0)  # type: ignore[no-any-return]


class _SideBySide(torch.optim.Optimizer):
    """One optimizer for the LoRA matrices and another for the rest, which schedules see as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        groups = iter(self.param_groups)
        for part in self.parts:
            # Accelerate replaces the groups, and schedules write into those that it knows.
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.step()


def _lora_rite(model: Any, rate: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import load_optimizer

    named = {name: item for name, item in model.named_parameters() if item.requires_grad}
    # It takes A and B of each layer in turn, and knows nothing but them.
    pairs = [(name, name.replace(".lora_A.", ".lora_B.")) for name in named if ".lora_A." in name]
    matrices = [named[name] for pair in pairs for name in pair]
    paired = {name for pair in pairs for name in pair}
    rest = [item for name, item in named.items() if name not in paired]
    kind: Any = load_optimizer("lorarite")
    rite = kind(matrices, lr=rate)
    return _SideBySide(rite, torch.optim.AdamW(rest, lr=rate, weight_decay=0.0)) if rest else rite


def _trainable(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# A name of `TrainingArguments.optim`, or what builds the optimizer of a model at a learning rate.
PEERS: dict[str, str | Callable[[Any, float], torch.optim.Optimizer]] = {
    "schedule_free_adamw": "schedule_free_adamw",
    "schedule_free_sgd": "schedule_free_sgd",
    "prodigy": _prodigy,
    "lora_plus": _lora_plus,
    "riemannian": _riemannian,
    "lora_rite": _lora_rite,
}
