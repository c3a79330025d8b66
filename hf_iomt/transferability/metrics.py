"""The metrics ω_d of Eq. 6, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .h_score import h_score
from .leep import SourceProbabilities, leep
from .log_me import log_me


@dataclass(frozen=True)
class Sample:
    """
    What the metrics see of a data set.

    Args:
        labels (`NDArray` of shape (N,) or (N, K)): Classes as integers, numbers, or indicators of several labels.
        features (`NDArray` of shape (N, D), *optional*): Pooled features.
        source_probabilities (array of shape (N, Z), *optional*): The source task's predictions.
        missing (`dict[str, str]`): Why `features` or `source_probabilities` are not there.
    """

    labels: NDArray[np.generic]
    features: NDArray[np.floating] | None = None
    source_probabilities: SourceProbabilities | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def need_features(self) -> NDArray[np.floating]:
        """The features, or a ValueError that says why there are none."""
        if self.features is None:
            raise ValueError(self.missing.get("features", "there are no features"))
        return self.features

    def need_source_probabilities(self) -> SourceProbabilities:
        """The source task's predictions, or a ValueError that says why there are none."""
        if self.source_probabilities is None:
            raise ValueError(self.missing.get("source_probabilities", "there are no predictions of a source task"))
        return self.source_probabilities


# Each raises a ValueError with the reason where it does not apply.
DISTRIBUTION_METRICS: dict[str, Callable[[Sample], float]] = {
    "log_me": lambda sample: log_me(sample.need_features(), sample.labels),
    "leep": lambda sample: leep(sample.need_source_probabilities(), sample.labels),
    "h_score": lambda sample: h_score(sample.need_features(), sample.labels),
}
