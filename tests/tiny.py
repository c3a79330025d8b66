"""Models and data that train in milliseconds, for the tests of what needs a Trainer."""

from __future__ import annotations

import numpy as np
import peft
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import BertConfig, BertForSequenceClassification

LENGTH = 6


class Texts(Dataset):
    """Sequences of token ids; the label says whether the first token is in the upper half of the vocabulary."""

    def __init__(self, count=64, seed=0, regression=False):
        ids = np.random.default_rng(seed).integers(2, 32, size=(count, LENGTH))
        self.ids = torch.tensor(ids)
        self.labels = self.ids[:, 0].float() / 32 if regression else (self.ids[:, 0] >= 16).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {
            "input_ids": self.ids[index],
            "attention_mask": torch.ones(LENGTH, dtype=torch.long),
            "labels": self.labels[index],
        }


class Chance(Texts):
    """Labels that nothing tells."""

    def __init__(self, count=64, seed=0):
        super().__init__(count, seed)
        self.labels = torch.tensor(np.random.default_rng(seed).integers(0, 2, size=count))


class Stream(IterableDataset):
    """The same without a length."""

    def __init__(self, texts):
        self.texts = texts

    def __iter__(self):
        return (self.texts[index] for index in range(len(self.texts)))


def bert(labels=2, seed=0, dropout=0.1):
    """A BERT of one layer from a config; two with the same seed are equal."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH + 2,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config)


def lora(seed=0, **kwargs):
    """The same with an adapter on the attention; the classifier trains too, as PEFT has it for this task."""
    model = bert(seed=seed, **kwargs)
    return peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))


def values(model):
    """Copies of the trainable parameters by name."""
    return {name: item.detach().to("cpu", copy=True) for name, item in model.named_parameters() if item.requires_grad}


def loss_of(model, texts=None):
    """Loss over all samples, without dropout."""
    texts, training, device = texts or Texts(), model.training, next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        inputs = {"input_ids": texts.ids, "attention_mask": torch.ones_like(texts.ids), "labels": texts.labels}
        loss = model(**{name: item.to(device) for name, item in inputs.items()}).loss
    model.train(training)
    return float(loss)


def assert_same(first, second):
    """Equal to the last bit."""
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name].cpu(), second[name].cpu())] == []


def outcome(trainer):
    """Weights and history; the time that was taken is no part of it."""
    return values(trainer.model), [{**record, "seconds": 0} for record in trainer.iomt_history]


def assert_same_outcome(first, second):
    """Equal weights, to the last bit, and equal decisions."""
    assert_same(first[0], second[0])
    assert first[1] == second[1]


def quiet(path, **settings):
    """Arguments of a short run on the CPU that writes and logs nothing unless it is asked to."""
    return {
        "output_dir": str(path),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "per_device_train_batch_size": 4,
        "max_steps": 40,
        **settings,
    }
