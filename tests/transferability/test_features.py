from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from hf_iomt.transferability.features import standardize_features


def test_it_is_scikit_learns_scaling():
    features = np.random.default_rng(0).normal(3, 5, size=(40, 6))
    np.testing.assert_allclose(standardize_features(features), StandardScaler().fit_transform(features), atol=1e-12)


@pytest.mark.parametrize("magnitude", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_any_magnitude(magnitude):
    features = magnitude * np.array([[1.0], [2.0], [4.0]])
    expected = standardize_features(np.array([[1.0], [2.0], [4.0]]))
    np.testing.assert_allclose(standardize_features(features), expected, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300, 1e-300])
def test_a_column_that_does_not_vary_becomes_zero(value):
    features = np.column_stack([np.full(7, value), np.arange(7.0)])
    result = standardize_features(features)
    assert np.array_equal(result[:, 0], np.zeros(7)) and result[:, 1].std() == pytest.approx(1.0)
