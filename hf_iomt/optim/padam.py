"""Padam: AMSGrad whose second moment has less power, between SGD with momentum and AMSGrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .hybrid import HybridOptimizer


class Padam(HybridOptimizer):
    """
    Partially adaptive momentum estimation (Chen et al., *Closing the Generalization Gap of Adaptive Gradient Methods
    in Training Deep Neural Networks*, Algorithm 1).

    With m and v the moving averages of the gradient and its square, and v̂ the largest v so far, a step is
    θ ← θ − lr · m / v̂^p. As the paper prints it, the averages are not corrected for their start at zero. An `eps` is
    added to √v̂, because elements whose gradient has always been 0 would be 0 / 0.

    Args:
        params (`Iterable`): Parameters or parameter groups, as for any torch optimizer.
        lr (`float`, *optional*, defaults to 0.1): Learning rate; larger than Adam's, because v̂^p is larger than √v̂.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`): Decay of the averages, in [0, 1).
        eps (`float`, *optional*, defaults to 1e-8): Added to √v̂.
        partial (`float`, *optional*, defaults to 0.125):
            The power p in [0, 0.5]: 0.5 is AMSGrad, 0 is SGD with momentum.
        weight_decay (`float`, *optional*, defaults to 0.0): Factor of the parameters that is added to the gradient.

    Raises:
        ValueError: A hyperparameter is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        partial: float = 0.125,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "partial": partial, "weight_decay": weight_decay}
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        self._require("partial", group["partial"], "0 <= partial <= 0.5", 0 <= group["partial"] <= 0.5)

    def _update_parameter(self, group: dict[str, Any], parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        slots = self._slots(parameter, "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        mean, square, largest = slots["exp_avg"], slots["exp_avg_sq"], slots["max_exp_avg_sq"]
        first, second = group["betas"]
        slots["step"] += 1
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        torch.maximum(largest, square, out=largest)
        denominator = largest.sqrt().add_(group["eps"]).pow_(2 * group["partial"])
        parameter.add_(mean / denominator, alpha=-group["lr"])
