"""AdaBound: Adam whose rates of single elements are bounded, more and more tightly, by that of SGD."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from .hybrid import HybridOptimizer


class AdaBound(HybridOptimizer):
    """
    Adam that passes smoothly into SGD (Luo et al., *Adaptive Gradient Methods with Dynamic Bound of Learning Rate*).

    In its step t every element has the rate lr / (√v + eps), corrected for the start of the averages at zero as in
    Adam, clipped to [f · (1 − 1 / (γt + 1)), f · (1 + 1 / (γt))]. Both bounds converge to f, which is `final_lr` times
    what a schedule has made of `lr`, so that a schedule acts to the end of training. As in the experiments of the
    paper, the rates do not fall with √t besides.

    Args:
        params (`Iterable`): Parameters or parameter groups, as for any torch optimizer.
        lr (`float`, *optional*, defaults to 1e-3): Learning rate of the part that is Adam.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`): Decay of the averages, in [0, 1).
        eps (`float`, *optional*, defaults to 1e-8): Added to √v.
        final_lr (`float`, *optional*, defaults to 0.1): Learning rate of the part that is SGD, above 0.
        gamma (`float`, *optional*, defaults to 1e-3): How fast the bounds converge, in (0, 1).
        weight_decay (`float`, *optional*, defaults to 0.0): Factor of the parameters that is added to the gradient.
        amsbound (`bool`, *optional*, defaults to `False`): Whether v is the largest so far (AMSBound).

    Raises:
        ValueError: A hyperparameter is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        weight_decay: float = 0.0,
        amsbound: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "final_lr": final_lr, "gamma": gamma}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "amsbound": amsbound})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        self._require("final_lr", group["final_lr"], "0 < final_lr < infinity", 0 < group["final_lr"] < math.inf)
        self._require("gamma", group["gamma"], "0 < gamma < 1", 0 < group["gamma"] < 1)
        self._require("amsbound", group["amsbound"], "amsbound is true or false", isinstance(group["amsbound"], bool))

    def _update_parameter(self, group: dict[str, Any], parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        slots = self._slots(parameter, "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsbound"] else []))
        mean, square = slots["exp_avg"], slots["exp_avg_sq"]
        first, second = group["betas"]
        slots["step"] += 1
        step = slots["step"].item()
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        if group["amsbound"]:
            square = torch.maximum(slots["max_exp_avg_sq"], square, out=slots["max_exp_avg_sq"])
        rate = group["lr"] * math.sqrt(1 - second**step) / (1 - first**step)
        final = group["final_lr"] * (group["lr"] / group["base_lr"])
        lower, upper = final * (1 - 1 / (group["gamma"] * step + 1)), final * (1 + 1 / (group["gamma"] * step))
        rates = square.sqrt().add_(group["eps"]).reciprocal_().mul_(rate).clamp_(lower, upper)
        parameter.sub_(rates.mul_(mean))
