from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hf_iomt.transferability import find_task

INTEGERS, REALS = torch.tensor([0, 1, 1]), torch.tensor([0.5, 1.0, 2.0])
SEVERAL = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
TOKENS = torch.tensor([[0, 1, -100], [2, -100, -100]])


@pytest.mark.parametrize(
    "labels, logits, config, task",
    [
        (INTEGERS, (3, 4), {}, "classification"),
        (INTEGERS[:, None], (3, 4), {}, "classification"),
        (INTEGERS, None, {}, "classification"),
        (INTEGERS, (3, 1), {}, "regression"),
        (INTEGERS, None, {"num_labels": 1}, "regression"),
        (REALS, (3, 1), {}, "regression"),
        (REALS[:, None], (3, 1), {}, "regression"),
        (REALS, None, {}, "regression"),
        (SEVERAL, (3, 2), {}, "multi_label"),
        (SEVERAL.long(), (3, 2), {}, "multi_label"),
        (3 * SEVERAL, (3, 2), {}, "regression"),
        (SEVERAL, (3, 2), {"problem_type": "regression"}, "regression"),
        (REALS, (3, 1), {"problem_type": "regression"}, "regression"),
        (SEVERAL, (3, 2), {"problem_type": "multi_label_classification"}, "multi_label"),
        (INTEGERS, (3, 4), {"problem_type": "single_label_classification"}, "classification"),
        (TOKENS, (2, 3, 5), {}, "tokens"),
        (TOKENS, (2, 3, 5), {"vocab_size": 300}, "tokens"),
        (TOKENS, (2, 3, 300), {"vocab_size": 300}, "language_model"),
        # Padded to a round number.
        (TOKENS, (2, 3, 320), {"vocab_size": 300}, "language_model"),
        (TOKENS, (2, 3, 300), {"get_text_config": lambda: SimpleNamespace(vocab_size=300)}, "language_model"),
    ],
)
def test_tasks(labels, logits, config, task):
    assert find_task(labels, None if logits is None else torch.zeros(logits), SimpleNamespace(**config)) == task


def test_a_model_needs_no_configuration():
    assert find_task(INTEGERS, torch.zeros(3, 4)) == "classification"
    assert find_task(TOKENS, torch.zeros(2, 3, 5)) == "tokens"


@pytest.mark.parametrize(
    "labels, logits", [((2, 8, 8), (2, 5, 4, 4)), ((2, 3), None), ((2, 3), (2, 4)), ((2, 3, 4), (2, 3, 4, 7))]
)
def test_other_labels_are_refused(labels, logits):
    with pytest.raises(ValueError, match=r"the metrics are not defined for labels of shape \(2, "):
        find_task(torch.zeros(labels), None if logits is None else torch.zeros(logits))
