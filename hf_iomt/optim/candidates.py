"""Candidates: a family with one setting λ of its hyperparameters, and the grammar of a candidate list."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .families import Family, get_family, list_families

GRAMMAR = (
    "family:key=value|value,key=value; family:... with an lr for every family, "
    "for example 'sgdm:lr=0.1|0.01,momentum=0.9; adamw:lr=1e-3|3e-4,weight_decay=0.01'"
)

# Products and quotients of hyperparameters that are no larger have a place in single precision.
_LARGEST = 1e15


@dataclass(frozen=True)
class Candidate:
    """
    A configuration c = (o, λ): a family and one setting of its hyperparameters.

    Args:
        family (`str`): Name of the optimizer family.
        hyperparameters (`tuple[tuple[str, Any], ...]`): Sorted name and value pairs; `lr` is always among them.
    """

    family: str
    hyperparameters: tuple[tuple[str, Any], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters as a new dictionary."""
        return dict(self.hyperparameters)

    @property
    def learning_rate(self) -> float:
        """The candidate's own learning rate, before any schedule."""
        return float(self.settings["lr"])

    @property
    def name(self) -> str:
        """The candidate in the grammar of a candidate list: `parse_candidates(c.name) == [c]`."""
        return f"{self.family}:" + ",".join(f"{key}={_format_value(value)}" for key, value in self.hyperparameters)


def make_candidate(
    family: str, settings: Mapping[str, Any], find_family: Callable[[str], Family] = get_family
) -> Candidate:
    """
    Check a family's hyperparameters and build the candidate.

    Args:
        family (`str`): Name of the family.
        settings (`Mapping[str, Any]`): Hyperparameters by name, `lr` among them.
        find_family (`Callable`, *optional*): Look-up of a family by name; raises `KeyError` for an unknown one.

    Raises:
        ValueError: Unknown family or hyperparameter, `lr` missing or not a positive finite number, or a value that
            the optimizer refuses.
    """
    try:
        known = find_family(family)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    unknown = [key for key in settings if key not in known.hyperparameters]
    if unknown:
        raise ValueError(
            f"Unknown hyperparameter {unknown[0]!r} for the family {family!r}. "
            f"It can set: {', '.join(known.hyperparameters)}."
        )
    if "lr" not in settings:
        raise ValueError(f"The family {family!r} has no lr. Give every family one, as in '{family}:lr=0.01'.")
    lr = settings["lr"]
    # The comparison comes first: Python cannot convert its largest integers to a float.
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not 0 < lr <= sys.float_info.max:
        raise ValueError(f"`lr > 0` must hold, but got lr={lr!r} for the family {family!r}.")
    # lr leads, because that is what a reader looks for; the rest is sorted so that equal settings compare equal.
    ordered: list[tuple[str, Any]] = [("lr", float(lr))]
    ordered += sorted(
        (key, tuple(map(_as_float, value)) if isinstance(value, (list, tuple)) else value)
        for key, value in settings.items()
        # None is how torch spells "not set".
        if key != "lr" and value is not None
    )
    candidate = Candidate(family, tuple(ordered))
    for key, value in ordered:
        several = isinstance(value, tuple)
        numbers = [item for item in (value if several else (value,)) if isinstance(item, (int, float))]
        if not all(abs(item) <= _LARGEST for item in numbers):
            raise ValueError(
                f"Hyperparameters must be finite and no larger than {_LARGEST:g}, but {key} of the family {family!r} "
                "is not."
            )
        default = known.default(key)
        if default is not None and several != isinstance(default, (tuple, list)):
            wanted = f"several numbers, as in {key}={_format_value(default)}" if not several else "a single value"
            raise ValueError(f"`{key}` of the family {family!r} must be {wanted}, but got {_format_value(value)}.")
    try:
        _try(known, candidate)
    except Exception as error:
        raise ValueError(
            f"{known.optimizer_class.__name__} refuses the candidate {candidate.name!r}: {error}"
        ) from None
    return candidate


def parse_candidates(
    text: str, find_family: Callable[[str], Family] = get_family, unique: bool = True
) -> list[Candidate]:
    """
    Read a candidate list such as `"sgdm:lr=0.1|0.01,momentum=0.9; adamw:lr=1e-3"`.

    Alternatives separated by `|` are combined with each other, so a family with two learning rates and three momenta
    gives six candidates. Tuples are written with slashes: `betas=0.9/0.99`.

    Args:
        text (`str`): The list.
        find_family (`Callable`, *optional*): Look-up of a family by name.
        unique (`bool`, *optional*, defaults to `True`): Whether repeated candidates count once.

    Raises:
        ValueError: The text does not follow the grammar, is empty, or names something that does not exist.
    """
    candidates: list[Candidate] = []
    for part in text.split(";"):
        if not part.strip():
            continue
        family, separator, body = part.partition(":")
        family = family.strip()
        if not separator or not body.strip():
            raise ValueError(
                f"Cannot read {part.strip()!r} in the candidate list. Write {GRAMMAR}. "
                f"Known families: {', '.join(list_families())}."
            )
        alternatives: dict[str, list[Any]] = {}
        for assignment in body.split(","):
            key, separator, values = assignment.partition("=")
            key = key.strip()
            if not separator or not key or not values.strip():
                raise ValueError(f"Cannot read {assignment.strip()!r} in {part.strip()!r}. Write {GRAMMAR}.")
            if key in alternatives:
                raise ValueError(f"{key!r} is set twice in {part.strip()!r}. Write {key}=value|value.")
            alternatives[key] = [_parse_value(value) for value in values.split("|")]
        for combination in itertools.product(*alternatives.values()):
            candidates.append(make_candidate(family, dict(zip(alternatives, combination, strict=True)), find_family))
    if not candidates:
        raise ValueError(f"The candidate list is empty. Write {GRAMMAR}.")
    return list(dict.fromkeys(candidates)) if unique else candidates


def format_candidates(candidates: str | Sequence[Candidate | str | Mapping[str, Any]]) -> str:
    """
    Write any form of candidate list as a string that `parse_candidates` reads.

    Args:
        candidates (`str` or `Sequence`):
            A string is returned as it is. A sequence may mix [`Candidate`]s, strings in the grammar, and mappings
            such as `{"family": "adam", "lr": 0.01}`.

    Raises:
        ValueError: The sequence is empty, or a mapping has no `family`.
        TypeError: An item is of another type.
    """
    if isinstance(candidates, str):
        return candidates
    items = []
    for item in candidates:
        if isinstance(item, Candidate):
            items.append(item.name)
        elif isinstance(item, str):
            items.append(item)
        elif isinstance(item, Mapping):
            if "family" not in item:
                raise ValueError(f"A candidate given as a mapping needs a 'family', but got {dict(item)!r}.")
            pairs = [
                f"{key}={_format_value(value)}" for key, value in item.items() if key != "family" and value is not None
            ]
            items.append(f"{item['family']}:{','.join(pairs)}")
        else:
            raise TypeError(f"A candidate must be a Candidate, a string or a mapping, but got {item!r}.")
    if not items:
        raise ValueError(f"The candidate list is empty. Write {GRAMMAR}.")
    return "; ".join(items)


def _try(family: Family, candidate: Candidate) -> None:
    """Build the optimizer, and make a step: torch looks at most of its hyperparameters only then."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = family.build([parameter], candidate.settings)
    # Others may need a device that this process does not use, or keep counts.
    if family.optimizer_class.__module__.partition(".")[0] in ("torch", "transformers"):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()


def _as_float(value: Any) -> Any:
    """Optimizers refuse betas of which one is an integer, as a 0 in a list is."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _parse_value(text: str) -> Any:
    text = text.strip()
    if "/" in text:
        return tuple(_parse_value(item) for item in text.split("/"))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    raise ValueError(f"Cannot read the value {text!r}: numbers, true, false, and tuples such as 0.9/0.99 are allowed.")


def _format_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "/".join(_format_value(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # NumPy's numbers are floats that print their type.
        return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
    return str(value)
