"""H-score: how far the classes are apart in feature space."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import pinvh

from .features import centre_features, check_features, standardize_features


def h_score(features: ArrayLike, labels: ArrayLike, standardize: bool = True) -> float:
    """
    H-score tr(cov(f)⁻¹ · cov(E[f | y])) of Bao et al. (2019), with the shrinkage of Ibrahim et al. (2021).

    Covariances from fewer samples than features are noise, so both are shrunk by the factor of Ledoit and Wolf, as in
    https://huggingface.co/papers/2110.06893. The value lies between 0 and about the number of classes less one.

    Args:
        features (array of shape (N, D)): One row per sample.
        labels (array of shape (N,)): Classes as integers.
        standardize (`bool`, *optional*, defaults to `True`): Give features mean 0 and variance 1 first, since the
            shrinkage treats them alike.

    Raises:
        ValueError: The shapes do not fit, something is not finite, or there is a single class.
    """
    inputs, classes = check_features(features, labels), np.asarray(labels)
    if classes.ndim != 1 or classes.dtype.kind not in "iub":
        raise ValueError(
            "H-score is for one class per sample: `labels` must be integers of shape (N,), but got "
            f"{classes.dtype} of shape {classes.shape}."
        )
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError(f"The {len(classes)} samples are all of one class: H-score needs two.")
    inputs = standardize_features(inputs) if standardize else centre_features(inputs)
    # Imported when first used: it takes memory.
    from sklearn.covariance import ledoit_wolf

    covariance, shrinkage = ledoit_wolf(inputs, assume_centered=True)
    means = np.zeros((len(counts), inputs.shape[1]))
    np.add.at(means, codes, inputs)
    means /= counts[:, None]
    # As in the authors' code, N - 1 here and N in the covariance of the features.
    between = (means.T * counts) @ means / (len(inputs) - 1)
    return float((1 - shrinkage) * np.sum(pinvh(covariance) * between))
