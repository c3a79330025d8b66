"""LogME: how well a Bayesian linear model on frozen features explains the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import qr, svd

from .features import check_features, standardize_features

Array = NDArray[np.float64]

# Natural logarithms of λ = α/β, relative to the largest eigenvalue of FFᵀ, where the maximum is looked for. Below, a
# fit without noise would have an infinite density; above, the features no longer matter. The evidence varies on the
# scale of 1, so that two neighbours of a grid point enclose one maximum.
_GRID = np.linspace(math.log(1e-16), math.log(1e10), 167)
# Halves an interval of the grid to the precision of float64.
_BISECTIONS = 45


@dataclass(frozen=True)
class Evidence:
    """
    The maximum evidence of K targets under y ~ N(0, I/β + FFᵀ/α).

    Args:
        log_density (`Array` of shape (K,)): ln p(y) / N, natural logarithm. A density, so it can exceed 0.
        alpha (`Array` of shape (K,)): Precision α of the prior on the weights; infinite where all features are 0.
        beta (`Array` of shape (K,)): Precision β of the noise.
    """

    log_density: Array
    alpha: Array
    beta: Array


def log_me(features: ArrayLike, labels: ArrayLike, standardize: bool = True) -> float:
    """
    LogME of You et al. (2021), https://huggingface.co/papers/2102.11005: the mean of `max_evidence` over the targets.

    The targets are the indicators of the classes that occur where `labels` are integers of shape (N,), else the
    columns of `labels`: one for a regression, several for several labels per sample and for several outputs. A target
    that does not vary, such as a label that no sample has, is left out.

    LogME depends on the scale and the origin of its input. With `standardize` it does not: features get mean 0 and
    variance 1, targets mean 0, which stands for an intercept, and those of a regression variance 1 as well. Features
    that tell nothing then give -1.42 in a regression, and more with classes, the more the rarer they are.

    Args:
        features (array of shape (N, D)): One row per sample.
        labels (array of shape (N,) or (N, K)): Classes, numbers, or indicators of several labels.
        standardize (`bool`, *optional*, defaults to `True`): Make LogME independent of scale and origin.

    Raises:
        ValueError: The shapes do not fit, something is not finite, or no target varies, as with a single class.
    """
    inputs, targets = check_features(features, labels), _targets(np.asarray(labels))
    if standardize:
        indicators = bool(np.isin(targets, (0.0, 1.0)).all())
        inputs = standardize_features(inputs)
        targets = targets - targets.mean(axis=0) if indicators else standardize_features(targets)
    return float(max_evidence(inputs, targets).log_density.mean())


def max_evidence(features: Array, targets: Array) -> Evidence:
    r"""
    Maximise the evidence of each target over α and β, exactly for any N and D.

    With the eigenvalues σ and the eigenvectors U of FFᵀ, z = Uᵀy and λ = α/β the log density is

    .. math:: \frac N2 \ln\frac\beta{2\pi} - \frac12 \sum_i \ln(1 + \sigma_i/\lambda)
              - \frac\beta2 \Big(\sum_i \frac{z_i^2}{1 + \sigma_i/\lambda} + \lVert y - Uz \rVert^2\Big).

    The best β follows from λ in closed form. A grid finds the interval of the greatest maximum over λ, and bisection
    of the derivative refines it. The sums run over the min(N, D) eigenvalues that can differ from 0.

    Args:
        features (`Array` of shape (N, D)): F, finite.
        targets (`Array` of shape (N, K)): y in each column, finite, not all 0.
    """
    samples = len(features)
    # Their squares might overflow.
    unit, units = np.abs(features).max() or 1.0, np.abs(targets).max(axis=0)
    eigenvalues, energies, residuals = _decompose(features / unit, targets / units)
    largest = eigenvalues.max()
    if largest == 0:
        beta = samples / (energies.sum(axis=0) + residuals)
        log_density = 0.5 * (np.log(beta / (2 * math.pi)) - 1)
        with np.errstate(over="ignore", divide="ignore"):
            return Evidence(log_density - np.log(units), np.full_like(beta, math.inf), beta / units**2)
    relative = eigenvalues[:, None] / largest

    # 1 / (1 + σ/λ), of shape (min(N, D), number of λ).
    shrinkage = 1 / (1 + relative / np.exp(_GRID))
    evidence = np.log(shrinkage).sum(axis=0)[:, None] - samples * np.log(shrinkage.T @ energies + residuals)
    best = evidence.argmax(axis=0)
    low, high = _GRID[np.maximum(best - 1, 0)], _GRID[np.minimum(best + 1, len(_GRID) - 1)]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        shrinkage = 1 / (1 + relative / np.exp(middle))
        noise = (shrinkage * energies).sum(axis=0) + residuals
        slope = (1 - shrinkage).sum(axis=0) - samples * (shrinkage * (1 - shrinkage) * energies).sum(axis=0) / noise
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    beta = samples / noise
    log_density = 0.5 * (np.log(beta / (2 * math.pi)) - 1 + np.log(shrinkage).sum(axis=0) / samples)
    # Where the units are extreme, the precisions may be no numbers of the machine; the density is.
    with np.errstate(over="ignore", divide="ignore"):
        alpha = beta * np.exp(middle) * largest * (unit / units) ** 2
        return Evidence(log_density - np.log(units), alpha, beta / units**2)


def _decompose(features: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues σ of shape (M,) with M = min(N, D), z² of shape (M, K), and ‖y − Uz‖² of shape (K,)."""
    residuals = np.zeros(targets.shape[1])
    width = features.shape[1]
    if len(features) > width:
        # A rotation changes none of the three, and turns tall features into square ones above rows of zeros.
        (rotated,) = qr(np.hstack([features, targets]), mode="r", check_finite=False)
        features, targets, rest = rotated[:width, :width], rotated[:width, width:], rotated[width:, width:]
        residuals = np.square(rest).sum(axis=0)
    vectors, singular_values, _ = svd(features, full_matrices=False, check_finite=False)
    coordinates = vectors.T @ targets
    residuals = residuals + np.square(targets - vectors @ coordinates).sum(axis=0)
    return np.square(singular_values), np.square(coordinates), residuals


def _targets(labels: NDArray[np.generic]) -> Array:
    """The targets that vary, of shape (N, K)."""
    if labels.ndim == 1 and labels.dtype.kind in "iub":
        targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
    elif labels.ndim in (1, 2) and labels.dtype.kind in "iubf":
        targets = labels.astype(np.float64).reshape(len(labels), -1)
    else:
        raise ValueError(
            f"`labels` must be numbers of shape (N,) or (N, K), but got {labels.dtype} of shape {labels.shape}."
        )
    varying: Array = targets[:, np.ptp(targets, axis=0) > 0]
    if varying.shape[1] == 0:
        raise ValueError(
            f"The labels of the {len(labels)} samples are all the same: LogME needs two different ones. "
            "Take more samples, or shuffle them."
        )
    return varying
