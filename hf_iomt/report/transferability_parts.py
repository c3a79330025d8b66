"""The parts of the transferability weight ω_t, and what each adds to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .run import Run

_TITLES = {"log_me": "LogME", "leep": "LEEP", "h_score": "H-score"}


@dataclass(frozen=True)
class Part:
    """
    A row of the picture.

    Args:
        title (`str`): What was measured.
        value (`float`): Its value.
        scaled (`float`): What enters Eq. 6: the performance as it is, the sigmoid of the others; in [0, 1].
        weight (`float`, *optional*): The weight of `scaled` in ω_t; `None` for ω_t itself.
    """

    title: str
    value: float
    scaled: float
    weight: float | None = None


def transferability_parts(run: Run) -> list[Part]:
    """
    ω_t and what it is made of (Eq. 6), ω_t last; empty where it is not known.

    Args:
        run ([`Run`]): The run.
    """
    found = run.transferability
    if found is None or not isinstance(found.get("weight"), (int, float)):
        return []
    beta = float(run.setting("iomt_beta", 0.5))
    performance = found.get("performance")
    metrics = {name: found[name] for name in _TITLES if found.get(name) is not None}
    # What is left out of Eq. 6 leaves its weight to the other.
    beta = 0.0 if performance is None else beta if metrics else 1.0
    parts = []
    if performance is not None:
        parts.append(Part(f"ω_p, {found.get('performance_metric') or 'performance'}", performance, performance, beta))
    for name, value in metrics.items():
        scaled = 1 / (1 + math.exp(-min(max(value, -700.0), 700.0)))
        parts.append(Part(_TITLES[name], value, scaled, (1 - beta) / len(metrics)))
    return [*parts, Part("ω_t", found["weight"], found["weight"])]


def describe_transferability(run: Run) -> list[str]:
    """Sentences: where ω_t comes from, and why a part is missing."""
    found = run.transferability
    if found is None:
        return ["ω_t is not known: nothing depends on it with one candidate or without the surrogate."]
    if found.get("split") is None:
        return [f"ω_t was set to {found['weight']:g}."]
    sentences = [
        f"ω_t = {found['weight']:.3f}, measured on {found['samples']:,} samples of the {found['split']} data."
    ]
    sentences += [
        f"{_TITLES.get(name, name)} is left out: {reason}." for name, reason in found.get("left_out", {}).items()
    ]
    return sentences
