"""Eq. 4, 5 and 7: from a predicted score to the gain that decides."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]


def upper_confidence(mean: Array, std: Array, alpha: float) -> Array:
    """s_μ + α·s_σ, Eq. 4. All arrays have shape (n,)."""
    return mean + alpha * std


def transferability_aware(mean: Array, std: Array, transferability: float) -> Array:
    """s_μ + (1 − ω_t)·s_σ, Eq. 5. All arrays have shape (n,)."""
    return mean + (1 - transferability) * std


def variance_weight(
    cycle: int, halving_cycles: int, transferability: float, reading: Literal["text", "printed"]
) -> float:
    """
    Weight of s_σ in Eq. 7, in [0, 1].

    The paper's text, and Eq. 5, halve the weight every n cycles: 2^(−⌊i/n⌋)·(1 − ω_t), reading `"text"`. The formula
    as printed, 1 − 2^(−⌊i/n⌋)·ω_t, grows to 1 instead, reading `"printed"`.

    Args:
        cycle (`int`): The cycle i, from 0.
        halving_cycles (`int`): The halving period n; 0 for no halving, which leaves Eq. 5.
        transferability (`float`): ω_t in [0, 1].
        reading (`str`): `"text"` or `"printed"`.
    """
    halving = 2.0 ** -(cycle // halving_cycles) if halving_cycles > 0 else 1.0
    return halving * (1 - transferability) if reading == "text" else 1 - halving * transferability


def gain(mean: Array, std: Array, weight: float) -> Array:
    """e = sigmoid(s_μ + weight·s_σ), Eq. 7, with `weight` from `variance_weight`. All arrays have shape (n,)."""
    return np.asarray(expit(mean + weight * std))
