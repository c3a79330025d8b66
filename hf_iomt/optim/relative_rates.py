"""Learning rates of a candidate list that are multiples of a unit, which is found before training."""

from __future__ import annotations

import re

UNIT = "x"
_RATES = re.compile(r"(\blr\s*=)([^,;]*)")


def has_relative_rates(candidates: str) -> bool:
    """Whether some learning rates of a candidate list are given in the unit, as in `adamw:lr=1x|3x`."""
    return any(_is_relative(rate) for match in _RATES.finditer(candidates) for rate in match[2].split("|"))


def has_only_relative_rates(candidates: str) -> bool:
    """Whether all of them are."""
    return all(_is_relative(rate) for match in _RATES.finditer(candidates) for rate in match[2].split("|"))


def scale_rates(candidates: str, unit: float) -> str:
    """
    Replace multiples of the unit by numbers, of three digits; all else stays as it is.

    Args:
        candidates (`str`): A candidate list.
        unit (`float`): The learning rate that `1x` stands for.

    Raises:
        ValueError: What stands before an `x` is not a number.
    """
    return _RATES.sub(
        lambda match: match[1] + "|".join(_scale(rate, unit) for rate in match[2].split("|")), candidates
    )


def _is_relative(rate: str) -> bool:
    return rate.strip().lower().endswith(UNIT)


def _scale(rate: str, unit: float) -> str:
    if not _is_relative(rate):
        return rate
    factor = rate.strip()[: -len(UNIT)]
    try:
        return f"{float(factor) * unit:.3g}"
    except ValueError:
        raise ValueError(
            f"Cannot read the learning rate {rate.strip()!r}: write a number before the {UNIT}, as in lr=3x."
        ) from None
