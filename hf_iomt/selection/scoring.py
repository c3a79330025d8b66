"""Eq. 2: the short-term benefit of a finished cycle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def relative_reduction(before: float, after: float) -> float:
    """
    (before − after) / max(|before|, |after|), in [-2, 2]; 0 where both are 0.

    For positive losses this is the paper's Δl. The absolute values extend it to losses of zero and below.
    """
    scale = max(abs(before), abs(after))
    # Dividing first keeps losses near the largest float from overflowing.
    return before / scale - after / scale if scale > 0 else 0.0


def score(losses: Sequence[float], alpha: float) -> float:
    """
    Score of one cycle, s = tanh((μ_Δ + Δ_UPPER + Δ_LOWER) / 3 + α·σ_Δ), Eq. 2.

    μ_Δ and σ_Δ are the mean and the standard deviation of the relative reductions from loss to loss. The paper names
    σ_Δ a variance; we read the symbol, which has the unit of μ_Δ.

    Args:
        losses (`Sequence[float]` of length τ + 1): l_0, measured before the cycle's first step, to l_τ.
        alpha (`float`): Weight α of the spread.

    Returns:
        `float` in [-1, 1]; -1 where a loss is not finite.

    Raises:
        ValueError: There are fewer than two losses.
    """
    if len(losses) < 2:
        raise ValueError(f"A score needs the losses l_0 to l_τ, at least two, but got {len(losses)}.")
    if not all(math.isfinite(loss) for loss in losses):
        return -1.0
    first, rest = losses[0], losses[1:]
    steps = len(rest)
    reductions = [relative_reduction(before, after) for before, after in zip(losses, rest, strict=False)]
    upper = relative_reduction(first, max(rest)) / steps
    lower = relative_reduction(first, min(rest)) / steps
    return math.tanh((float(np.mean(reductions)) + upper + lower) / 3 + alpha * float(np.std(reductions)))
