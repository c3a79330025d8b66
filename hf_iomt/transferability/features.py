"""Feature matrices as the metrics take them: checked, in float64, standardised."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def check_features(features: ArrayLike, labels: ArrayLike) -> Array:
    """
    The features in float64.

    Args:
        features (array of shape (N, D)): One row per sample.
        labels (array of shape (N, ...)): As many rows.

    Raises:
        ValueError: The shapes do not fit, or something is not finite.
    """
    checked, targets = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if checked.ndim != 2 or 0 in checked.shape:
        raise ValueError(f"`features` must have shape (N, D) with N, D >= 1, but got {checked.shape}.")
    if targets.ndim == 0 or len(targets) != len(checked):
        raise ValueError(
            f"There must be one label per row of `features`, but got shapes {targets.shape} and {checked.shape}."
        )
    if not np.isfinite(checked).all() or (targets.dtype.kind == "f" and not np.isfinite(targets).all()):
        raise ValueError("`features` and `labels` must be finite, but they hold NaN or infinity.")
    return checked


def centre_features(features: Array) -> Array:
    """Each column with mean 0; exactly 0 where it does not vary."""
    return np.where(np.ptp(features, axis=0) > 0, features - features.mean(axis=0), 0.0)


def standardize_features(features: Array) -> Array:
    """Each column with mean 0 and variance 1, of any magnitude before; a column that does not vary becomes 0."""
    largest = np.abs(features).max(axis=0)
    scaled = features / np.where(largest > 0, largest, 1.0)
    centred = centre_features(scaled)
    deviation = centred.std(axis=0)
    return np.asarray(centred / np.where(deviation > 0, deviation, 1.0))
