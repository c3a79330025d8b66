"""Eq. 3: weighted random sampling of families in the first cycles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


class InitialSampling:
    """
    Draws a family in proportion to its weight ω_r, then one of the family's candidates with equal chance.

    Args:
        families (`Sequence[str]`): The families; every weight starts at 1.
        min_weight (`float`): The least weight ω_min, in [0, 1].
        kind (`str`, *optional*, defaults to `"weighted"`): `"weighted"`, or `"uniform"` to keep all weights at 1.
    """

    def __init__(
        self, families: Sequence[str], min_weight: float, kind: Literal["weighted", "uniform"] = "weighted"
    ) -> None:
        self.min_weight = min_weight
        self.kind = kind
        self.weights: dict[str, float] = dict.fromkeys(families, 1.0)

    def update(self, family: str, score: float) -> None:
        """Set the family's weight to max((s + 1) / 2, ω_min), Eq. 3."""
        if self.kind == "weighted":
            self.weights[family] = max((score + 1) / 2, self.min_weight)

    def draw(self, families: Sequence[str], generator: np.random.Generator) -> int:
        """
        Draw a candidate.

        Args:
            families (`Sequence[str]` of length n): The family of each candidate.
            generator (`np.random.Generator`): Source of randomness.

        Returns:
            `int`: Index in [0, n).
        """
        names = list(dict.fromkeys(families))
        weights = np.array([self.weights[name] for name in names])
        # With ω_min = 0 every family may have failed.
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(names), 1 / len(names))
        family = names[generator.choice(len(names), p=weights)]
        return int(generator.choice([index for index, name in enumerate(families) if name == family]))
