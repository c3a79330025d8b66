"""The share of steps that each candidate has made, under names that every tracker takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from .optim import Candidate
from .selection import CycleRecord

# Families of one's own may have any name.
_LONGEST_FAMILY = 40


def metric_label(index: int, candidate: Candidate, count: int) -> str:
    """
    A candidate's name in metrics: its index, family and learning rate, such as `0_adam_1e-2`.

    Of letters, digits, `_` and `-` only: TensorBoard and MLflow replace most others, and a dot is a step into a nested
    value for W&B. The index makes it unique and, with leading zeros, sorts it.

    Args:
        index (`int`): Its position in the candidate list.
        candidate ([`~optim.Candidate`]): The candidate.
        count (`int`): How many candidates there are.
    """
    family = re.sub(r"[^A-Za-z0-9_-]", "_", candidate.family)[:_LONGEST_FAMILY]
    return f"{index:0{len(str(count - 1))}}_{family}_{_without_dot(candidate.learning_rate)}"


def share_metrics(records: Sequence[CycleRecord], candidates: Sequence[Candidate], last_step: int) -> dict[str, float]:
    """
    `iomt/share/<label>`: the share of the steps so far, in [0, 1], of each candidate that has made one.

    Args:
        records (`Sequence[CycleRecord]`): The cycles so far.
        candidates (`Sequence[Candidate]`): All candidates, in their order.
        last_step (`int`): The last step that has been made.
    """
    steps: Counter[str] = Counter()
    for record in records:
        # The first step of a cycle that the race has just begun is still to come.
        steps[record.candidate] += max(0, min(record.last_step, last_step) - record.first_step + 1)
    return {
        f"iomt/share/{metric_label(index, candidate, len(candidates))}": steps[candidate.name] / steps.total()
        for index, candidate in enumerate(candidates)
        if steps[candidate.name]
    }


def format_shares(history: Sequence[Mapping[str, Any]]) -> str:
    """The shares of a history whose cycles are over in words, the largest first."""
    steps: Counter[str] = Counter()
    for record in history:
        steps[record["candidate"]] += record["last_step"] - record["first_step"] + 1
    return ", ".join(f"{name} {count / steps.total():.0%}" for name, count in steps.most_common())


def _without_dot(value: float) -> str:
    """Four digits of a number as a whole mantissa and an exponent: 2.5e-4 is 25e-5."""
    _, digits, exponent = Decimal(f"{value:.4g}").normalize().as_tuple()
    return f"{''.join(map(str, digits))}e{exponent}"
