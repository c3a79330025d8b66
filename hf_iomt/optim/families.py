"""Optimizer families: the types *o* that candidates are settings of (`o ∈ O` in the paper)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .adabound import AdaBound
from .padam import Padam
from .swats import SWATS

if TYPE_CHECKING:
    from .candidates import Candidate

# They serve graphs of CUDA, and gradients through the steps: neither is what a training loop does.
_UNUSABLE = ("capturable", "differentiable")


@dataclass(frozen=True)
class Family:
    """
    An optimizer type with the arguments that define it.

    Args:
        name (`str`):
            Name used in candidate lists, logs and state dicts. Lower case letters, digits and underscores.
        optimizer_class (`type[torch.optim.Optimizer]`):
            Class of the torch optimizer that makes the steps.
        defaults (`Mapping[str, Any]`, *optional*):
            Constructor arguments that hold for every candidate of the family unless the candidate sets them.
        fixed (`Mapping[str, Any]`, *optional*):
            Constructor arguments that a candidate cannot set, because they make the family what it is.
    """

    name: str
    optimizer_class: type[torch.optim.Optimizer]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names that a candidate of this family may set."""
        parameters = inspect.signature(self.optimizer_class.__init__).parameters
        return tuple(
            name
            for name, parameter in parameters.items()
            if name not in ("self", "params", *_UNUSABLE, *self.fixed)
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        )

    def default(self, name: str) -> Any:
        """What the optimizer takes for a hyperparameter that nobody sets; `None` where that is not known."""
        if name in self.defaults:
            return self.defaults[name]
        parameter = inspect.signature(self.optimizer_class.__init__).parameters.get(name)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments for a candidate's `settings`: the family's own and these."""
        return {**self.defaults, **settings, **self.fixed}

    def fallbacks(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """The optimizer's own values of what some candidate of the family sets, for those that do not set it."""
        settings = [candidate.settings for candidate in candidates if candidate.family == self.name]
        own = self.build([torch.nn.Parameter(torch.zeros(1))], {"lr": settings[0]["lr"]}).defaults
        return {name: own[name] for each in settings for name in each if name in own}

    def build(self, params: Iterable[Any], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Construct the torch optimizer over `params` for a candidate's `settings`."""
        return self.optimizer_class(params, **self.arguments(settings))


_FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("sgd", torch.optim.SGD, fixed={"momentum": 0.0, "nesterov": False}),
        Family("sgdm", torch.optim.SGD, defaults={"momentum": 0.9}, fixed={"nesterov": False}),
        Family("nag", torch.optim.SGD, defaults={"momentum": 0.9}, fixed={"nesterov": True}),
        Family("asgd", torch.optim.ASGD),
        Family("adagrad", torch.optim.Adagrad),
        Family("rmsprop", torch.optim.RMSprop),
        Family("adam", torch.optim.Adam),
        Family("adamw", torch.optim.AdamW),
        Family("adamax", torch.optim.Adamax),
        Family("nadam", torch.optim.NAdam),
        Family("nadamw", torch.optim.NAdam, fixed={"decoupled_weight_decay": True}),
        Family("radam", torch.optim.RAdam),
        Family("swats", SWATS),
        Family("padam", Padam),
        Family("adabound", AdaBound),
    )
}


def register_family(
    name: str, optimizer_class: type[torch.optim.Optimizer], defaults: Mapping[str, Any] | None = None
) -> Family:
    """
    Make an optimizer class available in candidate lists.

    Args:
        name (`str`): Name to use in candidate lists. Registering the same again is allowed.
        optimizer_class (`type[torch.optim.Optimizer]`): Any optimizer that steps without a closure.
        defaults (`Mapping[str, Any]`, *optional*): Constructor arguments shared by the family's candidates.

    Raises:
        ValueError: `name` is malformed, or taken by another class or other defaults.
        TypeError: `optimizer_class` is not a `torch.optim.Optimizer` class.

    Example:

    ```python
    register_family("lion", Lion, defaults={"betas": (0.9, 0.99)})
    args = IOMTTrainingArguments(..., iomt_candidates="lion:lr=1e-4|3e-5; adamw:lr=1e-3")
    ```
    """
    if not name.isidentifier() or name != name.lower():
        raise ValueError(
            f"A family's name must be lower-case letters, digits and underscores, not starting with a digit, "
            f"but got {name!r}."
        )
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise TypeError(f"`optimizer_class` must be a subclass of torch.optim.Optimizer, but got {optimizer_class!r}.")
    family = Family(name, optimizer_class, defaults=dict(defaults or {}))
    known = _FAMILIES.get(name)
    if known is not None and known != family:
        raise ValueError(
            f"The family {name!r} is already registered with {known.optimizer_class.__name__} and "
            f"{known.arguments({})}. Choose another name."
        )
    _FAMILIES[name] = family
    return family


def list_families() -> tuple[str, ...]:
    """Names of the registered families, in the order of registration."""
    return tuple(_FAMILIES)


def get_family(name: str) -> Family:
    """
    Look up a registered family.

    Raises:
        KeyError: There is no family of that name.
    """
    try:
        return _FAMILIES[name]
    except KeyError:
        raise KeyError(f"Unknown optimizer family {name!r}. Known families: {', '.join(_FAMILIES)}.") from None
