from __future__ import annotations

import math
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.datasets import load_iris
from sklearn.metrics import mutual_info_score

from hf_iomt.transferability import leep

HAND = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]


def literal(source, labels):
    """The paper's two formulas, sample by sample."""
    samples, classes = len(source), range(len(source[0]))
    joint = {(y, z): 0.0 for y in set(labels) for z in classes}
    for row, label in zip(source, labels, strict=True):
        for z in classes:
            joint[label, z] += row[z] / samples
    marginal = [sum(joint[y, z] for y in set(labels)) for z in classes]
    total = 0.0
    for row, label in zip(source, labels, strict=True):
        total += math.log(sum(joint[label, z] / marginal[z] * row[z] for z in classes if marginal[z] > 0))
    return total / samples


def make(samples, source_classes, target_classes, seed, sharpness=2.0):
    rng = np.random.default_rng(seed)
    return softmax(sharpness * rng.normal(size=(samples, source_classes)), axis=1), rng.integers(
        target_classes, size=samples
    )


class TestValues:
    def test_by_hand(self):
        assert leep(np.array(HAND), [0, 1, 0, 1]) == pytest.approx(-0.4565770106808408, rel=1e-12)

    def test_iris(self):
        features, labels = load_iris(return_X_y=True)
        assert leep(softmax(features, axis=1), labels) == pytest.approx(-0.9855696037, abs=1e-9)

    @given(st.integers(2, 20), st.integers(1, 9), st.integers(2, 5), st.integers(0, 10**6))
    def test_it_is_the_papers_formula(self, samples, source_classes, target_classes, seed):
        source, labels = make(samples, source_classes, target_classes, seed)
        assume(len(set(labels.tolist())) > 1)
        assert leep(source, labels) == pytest.approx(literal(source.tolist(), labels.tolist()), abs=1e-12)

    @given(st.integers(2, 30), st.integers(1, 6), st.integers(2, 4), st.integers(0, 10**6))
    def test_hard_predictions_give_the_negative_conditional_entropy(self, samples, sources, targets, seed):
        rng = np.random.default_rng(seed)
        predicted, labels = rng.integers(sources, size=samples), rng.integers(targets, size=samples)
        assume(len(set(labels.tolist())) > 1)
        entropy = -sum(p * math.log(p) for p in np.bincount(labels) / samples if p > 0)
        expected = mutual_info_score(predicted, labels) - entropy
        assert leep(np.eye(sources)[predicted], labels) == pytest.approx(expected, abs=1e-9)

    def test_predictions_without_meaning_give_the_negative_entropy(self):
        labels = [0, 0, 0, 1]
        expected = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
        assert leep(np.full((4, 5), 0.2), labels) == pytest.approx(expected, rel=1e-12)

    def test_perfect_predictions_give_zero(self):
        labels = [0, 2, 1, 2]
        assert leep(np.eye(3)[labels], labels) == pytest.approx(0.0, abs=1e-15)

    def test_the_order_of_source_classes_does_not_matter(self):
        source, labels = make(30, 8, 3, seed=0)
        shuffled = source[:, np.random.default_rng(1).permutation(8)]
        assert leep(shuffled, labels) == pytest.approx(leep(source, labels), rel=1e-12)

    def test_nor_do_the_names_of_target_classes(self):
        source, labels = make(30, 8, 3, seed=0)
        assert leep(source, np.array([9, -4, 500])[labels]) == leep(source, labels)


class TestWideSpaces:
    def test_a_source_class_without_mass_changes_nothing(self):
        source, labels = make(20, 4, 3, seed=0)
        padded = np.hstack([source, np.zeros((20, 3))])
        assert leep(padded, labels) == pytest.approx(leep(source, labels), rel=1e-12)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_types(self, dtype):
        source, labels = make(50, 20, 3, seed=0)
        assert leep(source.astype(dtype), labels) == pytest.approx(leep(source, labels), abs=1e-3)

    def test_sparse(self):
        source, labels = make(40, 30, 3, seed=0, sharpness=5.0)
        source[source < 0.01] = 0
        source /= source.sum(1, keepdims=True)
        assert leep(csr_array(source), labels) == pytest.approx(leep(source, labels), rel=1e-12)

    def test_blocks_of_columns_give_the_same(self, monkeypatch):
        source, labels = make(40, 100, 3, seed=0)
        whole = leep(source, labels), leep(csr_array(source), labels)
        monkeypatch.setattr(sys.modules[leep.__module__], "_BLOCK", 40 * 7)
        assert (leep(source, labels), leep(csr_array(source), labels)) == pytest.approx(whole, rel=1e-12)

    def test_a_vocabulary_needs_no_copy_in_double_precision(self):
        source = np.full((500, 60_000), 1 / 60_000, dtype=np.float32)
        labels = np.arange(500) % 2
        tracemalloc.start()
        value = leep(source, labels)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert value == pytest.approx(-math.log(2), abs=1e-6)
        # Half of the 240 MB that a copy would take, and far from growing with the vocabulary.
        assert peak < 150e6


class TestRefusals:
    @pytest.mark.parametrize(
        "source, labels, message",
        [
            (np.full(3, 1 / 3), [0, 1, 2], r"must have shapes \(N, Z\) and \(N,\), but got \(3,\) and \(3,\)"),
            (np.full((3, 2), 0.5), [0, 1], r"must have shapes"),
            (np.full((3, 2), 0.5), np.zeros((3, 2), dtype=int), r"must have shapes"),
            (np.zeros((0, 2)), np.zeros(0, dtype=int), r"must have shapes"),
            (np.full((3, 2), 0.5), [0.5, 1.0, 2.0], r"LEEP is for one class per sample: `labels` must be integers"),
            (np.full((3, 2), 0.7), [0, 1, 0], r"must sum to 1, but the sums lie between 1\.4 and 1\.4"),
            (np.zeros((3, 2)), [0, 1, 0], r"must sum to 1"),
            (np.full((3, 2), np.nan), [0, 1, 0], r"must sum to 1"),
            (np.full((3, 2), 0.5), [1, 1, 1], r"The 3 samples are all of one class: LEEP needs two"),
            (np.array([[1.5, -0.5]] * 3), [0, 1, 0], r"must not be negative"),
        ],
    )
    def test_what_cannot_be(self, source, labels, message):
        with pytest.raises(ValueError, match=message):
            leep(source, labels)
