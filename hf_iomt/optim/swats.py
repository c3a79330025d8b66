"""SWATS: Adam that switches to SGD, at a learning rate that it finds itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .hybrid import HybridOptimizer

logger = logging.getLogger(__name__)


class SWATS(HybridOptimizer):
    """
    Switching from Adam to SGD (Keskar and Socher, *Improving Generalization Performance by Switching from Adam to
    SGD*, Algorithm 1).

    While it is Adam, with steps p and gradients g, the rate of SGD whose step would project onto p is
    γ = p·p / (−p·g). Once γ agrees with its moving average, corrected for the start at zero, up to `tolerance`, the
    average is Λ, and from then on v ← β1 v + g, w ← w − (1 − β1) Λ v.

    What the paper leaves open:

    - The products are taken over the vector of all parameters in all groups that have gradients, as in the paper.
    - Λ is found for a schedule's multiplier of 1 and is multiplied by the schedule afterwards, so no scheduler undoes
      the switch, and warm-up and decay do not look like a change of γ. Groups keep the ratio of their learning rates:
      Λ is that of the first group, and a group with half its learning rate has half of Λ.
    - Weight decay is added to the gradient (L2) before anything else, in both phases.
    - A Λ that is not above 0 would climb: it is passed over. So are γ that are no finite numbers.

    The decision reads two numbers from the device at each step of the first phase. Over sharded parameters (`DTensor`)
    the products are full sums, and all processes decide equally. A step that a gradient scaler leaves out is no step.
    As a candidate, undoing a cycle makes it begin anew as Adam.

    Args:
        params (`Iterable`): Parameters or parameter groups, as for any torch optimizer.
        lr (`float`, *optional*, defaults to 1e-3): Learning rate of Adam.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`):
            Decay of the averages, in [0, 1); the first is the momentum of SGD, the second also the decay of that of γ.
        eps (`float`, *optional*, defaults to 1e-9): Added to the root of the second moment.
        tolerance (`float`, *optional*, defaults to 1e-9):
            Largest difference, absolute, of γ and its average at the switch; above 0. The paper's value is met late,
            or never, where gradients are noisy: 1e-5 to 1e-3 is then of the order to try.
        weight_decay (`float`, *optional*, defaults to 0.0): Factor of the parameters that is added to the gradient.

    Attributes:
        switch_step (`int`, *optional*): Number of the last step of Adam; `None` before the switch.
        sgd_learning_rate (`float`, *optional*): Λ; `None` before the switch.

    Raises:
        ValueError: A hyperparameter is out of its range.

    Example:

    ```python
    optimizer = SWATS(model.parameters(), lr=1e-3, tolerance=1e-5)
    ```
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        tolerance: float = 1e-9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "tolerance": tolerance, "weight_decay": weight_decay}
        )

    @property
    def switch_step(self) -> int | None:
        """Number of the last step of Adam; `None` before the switch."""
        step: int | None = self.param_groups[0]["switch_step"]
        return step

    @property
    def sgd_learning_rate(self) -> float | None:
        """Λ, before any schedule; `None` before the switch."""
        group = self.param_groups[0]
        return None if group["switch_step"] is None else float(group["projected"] * group["base_lr"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as for any torch optimizer; it is in the phase of the others."""
        first = self.param_groups[0] if self.param_groups else {}
        # In the groups, because what is no slot of a parameter is saved, copied and put back with them: the number of
        # steps of Adam, and the average of γ / lr, which no schedule changes; after the switch the latter is Λ / lr.
        for name, value in (("steps", 0), ("projected", 0.0), ("switch_step", None)):
            param_group.setdefault(name, first.get(name, value))
        super().add_param_group(param_group)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        self._require("tolerance", group["tolerance"], "0 < tolerance < infinity", 0 < group["tolerance"] < math.inf)

    def _update(self) -> None:
        if self.switch_step is not None:
            super()._update()
            return
        # p·p and −p·g of Adam's steps without their learning rates.
        products = [self._adam_step(*item) for item in self._gradients()]
        if products:
            squares, slopes = (_total(items) for items in zip(*products, strict=True))
            self._project(squares, slopes)

    def _adam_step(
        self, group: dict[str, Any], parameter: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slots = self._slots(parameter, "exp_avg", "exp_avg_sq")
        mean, square = slots["exp_avg"], slots["exp_avg_sq"]
        first, second = group["betas"]
        slots["step"] += 1
        step = slots["step"].item()
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        direction = mean / square.sqrt().add_(group["eps"])
        direction.mul_(math.sqrt(1 - second**step) / (1 - first**step))
        parameter.add_(direction, alpha=-group["lr"])
        return (direction * direction).sum(), (direction * gradient).sum()

    def _project(self, squares: float, slopes: float) -> None:
        """Take γ into its average, and switch where they agree."""
        first = self.param_groups[0]
        decay, steps, projected, switch_step = first["betas"][1], first["steps"] + 1, first["projected"], None
        ratio = squares / slopes if slopes != 0 else math.nan
        if math.isfinite(ratio):
            projected = decay * projected + (1 - decay) * ratio
            corrected = projected / (1 - decay**steps)
            difference = abs(corrected - ratio) * first["base_lr"]
            if steps > 1 and difference < first["tolerance"] and corrected > 0:
                projected, switch_step = corrected, steps
        for group in self.param_groups:
            group.update(steps=steps, projected=projected, switch_step=switch_step)
        if switch_step is not None:
            self._forget_moments()
            logger.info("SWATS switched to SGD after %d steps, with lr %g.", steps, self.sgd_learning_rate)

    def _forget_moments(self) -> None:
        for parameter, slots in self.state.items():
            # The slot of the first moment is that of the momentum from now on.
            slots["exp_avg"].zero_()
            # A distributed checkpoint is read into the slots of a first step, so sharded parameters keep theirs.
            if not hasattr(parameter, "to_local"):
                del slots["exp_avg_sq"]

    def _update_parameter(self, group: dict[str, Any], parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        slots = self._slots(parameter, "exp_avg")
        slots["step"] += 1
        momentum = group["betas"][0]
        slots["exp_avg"].mul_(momentum).add_(gradient)
        parameter.add_(slots["exp_avg"], alpha=-(1 - momentum) * group["projected"] * group["lr"])


def _total(items: Sequence[torch.Tensor]) -> float:
    """Sum of scalars, of sharded parameters over all processes."""
    total = 0.0
    for sharded in (False, True):
        chosen: list[Any] = [item for item in items if hasattr(item, "to_local") == sharded]
        if chosen:
            # Parts are added up before the one exchange between the processes.
            summed = sum((item.to(chosen[0].device) for item in chosen[1:]), chosen[0])
            total += float(summed.full_tensor() if sharded else summed)
    return total
