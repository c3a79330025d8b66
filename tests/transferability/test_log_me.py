from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer, load_digits, load_iris

from hf_iomt.transferability import log_me, max_evidence

SHAPES = [(12, 40), (200, 768), (30, 30), (60, 5), (300, 20), (2, 3), (2, 1)]


def indicators(labels):
    return (np.asarray(labels)[:, None] == np.unique(labels)).astype(float)


def covariance(features, alpha, beta):
    return np.eye(len(features)) / beta + features @ features.T / alpha


def log_density(features, target, alpha, beta):
    """ln N(y; 0, I/β + FFᵀ/α) / N, as the definition has it."""
    lower = cholesky(covariance(features, alpha, beta), lower=True)
    whitened = solve_triangular(lower, target, lower=True)
    return float(
        -0.5 * math.log(2 * math.pi) - np.log(np.diag(lower)).mean() - 0.5 * (whitened @ whitened) / len(target)
    )


def gradient(features, target, alpha, beta):
    """Its derivatives by ln α and ln β: tr((C⁻¹yyᵀC⁻¹ − C⁻¹)·dC) / 2N."""
    inverse = np.linalg.inv(covariance(features, alpha, beta))
    solved = inverse @ target
    middle = np.outer(solved, solved) - inverse
    changes = (-features @ features.T / alpha, -np.eye(len(features)) / beta)
    return np.array([np.sum(middle * change) / 2 / len(target) for change in changes])


def fixed_point(features, target):
    """MacKay's iteration from the reference's start and to its limits: α and β of one target, not quite converged."""
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    eigenvalues, projected = singular**2, (left.T @ target) ** 2
    rest = target @ target - projected.sum()
    alpha = beta = 1.0
    for _ in range(11):
        ratio = alpha / beta
        effective = (eigenvalues / (eigenvalues + ratio)).sum()
        weights = (eigenvalues * projected / (eigenvalues + ratio) ** 2).sum()
        errors = (projected / (1 + eigenvalues / ratio) ** 2).sum() + rest
        alpha, beta = effective / (weights + 1e-5), (len(target) - effective) / (errors + 1e-5)
        if abs(alpha / beta - ratio) / ratio <= 1e-3:
            break
    return alpha, beta


def informative(samples, width, seed, outputs=3):
    """Features and targets that depend on them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(samples, width)) * rng.uniform(0.1, 3, size=width)
    targets = features @ rng.normal(size=(width, outputs)) / math.sqrt(width) + rng.normal(size=(samples, outputs))
    return features, targets


class TestMaxEvidence:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("shape", SHAPES)
    def test_it_is_the_log_density_at_its_own_alpha_and_beta(self, shape, seed):
        features, targets = informative(*shape, seed)
        evidence = max_evidence(features, targets)
        for k, target in enumerate(targets.T):
            expected = log_density(features, target, evidence.alpha[k], evidence.beta[k])
            assert evidence.log_density[k] == pytest.approx(expected, rel=1e-8)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("shape", SHAPES[:5])
    def test_alpha_and_beta_are_a_stationary_point(self, shape, seed):
        features, targets = informative(*shape, seed)
        evidence = max_evidence(features, targets)
        for k, target in enumerate(targets.T):
            slope = gradient(features, target, evidence.alpha[k], evidence.beta[k])
            assert np.abs(slope).max() < 1e-8
            # The test can tell: a tenth more is no stationary point, where the features matter at all.
            if 1e-6 < evidence.alpha[k] / evidence.beta[k] < 1e6:
                assert np.abs(gradient(features, target, 1.1 * evidence.alpha[k], evidence.beta[k])).max() > 1e-6

    @pytest.mark.parametrize("shape", [(12, 40), (30, 30), (60, 5)])
    def test_no_optimizer_finds_more(self, shape):
        features, targets = informative(*shape, seed=7, outputs=2)
        evidence = max_evidence(features, targets)
        for k, target in enumerate(targets.T):
            found = [
                -minimize(lambda x, y=target: -log_density(features, y, *np.exp(x)), start, bounds=[(-12, 12)] * 2).fun
                for start in ([0, 0], [3, 0], [-3, 2], [6, 3])
            ]
            assert evidence.log_density[k] >= max(found) - 1e-9
            assert evidence.log_density[k] == pytest.approx(max(found), abs=1e-3)

    @pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
    def test_features_of_lower_rank(self, shape):
        features, targets = informative(*shape, seed=3)
        features[:, 3:] = features[:, :1]
        evidence = max_evidence(features, targets)
        for k, target in enumerate(targets.T):
            assert evidence.log_density[k] == pytest.approx(
                log_density(features, target, evidence.alpha[k], evidence.beta[k]), rel=1e-8
            )

    def test_features_that_are_all_zero_leave_the_noise(self):
        targets = np.random.default_rng(0).normal(size=(20, 2))
        evidence = max_evidence(np.zeros((20, 3)), targets)
        np.testing.assert_allclose(evidence.beta, 20 / (targets**2).sum(0))
        for k, target in enumerate(targets.T):
            assert evidence.log_density[k] == pytest.approx(
                log_density(np.zeros((20, 3)), target, 1, evidence.beta[k])
            )

    @pytest.mark.parametrize("scale", [1e-170, 1e-20, 1e20, 1e160])
    @pytest.mark.parametrize("shape", [(12, 40), (60, 5)])
    def test_any_magnitude(self, shape, scale):
        features, targets = informative(*shape, seed=0)
        expected = max_evidence(features, targets).log_density
        np.testing.assert_allclose(max_evidence(scale * features, targets).log_density, expected, rtol=1e-9)
        scaled = max_evidence(features, scale * targets).log_density
        np.testing.assert_allclose(scaled, expected - math.log(scale), rtol=1e-9)


class TestKnownValues:
    """
    Values of the reference implementation on raw features. Those of `exact` hold at the α and β that it stops at, so
    they are reproduced there first; the maximum itself cannot be less.
    """

    @pytest.mark.parametrize(
        "load, rows, exact, gain",
        [
            (load_iris, None, -0.1600602435, 1e-9),
            (load_digits, None, 0.2702774559, 1e-6),
            (load_breast_cancer, None, -0.1850162126, 1e-4),
            # Fewer samples than features. The reference itself gives 2.8630 here.
            (load_digits, 40, -0.0164282709, 1e-2),
        ],
    )
    def test_data_of_scikit_learn(self, load, rows, exact, gain):
        features, labels = (item[:rows] for item in load(return_X_y=True))
        targets = indicators(labels)
        at_reference = np.mean([log_density(features, y, *fixed_point(features, y)) for y in targets.T])
        # Where it stops depends on rounding, and so on the processor, if scales of features differ as here.
        assert at_reference == pytest.approx(exact, abs=1e-7)
        assert 0 <= log_me(features, labels, standardize=False) - exact < gain

    @pytest.mark.parametrize("width, exact", [(768, -0.79), (4096, -0.75)])
    def test_many_features_without_meaning(self, width, exact):
        # The reference gives 10.3 and 93.2, a density that grows with the number of features.
        rng = np.random.default_rng(0)
        features, labels = rng.normal(size=(200, width)), rng.integers(4, size=200)
        targets = indicators(labels)
        at_reference = np.mean([log_density(features, y, *fixed_point(features, y)) for y in targets.T])
        assert at_reference == pytest.approx(exact, abs=0.02)
        # The maximum is where the features are hardly used.
        unused = np.mean([log_density(np.zeros((200, 1)), y, 1, 1 / np.mean(y**2)) for y in targets.T])
        assert unused <= log_me(features, labels, standardize=False) < unused + 5e-3
        assert unused > at_reference


class TestStandardizing:
    def test_it_is_the_same_as_by_hand(self):
        features, labels = load_iris(return_X_y=True)
        scaled = (features - features.mean(0)) / features.std(0)
        targets = indicators(labels)
        by_hand = max_evidence(scaled, targets - targets.mean(0)).log_density.mean()
        assert log_me(features, labels) == pytest.approx(by_hand, rel=1e-12)

    @given(st.floats(-1e3, 1e3), st.floats(1e-6, 1e6))
    def test_origin_and_scale_do_not_matter(self, shift, scale):
        features, labels = load_iris(return_X_y=True)
        assert log_me(scale * features + shift, labels) == pytest.approx(log_me(features, labels), rel=1e-4)

    def test_nor_does_a_rotation(self):
        features, targets = informative(40, 6, seed=0)
        rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
        rotated = max_evidence(features @ rotation, targets).log_density
        np.testing.assert_allclose(rotated, max_evidence(features, targets).log_density, rtol=1e-10)

    def test_nor_do_the_units_of_a_regression(self):
        features, targets = informative(60, 8, seed=0, outputs=1)
        assert log_me(features, 1e4 * targets[:, 0] - 300) == pytest.approx(log_me(features, targets[:, 0]), rel=1e-8)

    def test_without_meaning_a_regression_has_the_density_of_noise(self):
        rng = np.random.default_rng(0)
        value = log_me(rng.normal(size=(500, 3)), rng.normal(size=500))
        assert value == pytest.approx(-0.5 * math.log(2 * math.pi * math.e), abs=0.01)

    def test_better_features_have_more_evidence(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(4, size=300)
        signal = np.eye(4)[labels]
        values = [log_me(signal + noise * rng.normal(size=(300, 4)), labels) for noise in (0.1, 0.3, 1, 3, 10)]
        assert values == sorted(values, reverse=True)


class TestEdges:
    def test_names_of_classes_and_their_gaps_do_not_matter(self):
        features, labels = load_iris(return_X_y=True)
        renamed = np.array([7, 100, -3])[labels]
        assert log_me(features, renamed) == pytest.approx(log_me(features, labels), rel=1e-12)

    def test_several_labels_are_their_columns(self):
        features, targets = informative(60, 8, seed=0)
        labels = (targets > 0).astype(float)
        columns = [log_me(features, labels[:, [k]]) for k in range(3)]
        assert log_me(features, labels) == pytest.approx(np.mean(columns), rel=1e-12)
        never = np.hstack([labels, np.zeros((60, 1)), np.ones((60, 1))])
        assert log_me(features, never) == pytest.approx(np.mean(columns), rel=1e-12)

    @pytest.mark.parametrize(
        "features",
        [
            np.zeros((10, 3)),
            np.full((10, 3), 0.1),
            np.tile(np.arange(10.0)[:, None], (1, 5)),
            np.tile([[1e300], [-1e300]], (5, 2)),
            np.tile([[1e-200], [3e-200]], (5, 2)),
            np.hstack([np.arange(10.0)[:, None], np.zeros((10, 2))]),
            # It knows the labels, so that there is no noise.
            np.tile([[0.0], [1.0]], (5, 2)),
        ],
    )
    @pytest.mark.parametrize("labels", [np.arange(10) % 2, np.arange(10.0)])
    def test_odd_features_have_a_finite_value(self, features, labels):
        assert math.isfinite(log_me(features, labels))

    def test_constant_features_tell_as_little_as_none(self):
        labels = np.arange(10) % 3
        assert log_me(np.full((10, 4), 0.1), labels) == log_me(np.zeros((10, 4)), labels)

    def test_inputs_stay_as_they_are(self):
        features, labels = load_iris(return_X_y=True)
        copies = features.copy(), labels.copy()
        log_me(features, labels)
        assert np.array_equal(features, copies[0]) and np.array_equal(labels, copies[1])

    def test_single_precision_is_taken_in_double(self):
        features, labels = load_iris(return_X_y=True)
        single = features.astype(np.float32)
        assert log_me(single, labels) == log_me(single.astype(np.float64), labels)

    @pytest.mark.parametrize("labels", [[1], [1.5], [[0.0, 1.0]]])
    def test_one_sample(self, labels):
        with pytest.raises(ValueError, match=r"The labels of the 1 samples are all the same: LogME needs two"):
            log_me([[1.0, 2.0]], labels)

    @pytest.mark.parametrize("labels", [np.zeros(9, dtype=int), np.full(9, 2.5), np.ones((9, 2))])
    def test_a_single_class(self, labels):
        with pytest.raises(ValueError, match=r"The labels of the 9 samples are all the same.*Take more samples"):
            log_me(np.random.default_rng(0).normal(size=(9, 2)), labels)

    @pytest.mark.parametrize(
        "features, labels, message",
        [
            (np.zeros(3), [0, 1, 0], r"`features` must have shape \(N, D\) with N, D >= 1, but got \(3,\)"),
            (np.zeros((3, 0)), [0, 1, 0], r"`features` must have shape"),
            (np.zeros((0, 3)), [], r"`features` must have shape"),
            (np.zeros((3, 2)), [0, 1], r"one label per row of `features`, but got shapes \(2,\) and \(3, 2\)"),
            (np.zeros((3, 2)), 1, r"one label per row"),
            (np.full((3, 2), np.nan), [0, 1, 0], r"must be finite, but they hold NaN or infinity"),
            (np.full((3, 2), np.inf), [0, 1, 0], r"must be finite"),
            (np.zeros((3, 2)), [0.0, np.nan, 1.0], r"must be finite"),
            (np.zeros((3, 2)), ["a", "b", "a"], r"`labels` must be numbers of shape \(N,\) or \(N, K\)"),
            (np.zeros((3, 2)), np.zeros((3, 2, 2)), r"`labels` must be numbers of shape"),
        ],
    )
    def test_what_cannot_be(self, features, labels, message):
        with pytest.raises(ValueError, match=message):
            log_me(features, labels)
