"""What the optimizers between Adam and SGD have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch


class HybridOptimizer(torch.optim.Optimizer, ABC):
    """
    Base of [`SWATS`], [`Padam`] and [`AdaBound`].

    Slots are in 32 bits where parameters are in 16, weight decay is added to the gradient (L2), so that every phase of
    an optimizer minimises the same function, and each group keeps the learning rate that it began with as `base_lr`:
    schedules overwrite `lr`, and `lr / base_lr` is what they multiply by.

    Args:
        params (`Iterable`): Parameters or parameter groups, as for any torch optimizer.
        defaults (`dict[str, Any]`): Hyperparameters, `lr`, `betas`, `eps` and `weight_decay` among them.

    Raises:
        ValueError: A hyperparameter of a group is out of its range.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as for any torch optimizer."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("base_lr", group.get("initial_lr", group["lr"]))
        try:
            self._check(group)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """
        Make one step.

        Args:
            closure (`Callable[[], float]`, *optional*): Computes the loss anew, and the gradients.

        Raises:
            RuntimeError: A gradient is sparse or complex.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Restore what `state_dict` returned.

        Raises:
            ValueError: The state was saved by an optimizer of another class, or the parameter groups differ.
        """
        if any(self.param_groups[0].keys() - group.keys() - {"initial_lr"} for group in state_dict["param_groups"]):
            raise ValueError(
                f"This state dict was not saved by {type(self).__name__}: its groups lack entries. Resume with the "
                "optimizer that wrote it, or start without the optimizer state."
            )
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, slot in state_dict["state"].get(number, {}).items():
                # torch casts slots to the type of the parameter, which loses half the bits of those in 32.
                if name != "step" and slot.dtype != self.state[parameter][name].dtype:
                    self.state[parameter][name] = slot.to(parameter.device, copy=True)

    def _update(self) -> None:
        for group, parameter, gradient in self._gradients():
            self._update_parameter(group, parameter, gradient)

    @abstractmethod
    def _update_parameter(self, group: dict[str, Any], parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        """Make the step of one parameter."""

    def _gradients(self) -> Iterator[tuple[dict[str, Any], torch.Tensor, torch.Tensor]]:
        """Groups, parameters and gradients with weight decay, in the type of the slots."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.layout != torch.strided or gradient.is_complex():
                    raise RuntimeError(
                        f"{type(self).__name__} needs dense, real gradients. Make embeddings with sparse=False, or "
                        "use torch.optim.SparseAdam for sparse ones."
                    )
                gradient = gradient.to(self._slot_type(parameter))
                if group["weight_decay"] != 0:
                    gradient = gradient.add(parameter.to(gradient.dtype), alpha=group["weight_decay"])
                yield group, parameter, gradient

    def _slots(self, parameter: torch.Tensor, *names: str) -> dict[str, Any]:
        """The slots of a parameter, made as zeros where they are not there."""
        slots: dict[str, Any] = self.state[parameter]
        if "step" not in slots:
            slots["step"] = torch.tensor(0.0)
        for name in names:
            if name not in slots:
                slots[name] = torch.zeros_like(parameter, dtype=self._slot_type(parameter))
        return slots

    @staticmethod
    def _slot_type(parameter: torch.Tensor) -> torch.dtype:
        return torch.promote_types(parameter.dtype, torch.float32)

    def _check(self, group: dict[str, Any]) -> None:
        """Raise `ValueError` for a hyperparameter of a group that is out of its range."""
        # A rate of 0 could not be multiplied by a schedule.
        self._require("lr", group["base_lr"], "0 < lr < infinity", 0 < group["base_lr"] < math.inf)
        betas = group["betas"]
        in_range = isinstance(betas, (tuple, list)) and len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        self._require("betas", betas, "0 <= beta < 1 for two betas, as in (0.9, 0.999),", in_range)
        self._require("eps", group["eps"], "0 < eps < infinity", 0 < group["eps"] < math.inf)
        decay = group["weight_decay"]
        self._require("weight_decay", decay, "0 <= weight_decay < infinity", 0 <= decay < math.inf)

    def _require(self, name: str, value: Any, condition: str, holds: bool) -> None:
        if not holds:
            raise ValueError(f"`{condition}` must hold in {type(self).__name__}, but got {name}={value!r}.")
