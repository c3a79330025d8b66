from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from hf_iomt import Interleaving, IOMTTrainer, IOMTTrainingArguments

ACCUMULATION = 4


class Bag(nn.Module):
    """Takes no further arguments, so that Trainer asks nobody but a loss function to divide by a number of items."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(32, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask=None, labels=None, targets=None):
        logits = self.head(self.embedding(input_ids).mean(1))
        wanted = labels if targets is None else targets
        loss = None if wanted is None else nn.functional.cross_entropy(logits, wanted)
        return {"loss": loss, "logits": logits, "targets": targets}


class Unlabelled(tiny.Texts):
    """The labels under a name that Trainer does not count."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {"targets": item.pop("labels"), **item}


class Divided(IOMTTrainer):
    """Says that Trainer is to divide, although there is a function."""

    loss_is_scaled_for_ga = False


class Trusted(IOMTTrainer):
    """Says that its loss has been divided."""

    loss_is_scaled_for_ga = True

    def compute_loss(self, *args, **kwargs):
        loss, outputs = super().compute_loss(*args, **{**kwargs, "return_outputs": True})
        loss = loss / getattr(self, "current_gradient_accumulation_steps", 1)
        return (loss, outputs) if kwargs.get("return_outputs") else loss


def ignoring(outputs, labels, num_items_in_batch=None):
    wanted = outputs["targets"] if labels is None else labels
    return nn.functional.cross_entropy(outputs["logits"], wanted)


def counting(outputs, labels, num_items_in_batch=None):
    if num_items_in_batch is None:
        return ignoring(outputs, labels)
    return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


class WithKwargs(Bag):
    def forward(self, input_ids, attention_mask=None, labels=None, targets=None, **kwargs):
        return super().forward(input_ids, attention_mask, labels, targets)


@pytest.mark.parametrize(
    ("model", "loss", "data", "cls"),
    [
        (Bag, None, tiny.Texts, IOMTTrainer),
        (Bag, ignoring, tiny.Texts, IOMTTrainer),
        (Bag, counting, tiny.Texts, IOMTTrainer),
        (Bag, None, Unlabelled, IOMTTrainer),
        (Bag, ignoring, Unlabelled, IOMTTrainer),
        (Bag, counting, Unlabelled, IOMTTrainer),
        (WithKwargs, None, tiny.Texts, IOMTTrainer),
        (WithKwargs, None, Unlabelled, IOMTTrainer),
        (WithKwargs, ignoring, tiny.Texts, IOMTTrainer),
        (WithKwargs, counting, tiny.Texts, IOMTTrainer),
        (Bag, ignoring, tiny.Texts, Divided),
        (WithKwargs, None, tiny.Texts, Divided),
        (Bag, None, tiny.Texts, Trusted),
    ],
)
def test_it_is_the_mean_over_the_samples_of_the_step(tmp_path, monkeypatch, model, loss, data, cls):
    passed = []
    original = Interleaving.after_backward
    monkeypatch.setattr(
        Interleaving, "after_backward", lambda self, loss: (passed.append(float(loss)), original(self, loss))
    )
    args = IOMTTrainingArguments(
        **tiny.quiet(
            tmp_path,
            # Rates too small to change anything.
            iomt_candidates="sgd:lr=1e-12|2e-12",
            iomt_race_steps=0,
            iomt_transferability="off",
            gradient_accumulation_steps=ACCUMULATION,
            # All data in the steps of an epoch, of which the last is short.
            max_steps=4,
            remove_unused_columns=False,
        )
    )
    texts = data(60)
    trainer = cls(model(), args, train_dataset=texts, compute_loss_func=loss)
    trainer.train()
    with torch.no_grad():
        expected = float(model()(texts.ids, labels=texts.labels)["loss"])
    sizes = [16, 16, 16, 12]
    assert len(passed) == len(sizes)
    assert sum(a * b for a, b in zip(passed, sizes, strict=True)) / 60 == pytest.approx(expected, rel=1e-4)
    assert all(0.5 * expected < value < 2 * expected for value in passed)
