"""Whether the surrogate knew what it predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .names import per_cent
from .run import Run

# Of scores that are normally distributed as predicted, within two standard deviations.
NOMINAL_COVERAGE = 0.954
_FEWEST = 8
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Prediction:
    """
    What was expected of a cycle, and what came.

    Args:
        cycle (`int`): Number of the cycle.
        candidate (`str`): The candidate that was chosen.
        mean (`float`): Predicted score.
        std (`float`): Predicted standard deviation.
        score (`float`): The score, in [-1, 1].
        rolled_back (`bool`): Whether the cycle was undone, which makes the score -1.
    """

    cycle: int
    candidate: str
    mean: float
    std: float
    score: float
    rolled_back: bool = False

    @property
    def covered(self) -> bool:
        """Whether the score lies within two standard deviations of what was predicted."""
        return abs(self.score - self.mean) <= 2 * self.std


@dataclass(frozen=True)
class Calibration:
    """
    How predictions and scores agree.

    Args:
        count (`int`): Number of predictions with a score.
        coverage (`float`, *optional*): Share of the scores within two standard deviations; `None` without any.
        correlation (`float`, *optional*): Spearman's rank correlation of predicted and realised scores; `None` for
            fewer than three, or where one of the two does not vary.
        p_value (`float`, *optional*): How often chance alone gives a correlation as far from 0.
    """

    count: int
    coverage: float | None = None
    correlation: float | None = None
    p_value: float | None = None

    @property
    def overconfident(self) -> bool:
        """Whether so few scores within two standard deviations are no chance."""
        if self.coverage is None:
            return False
        # Takes a second to import.
        from scipy.stats import binom

        return bool(binom.cdf(round(self.coverage * self.count), self.count, NOMINAL_COVERAGE) < _SIGNIFICANT)

    @property
    def verdict(self) -> str:
        """What to conclude, in a sentence or two."""
        if self.count == 0:
            return "There are no predictions."
        assert self.coverage is not None
        covered = (
            f"{per_cent(self.coverage)} of {self.count} scores lie within 2σ of what the surrogate predicted "
            f"({per_cent(NOMINAL_COVERAGE)} would be right{', so it was too sure' if self.overconfident else ''})"
        )
        if self.count < _FEWEST:
            return f"{covered}. These are too few to judge it."
        if self.correlation is None or self.p_value is None:
            return f"{covered}. Predictions or scores do not vary, so there is no rank correlation."
        number = f"the rank correlation is {self.correlation:.2f} (p = {self.p_value:.2g})"
        if self.p_value >= _SIGNIFICANT:
            return f"{covered}; {number}: nothing shows that it knew which cycles would do well."
        if self.correlation < 0:
            return f"{covered}; {number}: it was misled, for cycles did worse where it expected more."
        return f"{covered}; {number}: it knew part of the order in which cycles do well."


def predictions(run: Run) -> list[Prediction]:
    """The cycles that the surrogate chose and that have a score."""
    found = []
    for record in run.history:
        values = [record.get(name) for name in ("predicted_mean", "predicted_std", "score")]
        if all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            mean, std, score = (float(value) for value in values if value is not None)
            rolled_back = bool(record.get("rolled_back"))
            found.append(Prediction(record["cycle"], record["candidate"], mean, std, score, rolled_back))
    return found


def calibrate(items: Sequence[Prediction]) -> Calibration:
    """
    Compare predictions with scores.

    Args:
        items (`Sequence[Prediction]`): What `predictions` found.
    """
    if not items:
        return Calibration(0)
    coverage = sum(item.covered for item in items) / len(items)
    means, scores = [item.mean for item in items], [item.score for item in items]
    if len(items) < 3 or len(set(means)) == 1 or len(set(scores)) == 1:
        return Calibration(len(items), coverage)
    # Takes a second to import.
    from scipy.stats import spearmanr

    result = spearmanr(means, scores)
    return Calibration(len(items), coverage, float(result.statistic), float(result.pvalue))


def why_none(run: Run) -> str:
    """Why a run has no predictions."""
    if len(run.candidates) == 1:
        return "there is one candidate, and nothing to choose"
    phases = {record["phase"] for record in run.cycles}
    if rule := phases & {"random", "cyclical", "commit"}:
        return f"the choice was {rule.pop()}"
    if "surrogate" in phases:
        return "training ended within the first cycle that it chose"
    return "training ended before it chose a cycle"
