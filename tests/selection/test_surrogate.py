from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from hf_iomt.selection.surrogate import Surrogate

JITTER = 1e-8


def make_data(count, dimensions=2, seed=0, noise=0.3):
    generator = np.random.default_rng(seed)
    inputs = generator.random((count, dimensions))
    targets = np.sin(4 * inputs[:, 0]) + noise * generator.standard_normal(count)
    return inputs, targets


def fitted(surrogate):
    """Signal variance, length scales and noise variance in use."""
    kernel = surrogate._regressor.kernel_
    return kernel.k1.k1.constant_value, np.atleast_1d(kernel.k1.k2.length_scale), kernel.k2.noise_level


def matern(a, b, signal, scales):
    """Matérn 5/2 covariance, written out."""
    result = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            r = math.sqrt(sum(((p - q) / scale) ** 2 for p, q, scale in zip(x, y, scales, strict=True)))
            result[i, j] = signal * (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)
    return result


def closed_form(inputs, targets, queries, signal, scales, noise):
    covariance = matern(inputs, inputs, signal, scales) + (noise + JITTER) * np.eye(len(inputs))
    cross = matern(queries, inputs, signal, scales)
    mean = cross @ np.linalg.solve(covariance, targets)
    variance = np.diag(matern(queries, queries, signal, scales) - cross @ np.linalg.solve(covariance, cross.T))
    return mean, np.sqrt(np.maximum(variance, 0))


def log_evidence(inputs, targets, signal, scales, noise):
    covariance = matern(inputs, inputs, signal, scales) + (noise + JITTER) * np.eye(len(inputs))
    _, determinant = np.linalg.slogdet(covariance)
    fit = targets @ np.linalg.solve(covariance, targets)
    return -0.5 * (fit + determinant + len(targets) * math.log(2 * math.pi))


@pytest.fixture
def count_refits(monkeypatch):
    """Counts the runs of the optimizer that scikit-learn fits hyperparameters with."""
    calls = []
    minimize = scipy.optimize.minimize

    def spy(*args, **kwargs):
        calls.append(1)
        return minimize(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    return lambda: len(calls)


@pytest.mark.parametrize("dimensions", [2, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 30])
def test_posterior_is_the_closed_form(count, dimensions):
    inputs, targets = make_data(count, dimensions, seed=count)
    queries = np.random.default_rng(9).uniform(-0.5, 1.5, (6, dimensions))
    surrogate = Surrogate()
    surrogate.fit(inputs, targets)
    mean, std = surrogate.predict(queries)
    expected_mean, expected_std = closed_form(inputs, targets, queries, *fitted(surrogate))
    np.testing.assert_allclose(mean, expected_mean, atol=1e-8)
    np.testing.assert_allclose(std, expected_std, atol=1e-8)


def test_posterior_is_that_of_scikit_learn_with_the_noise_on_the_diagonal():
    inputs, targets = make_data(25)
    queries = np.random.default_rng(1).random((10, 2))
    surrogate = Surrogate()
    surrogate.fit(inputs, targets)
    signal, scales, noise = fitted(surrogate)
    oracle = GaussianProcessRegressor(
        ConstantKernel(signal) * Matern(scales, nu=2.5), alpha=noise + JITTER, optimizer=None
    ).fit(inputs, targets)
    expected_mean, expected_std = oracle.predict(queries, return_std=True)
    mean, std = surrogate.predict(queries)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-8)
    np.testing.assert_allclose(std, expected_std, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_fitted_hyperparameters_explain_the_data_better_than_the_prior_ones(seed):
    inputs, targets = make_data(20, seed=seed, noise=0.05)
    prior = Surrogate()
    prior.fit(inputs, targets, observed=1)
    surrogate = Surrogate()
    surrogate.fit(inputs, targets)
    gained = log_evidence(inputs, targets, *fitted(surrogate)) - log_evidence(inputs, targets, *fitted(prior))
    assert gained > 1.0
    # The optimum was reached: no step along one hyperparameter improves the evidence.
    signal, scales, noise = fitted(surrogate)
    reached = log_evidence(inputs, targets, signal, scales, noise)
    for factor in (0.95, 1.05):
        assert log_evidence(inputs, targets, signal, scales, noise * factor) < reached + 1e-3
        assert log_evidence(inputs, targets, signal, scales * [factor, 1], noise) < reached + 1e-3


def test_one_length_scale_per_input():
    inputs, targets = make_data(40, seed=2, noise=0.02)
    surrogate = Surrogate()
    surrogate.fit(inputs, targets)
    _, (relevant, irrelevant), _ = fitted(surrogate)
    # Targets vary with the first input only.
    assert irrelevant > 3 * relevant


def test_noise_is_not_part_of_the_predicted_spread():
    # Sixty measurements of one point: its mean is known well, however noisy each of them.
    targets = np.random.default_rng(0).standard_normal(60)
    surrogate = Surrogate()
    surrogate.fit(np.full((60, 2), 0.5), targets)
    mean, std = surrogate.predict(np.full((1, 2), 0.5))
    assert std[0] < 0.3
    assert mean[0] == pytest.approx(targets.mean(), abs=0.2)


def test_spread_grows_with_the_distance_from_what_was_observed():
    surrogate = Surrogate()
    surrogate.fit(np.zeros((3, 2)), np.array([0.1, 0.0, -0.1]))
    _, std = surrogate.predict(np.array([[0.0, 0.0], [0.5, 0.0], [2.0, 0.0], [50.0, 0.0]]))
    assert np.all(np.diff(std) > 0)
    assert std[-1] == pytest.approx(math.sqrt(fitted(surrogate)[0]))


def test_without_observations_the_prior_is_predicted():
    surrogate = Surrogate()
    for _ in range(2):
        mean, std = surrogate.predict(np.zeros((3, 2)))
        assert mean.tolist() == [0, 0, 0] and std.tolist() == [1, 1, 1]
        surrogate.fit(np.zeros((0, 2)), np.zeros(0))


def test_observations_that_left_the_window_are_forgotten():
    surrogate = Surrogate()
    surrogate.fit(*make_data(3))
    surrogate.fit(np.zeros((0, 2)), np.zeros(0), observed=3)
    mean, std = surrogate.predict(np.zeros((1, 2)))
    assert (mean.item(), std.item()) == (0.0, 1.0)


def test_hyperparameters_are_refitted_at_growing_intervals(count_refits):
    inputs, targets = make_data(60)
    surrogate = Surrogate()
    refitted_at = []
    for count in range(1, 61):
        before = count_refits()
        surrogate.fit(inputs[:count], targets[:count])
        if count_refits() > before:
            refitted_at.append(count)
    assert len(refitted_at) >= 4
    assert refitted_at[0] <= 5
    intervals = np.diff(refitted_at)
    assert np.all(np.diff(intervals) > 0)


def test_refits_are_paced_by_all_observations_not_by_those_in_the_window(count_refits):
    inputs, targets = make_data(16)
    surrogate = Surrogate()
    for observed in range(1, 401):
        surrogate.fit(inputs[: min(observed, 16)], targets[: min(observed, 16)], observed)
        if observed == 16:
            early = count_refits()
    assert early < count_refits() <= 13


def test_between_refits_only_the_posterior_changes(count_refits):
    inputs, targets = make_data(12)
    surrogate = Surrogate()
    surrogate.fit(inputs[:10], targets[:10])
    hyperparameters, refits = fitted(surrogate), count_refits()
    before, _ = surrogate.predict(inputs)
    surrogate.fit(inputs, targets)
    assert count_refits() == refits
    for now, then in zip(fitted(surrogate), hyperparameters, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-12)
    assert np.abs(surrogate.predict(inputs)[0] - before).max() > 1e-3


def test_a_fit_that_fails_predicts_the_prior_and_keeps_the_hyperparameters():
    inputs, targets = make_data(10)
    surrogate = Surrogate()
    surrogate.fit(inputs, targets)
    hyperparameters = fitted(surrogate)
    surrogate.fit(np.full_like(inputs, np.nan), targets)
    mean, std = surrogate.predict(inputs)
    assert mean.tolist() == [0.0] * 10 and std.tolist() == [1.0] * 10
    surrogate.fit(inputs, targets)
    for now, then in zip(fitted(surrogate), hyperparameters, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-12)


def with_one(values, value):
    """A copy with one entry replaced."""
    result = values.copy()
    result.flat[3] = value
    return result


INPUTS, TARGETS = make_data(20)
HOSTILE = {
    "one point": (INPUTS[:1], TARGETS[:1]),
    "duplicates": (np.full((30, 2), 0.5), np.zeros(30)),
    "duplicates that disagree": (np.full((30, 2), 0.5), np.tile([1.0, -1.0], 15)),
    "constant targets": (INPUTS, np.full(20, 0.7)),
    "zero targets": (INPUTS, np.zeros(20)),
    "a column that never changes": (INPUTS * [1.0, 0.0], TARGETS),
    "nearly equal points": (0.5 + 1e-12 * INPUTS, TARGETS),
    "pure noise": (INPUTS, np.random.default_rng(5).standard_normal(20)),
    "huge targets": (INPUTS, 1e6 * TARGETS),
    "NaN in an input": (with_one(INPUTS, np.nan), TARGETS),
    "infinite input": (with_one(INPUTS, np.inf), TARGETS),
    "NaN target": (INPUTS, with_one(TARGETS, np.nan)),
    "infinite target": (INPUTS, with_one(TARGETS, -np.inf)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_data_neither_warns_nor_raises(name):
    inputs, targets = HOSTILE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surrogate = Surrogate()
        for count in {1, 2, 3, 5, len(targets)}:
            surrogate.fit(inputs[:count], targets[:count])
            mean, std = surrogate.predict(INPUTS)
            assert np.isfinite(mean).all() and np.isfinite(std).all()
            assert (std >= 0).all()


@pytest.mark.parametrize("count", [2, 6])
def test_nan_queries_neither_warn_nor_raise(count):
    surrogate = Surrogate()
    surrogate.fit(*make_data(count))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, std = surrogate.predict(np.full((1, 2), np.nan))
    assert mean.shape == std.shape == (1,)


def test_a_single_input_dimension_is_enough():
    inputs, targets = make_data(10, dimensions=1)
    surrogate = Surrogate()
    for count in range(1, 11):
        surrogate.fit(inputs[:count], targets[:count])
        mean, std = surrogate.predict(inputs)
        expected_mean, expected_std = closed_form(inputs[:count], targets[:count], inputs, *fitted(surrogate))
        np.testing.assert_allclose(mean, expected_mean, atol=1e-8)
        np.testing.assert_allclose(std, expected_std, atol=1e-8)


def test_the_number_of_inputs_may_change():
    surrogate = Surrogate()
    for dimensions in (2, 4, 3):
        inputs, targets = make_data(8, dimensions)
        surrogate.fit(inputs, targets)
        mean, std = surrogate.predict(inputs)
        expected_mean, expected_std = closed_form(inputs, targets, inputs, *fitted(surrogate))
        np.testing.assert_allclose(mean, expected_mean, atol=1e-8)
        np.testing.assert_allclose(std, expected_std, atol=1e-8)


def test_equal_data_gives_equal_predictions():
    inputs, targets = make_data(15)
    first, second = Surrogate(seed=1), Surrogate(seed=1)
    first.fit(inputs, targets)
    second.fit(inputs, targets)
    for one, other in zip(first.predict(inputs), second.predict(inputs), strict=True):
        assert one.tolist() == other.tolist()


def test_the_callers_arrays_are_left_alone():
    inputs, targets = make_data(6)
    copies = inputs.copy(), targets.copy()
    surrogate = Surrogate()
    surrogate.fit(inputs, targets)
    surrogate.predict(inputs)
    assert np.array_equal(inputs, copies[0]) and np.array_equal(targets, copies[1])
