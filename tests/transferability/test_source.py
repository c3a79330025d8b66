from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_iomt.transferability import leep
from hf_iomt.transferability.source import most_probable, sparse_probabilities


def test_a_narrow_space_is_kept_whole():
    probabilities = torch.randn(20, 30, generator=torch.manual_seed(0)).softmax(-1)
    values, classes = (item.numpy() for item in most_probable(probabilities))
    whole = sparse_probabilities(values, classes)
    np.testing.assert_allclose(whole.toarray()[:, :30], probabilities.numpy(), rtol=1e-6)
    np.testing.assert_allclose(whole.toarray()[:, 30:], 0, atol=1e-6)


def test_of_a_wide_space_the_rest_is_one_class():
    logits = 4 * torch.randn(6, 5000, generator=torch.manual_seed(0))
    values, classes = (item.numpy() for item in most_probable(logits.softmax(-1)))
    assert values.shape == classes.shape == (6, 1024)
    dense = sparse_probabilities(values, classes).toarray()
    np.testing.assert_allclose(dense.sum(1), 1, rtol=1e-6)
    for row, kept, probabilities in zip(dense, classes, logits.softmax(-1).numpy(), strict=True):
        np.testing.assert_allclose(row[kept], probabilities[kept], rtol=1e-6)
        assert row[-1] == pytest.approx(1 - np.sort(probabilities)[::-1][:1024].sum(), abs=1e-5)


def test_leep_is_hardly_changed_by_it():
    labels = np.arange(200) % 3
    logits = 4 * torch.randn(200, 4000, generator=torch.manual_seed(0))
    logits[:, :3] += 9 * torch.eye(3)[labels]
    probabilities = logits.softmax(-1)
    values, classes = (item.numpy() for item in most_probable(probabilities))
    kept = leep(sparse_probabilities(values, classes), labels)
    assert kept == pytest.approx(leep(probabilities.numpy(), labels), abs=0.01)
