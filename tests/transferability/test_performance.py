from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, r2_score

from hf_iomt.transferability import choose_metric, map_metric
from hf_iomt.transferability.performance import performance, performance_rows


def in_batches(task, logits, labels, size=7):
    """As in an evaluation: batch by batch."""
    rows = [
        performance_rows(task, logits[start : start + size], labels[start : start + size])
        for start in range(0, len(labels), size)
    ]
    return performance(task, torch.cat(rows))


class TestPerformance:
    def test_classification(self):
        logits, labels = torch.randn(50, 4, generator=torch.manual_seed(0)), torch.arange(50) % 4
        expected = accuracy_score(labels, logits.argmax(1))
        assert in_batches("classification", logits, labels) == pytest.approx(expected)

    def test_labels_that_are_ignored_do_not_count(self):
        logits, labels = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, -100, 1])
        assert in_batches("classification", logits, labels) == pytest.approx(2 / 3)

    @pytest.mark.parametrize("task", ["tokens", "language_model"])
    def test_tokens(self, task):
        generator = torch.manual_seed(0)
        logits, labels = torch.randn(20, 6, 5, generator=generator), torch.randint(5, (20, 6), generator=generator)
        labels[torch.rand(20, 6, generator=generator) < 0.3] = -100
        real = labels != -100
        expected = accuracy_score(labels[real], logits.argmax(-1)[real])
        assert in_batches(task, logits, labels) == pytest.approx(expected)

    def test_several_labels(self):
        generator = torch.manual_seed(0)
        logits, labels = (
            torch.randn(40, 5, generator=generator),
            (torch.rand(40, 5, generator=generator) < 0.2).float(),
        )
        expected = f1_score(labels.numpy(), (logits > 0).numpy(), average="micro")
        assert in_batches("multi_label", logits, labels) == pytest.approx(expected)

    @pytest.mark.parametrize("outputs", [1, 3])
    def test_regression(self, outputs):
        generator = torch.manual_seed(0)
        labels = torch.randn(40, outputs, generator=generator)
        logits = labels + 0.5 * torch.randn(40, outputs, generator=generator)
        expected = r2_score(labels.numpy(), logits.numpy())
        assert 0.5 < expected < 1
        assert in_batches("regression", logits, labels) == pytest.approx(expected, rel=1e-5)
        if outputs == 1:
            assert in_batches("regression", logits, labels[:, 0]) == pytest.approx(expected, rel=1e-5)

    def test_worse_than_the_mean_is_zero(self):
        labels = torch.randn(40, 1, generator=torch.manual_seed(0))
        assert in_batches("regression", -3 * labels, labels) == 0.0

    @pytest.mark.parametrize(
        "task, logits, labels, message",
        [
            ("classification", torch.zeros(2, 3), torch.tensor([-100, -100]), "no sample has a label that counts"),
            ("multi_label", -torch.ones(2, 3), torch.zeros(2, 3), "no sample has a label that counts"),
            ("regression", torch.zeros(1, 1), torch.zeros(1), "R² needs two samples or more"),
            ("regression", torch.full((3, 1), math.nan), torch.zeros(3), "finite predictions and labels"),
        ],
    )
    def test_where_there_is_none(self, task, logits, labels, message):
        with pytest.raises(ValueError, match=message):
            in_batches(task, logits, labels)


METRICS = {"eval_loss": 0.7, "eval_f1": 0.5, "eval_accuracy": 0.6, "eval_runtime": 3.0, "epoch": 1.0}


class TestChoosing:
    @pytest.mark.parametrize(
        "asked, best, chosen",
        [
            (None, None, "eval_accuracy"),
            (None, "f1", "eval_f1"),
            (None, "eval_f1", "eval_f1"),
            (None, "loss", "eval_accuracy"),
            (None, "eval_loss", "eval_accuracy"),
            (None, "bleu", "eval_accuracy"),
            ("f1", "accuracy", "eval_f1"),
            ("eval_f1", None, "eval_f1"),
            ("loss", None, "eval_loss"),
        ],
    )
    def test_the_choice(self, asked, best, chosen):
        assert choose_metric(METRICS, asked, best) == chosen

    def test_without_accuracy_the_first_counts(self):
        metrics = {"eval_loss": 1.0, "eval_rouge2": 0.1, "eval_rouge1": 0.3, "eval_samples_per_second": 5.0}
        assert choose_metric(metrics, None, None) == "eval_rouge2"

    @pytest.mark.parametrize("metrics", [{}, {"eval_loss": 1.0, "eval_runtime": 2.0}, {"eval_matrix": [1, 2]}])
    def test_none(self, metrics):
        assert choose_metric(metrics, None, None) is None

    def test_what_is_asked_for_must_be_there(self):
        message = (
            r"`iomt_performance_metric='bleu'` must be a number that the evaluation returns: loss, f1, accuracy\."
        )
        with pytest.raises(ValueError, match=message):
            choose_metric(METRICS, "bleu", None)
        with pytest.raises(ValueError, match=r"returns: it returns none\."):
            choose_metric({}, "bleu", None)


class TestMapping:
    @pytest.mark.parametrize(
        "name, value, greater, expected",
        [
            ("accuracy", 0.25, None, 0.25),
            ("eval_matthews_correlation", -0.5, True, 0.0),
            ("bleu", 37.5, None, 0.375),
            ("f1", 1.0, None, 1.0),
            ("exact_match", 250.0, None, 1.0),
            ("eval_loss", math.log(4), None, 0.25),
            ("loss", 0.0, None, 1.0),
            ("dpo_loss", -3.0, None, 1.0),
            ("perplexity", 5.0, None, 0.2),
            ("perplexity", 0.5, None, 1.0),
            ("wer", 0.3, None, 0.7),
            ("eval_cer", 1.5, None, 0.0),
            ("mse", 3.0, None, 0.25),
            ("eval_rmse", 0.0, None, 1.0),
            ("distance", 1.0, False, 0.5),
            ("distance", 1.0, None, 1.0),
        ],
    )
    def test_values(self, name, value, greater, expected):
        assert map_metric(name, value, greater) == pytest.approx(expected)

    @pytest.mark.parametrize("name", ["accuracy", "loss", "perplexity", "wer", "mse", "other"])
    @pytest.mark.parametrize("greater", [True, False, None])
    def test_any_number_becomes_a_share(self, name, greater):
        values = [*np.linspace(-5, 500, 40), 1e300, -1e300, 1e-300]
        assert all(0 <= map_metric(name, float(value), greater) <= 1 for value in values)

    @pytest.mark.parametrize("name", ["loss", "perplexity", "wer", "mse"])
    def test_lower_is_better_stays_so(self, name):
        mapped = [map_metric(name, value) for value in (0.0, 0.3, 1.0, 1.7, 40.0)]
        assert mapped == sorted(mapped, reverse=True) and mapped[0] > mapped[-1]

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_no_number(self, value):
        with pytest.raises(ValueError, match=f"accuracy is {value}"):
            map_metric("accuracy", value)
