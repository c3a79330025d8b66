"""LEEP: how well the predictions of the source task explain the labels of the target task."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array

# Elements of float64 held at a time: 32 MiB.
_BLOCK = 2**22
# How far rows may be from a sum of 1: half precision has three digits.
_TOLERANCE = 1e-2

SourceProbabilities: TypeAlias = NDArray[np.floating] | csr_array


def leep(source_probabilities: SourceProbabilities, labels: ArrayLike) -> float:
    """
    LEEP of Nguyen et al. (2020), https://huggingface.co/papers/2002.12462, natural logarithm, at most 0.

    The mean over the samples of ln Σ_z P̂(y | z) θ(x)_z, where θ(x) is the source model's distribution over its own
    classes z, and P̂(y | z) is what the samples themselves say of the target class given the source class. A source
    class without any mass contributes nothing.

    Args:
        source_probabilities (array or `csr_array` of shape (N, Z)): θ(x) in each row, of any float type. Many source
            classes are read in blocks of columns, without a copy of them all.
        labels (array of shape (N,)): Target classes as integers.

    Raises:
        ValueError: The shapes do not fit, or a row is no distribution.
    """
    source, classes = source_probabilities, np.asarray(labels)
    if source.ndim != 2 or 0 in source.shape or classes.shape != source.shape[:1]:
        raise ValueError(
            "`source_probabilities` and `labels` must have shapes (N, Z) and (N,), but got "
            f"{source.shape} and {classes.shape}."
        )
    if classes.dtype.kind not in "iub":
        raise ValueError(f"LEEP is for one class per sample: `labels` must be integers, but got {classes.dtype}.")
    samples, width = source.shape
    names, codes = np.unique(classes, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"The {samples} samples are all of one class: LEEP needs two.")
    indicators = csr_array((np.ones(samples), (np.arange(samples), codes)))
    likelihood, mass = np.zeros(samples), np.zeros(samples)
    columns = max(1, _BLOCK // samples)
    for start in range(0, width, columns):
        block = source[:, start : start + columns].astype(np.float64)
        if block.min() < 0:
            raise ValueError("`source_probabilities` must not be negative.")
        joint = indicators.T @ block
        marginal = joint.sum(axis=0)
        conditional = joint @ diags_array(np.divide(1, marginal, out=np.zeros_like(marginal), where=marginal > 0))
        if isinstance(block, np.ndarray):
            likelihood += (block * conditional[codes]).sum(axis=1)
        else:
            rows, places = block.nonzero()
            terms = np.asarray(block[rows, places] * conditional.tocsr()[codes[rows], places]).ravel()
            likelihood += np.bincount(rows, weights=terms, minlength=samples)
        mass += block.sum(axis=1)
    if not np.allclose(mass, 1, atol=_TOLERANCE):
        raise ValueError(
            "Each row of `source_probabilities` must sum to 1, but the sums lie between "
            f"{mass.min():g} and {mass.max():g}."
        )
    return float(np.log(likelihood / mass).mean())
