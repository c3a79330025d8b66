from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits, load_iris

from hf_iomt.transferability import h_score


def literal(features, labels):
    """The authors' formula for the regularised score, class by class."""
    centred = features - features.mean(axis=0)
    fitted = LedoitWolf(assume_centered=False).fit(centred)
    means = np.zeros_like(centred)
    for label in set(labels.tolist()):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = np.cov(means, rowvar=False)
    return np.trace(np.linalg.pinv(fitted.covariance_) @ ((1 - fitted.shrinkage_) * between))


def test_iris_has_the_known_value():
    features, labels = load_iris(return_X_y=True)
    # transformer-ranker gives 1.177842480, by another route to the inverse.
    assert h_score(features, labels, standardize=False) == pytest.approx(1.1778424993, abs=1e-9)


@pytest.mark.parametrize("rows", [60, 300, 1797])
def test_it_is_the_authors_formula(rows):
    features, labels = (item[:rows] for item in load_digits(return_X_y=True))
    assert h_score(features, labels, standardize=False) == pytest.approx(literal(features, labels), rel=1e-6)


def test_standardized_it_knows_no_units():
    features, labels = load_iris(return_X_y=True)
    scaled = features * [1e3, 1, 1e-3, 50] + [5, 0, -3, 1]
    assert h_score(scaled, labels) == pytest.approx(h_score(features, labels), rel=1e-8)
    by_hand = (features - features.mean(0)) / features.std(0)
    assert h_score(features, labels) == pytest.approx(literal(by_hand, labels), rel=1e-8)


def test_classes_far_apart_reach_their_number_less_one_and_noise_stays_near_zero():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    apart = np.eye(4)[labels] + 0.01 * rng.normal(size=(400, 4))
    assert h_score(apart, labels) == pytest.approx(3.0, abs=0.1)
    assert h_score(rng.normal(size=(400, 5)), labels) < 0.1


def test_more_features_than_samples_stay_in_bounds():
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2
    assert 0 <= h_score(rng.normal(size=(30, 400)), labels) < 1


@pytest.mark.parametrize("features", [np.zeros((6, 3)), np.full((6, 3), 0.1), np.tile(np.arange(6.0)[:, None], 3)])
def test_odd_features_have_a_finite_value(features):
    assert np.isfinite(h_score(features, np.arange(6) % 2))


@pytest.mark.parametrize("standardize", [False, True])
def test_constant_features_tell_nothing(standardize):
    assert h_score(np.full((6, 3), 0.1), np.arange(6) % 2, standardize) == 0


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.zeros(6, dtype=int), r"The 6 samples are all of one class: H-score needs two"),
        (np.arange(6.0), r"H-score is for one class per sample: .* but got float64 of shape \(6,\)"),
        (np.zeros((6, 2), dtype=int), r"H-score is for one class per sample"),
        (np.zeros(5, dtype=int), r"one label per row of `features`"),
    ],
)
def test_what_cannot_be(labels, message):
    with pytest.raises(ValueError, match=message):
        h_score(np.random.default_rng(0).normal(size=(6, 2)), labels)
