"""Trainers to assess, and their numbers by hand."""

from __future__ import annotations

import tiny
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

THREE = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class Rows(Dataset):
    """Any columns of equal length."""

    def __init__(self, **columns):
        self.columns = columns
        self.read = []

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index):
        self.read.append(index)
        return {name: column[index] for name, column in self.columns.items()}


def make(path, model=None, data=None, evaluation=None, cls=IOMTTrainer, parts=None, **settings):
    args = IOMTTrainingArguments(**tiny.quiet(path, **{"max_steps": 30, "iomt_candidates": THREE, **settings}))
    data = tiny.Texts() if data is None else data
    return cls(
        tiny.bert() if model is None else model, args, train_dataset=data, eval_dataset=evaluation, **(parts or {})
    )


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def by_hand(model, texts):
    """Pooled features and logits of all texts, without dropout."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    training = model.training
    model.eval()
    with torch.no_grad():
        inputs = {"input_ids": texts.ids, "attention_mask": torch.ones_like(texts.ids)}
        features, logits = base.bert(**inputs).pooler_output, model(**inputs).logits
    model.train(training)
    return features, logits


def causal_lm():
    texts = tiny.Texts()
    model = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=32))
    return model, Rows(input_ids=texts.ids, labels=texts.ids), {}


def columns(count, seed):
    texts = tiny.Texts(count, seed)
    return {"input_ids": texts.ids, "labels": texts.labels}


class StopAtOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True
