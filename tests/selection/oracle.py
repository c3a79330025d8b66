"""What a selector predicts and does, written out."""

from __future__ import annotations

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from hf_iomt.selection import Selector, SelectorSettings

FAMILIES = ["sgd", "sgd", "sgd", "adam", "adam", "adam", "adagrad"]
HYPERPARAMETERS = [{"lr": lr} for lr in (0.1, 0.01, 0.001, 0.1, 0.01, 0.001, 0.01)]
# Learning rates 0.1, 0.01, 0.001 by their logarithm; adagrad has one candidate.
ENCODED = [1.0, 0.5, 0.0, 1.0, 0.5, 0.0, None]


def make_selector(seed=0, families=FAMILIES, hyperparameters=HYPERPARAMETERS, **settings):
    return Selector(families, hyperparameters, SelectorSettings(**settings), seed)


def random_run(selector, cycles, seed=1, dimensions=16):
    """Observations that a run of `cycles` cycles over random candidates makes."""
    generator = np.random.default_rng(seed)
    observations = []
    for _ in range(cycles):
        observations.append(
            (
                int(generator.integers(len(FAMILIES))),
                generator.standard_normal(dimensions),
                generator.uniform(-0.5, 0.5),
            )
        )
        selector.observe(*observations[-1])
    return observations


def oracle_features(states, components):
    centred = np.array(states) - np.mean(states, axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    features = left[:, :components] * sizes[:components]
    for column in range(components):
        features[:, column] *= np.sign(right[column, np.argmax(np.abs(right[column]))])
    return features / features.std(axis=0).max()


def oracle_prediction(selector, observations, state, candidate, components):
    """Posterior of one candidate, with the hyperparameters that the selector's surrogate has fitted."""
    scores = np.array([score for _, _, score in observations])
    centre, spread = scores.mean(), scores.std()
    family = FAMILIES[candidate]
    rows = [row for row, (index, _, _) in enumerate(observations) if FAMILIES[index] == family]
    if not rows:
        return centre, spread
    states = [item for _, item, _ in observations] + [state]
    features = oracle_features(states, components) if components else np.zeros((len(states), 0))

    def inputs(index, row):
        # The constant is the input that keeps a family of one candidate from having none.
        encoded = [] if ENCODED[index] is None else [ENCODED[index]]
        return [*encoded, *features[row], 0.0]

    kernel = selector._surrogates[family]._regressor.kernel_
    regressor = GaussianProcessRegressor(
        ConstantKernel(kernel.k1.k1.constant_value) * Matern(kernel.k1.k2.length_scale, nu=2.5),
        alpha=kernel.k2.noise_level + 1e-8,
        optimizer=None,
    ).fit([inputs(observations[row][0], row) for row in rows], (scores[rows] - centre) / spread)
    mean, std = regressor.predict([inputs(candidate, -1)], return_std=True)
    return centre + spread * mean[0], spread * std[0]


def phases(selector, cycles, score=0.1):
    result = []
    for _ in range(cycles):
        choice = selector.choose(np.zeros(4))
        result.append(choice.phase)
        selector.observe(choice.candidate, np.zeros(4), score)
    return result
