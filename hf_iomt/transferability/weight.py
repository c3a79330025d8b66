"""Eq. 6: from what the metrics say to the transferability weight ω_t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

# Where no metric applies: neither transferable nor not.
UNKNOWN_WEIGHT = 0.5


def transferability_weight(performance: float | None, distribution: Sequence[float], beta: float) -> float:
    """
    ω_t = β·ω_p + (1 − β)·mean(sigmoid(ω_d)), Eq. 6, in [0, 1].

    What does not apply is left out: without metrics ω_d this is ω_p, without ω_p the mean, without both 0.5.

    Args:
        performance (`float`, *optional*): ω_p in [0, 1].
        distribution (`Sequence[float]`): The metrics ω_d that apply, each any number.
        beta (`float`): Weight β of ω_p, in [0, 1].
    """
    mean = float(np.mean(expit(np.asarray(distribution, dtype=np.float64)))) if len(distribution) else None
    if performance is None:
        return UNKNOWN_WEIGHT if mean is None else mean
    return performance if mean is None else beta * performance + (1 - beta) * mean
