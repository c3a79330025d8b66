"""What is trained: all of a model, its head on frozen features, or LoRA; with the data in the form that it takes."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from .data import Rows, Splits, load_splits
from .experiment import Experiment
from .models import MODELS, model_path

CACHE_VARIABLE = "HF_IOMT_CACHE"
_LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}


@dataclass
class Task:
    """A model with its data, ready for a Trainer."""

    model: nn.Module
    train: Dataset[dict[str, Any]]
    validation: Dataset[dict[str, Any]]
    test: Dataset[dict[str, Any]]
    collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    compute_metrics: Callable[[Any], dict[str, float]] | None


class Samples(Dataset[dict[str, Any]]):
    """Dictionaries of tensors, or of what `transform` makes of them."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def build_task(experiment: Experiment, seed: int) -> Task:
    """The model with the initial weights of this seed, and the data, which are the same for all seeds."""
    from transformers import set_seed

    train, validation, test = (_samples(experiment, split) for split in ("train", "validation", "test"))
    # After all that may draw numbers: the weights of a seed do not depend on what a process did before.
    set_seed(seed)
    model = _model(experiment, _splits(experiment).classes, train)
    if experiment.tuning == "lora":
        model = _add_lora(model, experiment)
    language = MODELS[experiment.model].kind == "language"
    padding = 0 if MODELS[experiment.model].kind == "images" else _tokenizer(experiment).pad_token_id
    return Task(
        model,
        train,
        validation,
        test,
        functools.partial(collate, padding=padding),
        None if language else classification_metrics,
    )


def _splits(experiment: Experiment) -> Splits:
    return load_splits(experiment.data, experiment.train, experiment.validation, experiment.test)


@functools.lru_cache(maxsize=6)
def _samples(experiment: Experiment, split: str) -> Samples:
    rows = getattr(_splits(experiment), split)
    kind = MODELS[experiment.model].kind
    if kind == "images":
        return (
            _cached(experiment, split, rows, _features) if experiment.tuning == "head" else _images(experiment, rows)
        )
    if kind == "texts":
        return _cached(experiment, split, rows, _hidden_states) if experiment.cached else _texts(experiment, rows)
    return _language(experiment, rows)


def _model(experiment: Experiment, classes: int, train: Samples) -> nn.Module:
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
    )

    from .scratch import SCRATCH, Head, cut_layers, freeze_batch_norm, resize_position_embeddings

    if experiment.model in SCRATCH:
        return SCRATCH[experiment.model](classes)
    if experiment.tuning == "head":
        return Head(train[0]["features"].shape[0], classes, _count_backbone(model_path(experiment.model)))
    known = MODELS[experiment.model]
    auto: Any = {
        "images": AutoModelForImageClassification,
        "texts": AutoModelForSequenceClassification,
        "language": AutoModelForCausalLM,
    }[known.kind]
    arguments = {} if known.kind == "language" else {"num_labels": classes, "ignore_mismatched_sizes": True}
    model = auto.from_pretrained(model_path(experiment.model), dtype=experiment.dtype, **arguments)
    if experiment.freeze_batch_norm:
        freeze_batch_norm(model)
    if model.config.model_type == "vit":
        resize_position_embeddings(model, experiment.size)
    if known.kind == "texts":
        model.config.pad_token_id = _tokenizer(experiment).pad_token_id
    if experiment.cached:
        cut_layers(model, known.frozen_layers)
    return model  # type: ignore[no-any-return]


@functools.cache
def _count_backbone(path: str) -> int:
    from transformers import AutoConfig, AutoModelForImageClassification

    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(path))
    return sum(parameter.numel() for parameter in model.base_model.parameters())


def _add_lora(model: Any, experiment: Experiment) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    known = MODELS[experiment.model]
    task_type = "CAUSAL_LM" if known.kind == "language" else "SEQ_CLS"
    # Layers that were cut away need not be left out; where they are there, LoRA adapts those above them only.
    count = model.config.num_hidden_layers
    layers = list(range(known.frozen_layers, count)) if known.frozen_layers and not experiment.cached else None
    return get_peft_model(
        model,
        LoraConfig(task_type=task_type, target_modules=list(known.lora_targets), layers_to_transform=layers, **_LORA),
    )


def _images(experiment: Experiment, rows: Rows) -> Samples:
    pixels = _pixels(experiment, rows)
    return Samples([{"pixel_values": row, "labels": label} for row, label in zip(pixels, rows.labels, strict=True)])


def _pixels(experiment: Experiment, rows: Rows) -> torch.Tensor:
    """Of shape (N, 3, size, size), normalised as the model wants it."""
    from transformers import AutoImageProcessor

    from .scratch import SCRATCH

    mean, std = [0.5] * 3, [0.5] * 3
    if experiment.model not in SCRATCH:
        processor = AutoImageProcessor.from_pretrained(model_path(experiment.model))
        mean, std = processor.image_mean, processor.image_std
    pixels = torch.stack([_square(picture, experiment.size) for picture in rows.items]).float() / 255
    shift, scale = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (mean, std))
    return (pixels - shift) / scale


def _square(picture: Any, size: int) -> torch.Tensor:
    """The middle square of a picture, of shape (3, size, size), 0 to 255."""
    from PIL import Image, ImageOps

    return torch.from_numpy(
        np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR)).copy()
    ).permute(2, 0, 1)


def _language(experiment: Experiment, rows: Rows) -> Samples:
    """The first texts of the rows, one after the other, in blocks of `size` tokens."""
    tokenizer = _tokenizer(experiment)
    tokens = [token for item in rows.items for token in tokenizer(item[0])["input_ids"]]
    blocks = torch.tensor(tokens[: len(tokens) // experiment.size * experiment.size]).reshape(-1, experiment.size)
    return Samples([{"input_ids": block, "labels": block} for block in blocks])


@functools.lru_cache(maxsize=2)
def _tokenizer_of(path: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _tokenizer(experiment: Experiment) -> Any:
    return _tokenizer_of(model_path(experiment.model))


def _texts(experiment: Experiment, rows: Rows) -> Samples:
    tokenizer = _tokenizer(experiment)
    first, second = zip(*rows.items, strict=True)
    encoded = tokenizer(list(first), list(second), truncation=True, max_length=experiment.size)["input_ids"]
    items = []
    for tokens, label in zip(encoded, rows.labels, strict=True):
        ids = torch.tensor(tokens)
        items.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": label})
    return Samples(items)


def collate(rows: list[dict[str, Any]], padding: int = 0) -> dict[str, torch.Tensor]:
    """Stack; where lengths differ, pad token ids by `padding` on the right, and masks and features by zeros."""
    batch = {}
    for name in rows[0]:
        values = [torch.as_tensor(row[name]) for row in rows]
        value = padding if name == "input_ids" else 0
        batch[name] = (
            pad_sequence(values, batch_first=True, padding_value=value) if values[0].ndim else torch.stack(values)
        )
    return batch


def classification_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy, F1 (of class 1, or the mean over more than two), and the share of the class predicted most."""
    from sklearn.metrics import accuracy_score, f1_score

    logits, labels = prediction.predictions, prediction.label_ids
    predicted = np.argmax(logits[0] if isinstance(logits, tuple) else logits, axis=-1)
    average = "binary" if set(labels) <= {0, 1} else "macro"
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average=average, zero_division=0.0)),
        # 1 marks a collapse.
        "largest_predicted_share": float(np.bincount(predicted).max() / len(predicted)),
    }


def _cached(
    experiment: Experiment, split: str, rows: Rows, compute: Callable[[Experiment, Rows], list[dict[str, Any]]]
) -> Samples:
    """What frozen layers compute, which is the same in every run, from a file where an earlier run has written it."""
    # Whatever what they compute depends on: weights, data, and the code of libraries.
    weights = [(path.name, path.stat().st_size, path.stat().st_mtime) for path in _weight_files(experiment)]
    samples = [item if isinstance(item, tuple) else item.tobytes() for item in rows.items]
    described = (experiment.model, model_path(experiment.model), MODELS[experiment.model], weights, experiment.size)
    versions = [version(package) for package in ("torch", "transformers", "pillow")]
    name = hashlib.sha256(repr((described, versions, rows.labels, samples)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get(CACHE_VARIABLE, Path.home() / ".cache" / "hf_iomt"))
    path = folder / f"{experiment.data}-{experiment.model}-{split}-{name}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(compute(experiment, rows), temporary)
        temporary.replace(path)
    return Samples(torch.load(path, weights_only=True))


def _weight_files(experiment: Experiment) -> list[Path]:
    """The files of weights in a local folder, none for a model of the hub."""
    return sorted(Path(model_path(experiment.model)).glob("*.safetensors"))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _features(experiment: Experiment, rows: Rows) -> list[dict[str, Any]]:
    """What the head is given, in evaluation mode."""
    from transformers import AutoModelForImageClassification

    from hf_iomt.transferability import ForwardRecorder, choose_pooling, pool

    from .scratch import resize_position_embeddings

    model = AutoModelForImageClassification.from_pretrained(model_path(experiment.model)).eval().to(_device())
    if model.config.model_type == "vit":
        resize_position_embeddings(model, experiment.size)
    found = []
    pixels = _pixels(experiment, rows)
    with ForwardRecorder(model) as recorder, torch.no_grad():
        for batch in pixels.split(32):
            model(pixel_values=batch.to(_device()))
            output = recorder.backbone_output
            found.append(pool(output, choose_pooling(output, model.config), None).float().cpu())
    # Copies, or each would be saved with all the others.
    rows_of = [row.clone() for row in torch.cat(found)]
    return [{"features": row, "labels": label} for row, label in zip(rows_of, rows.labels, strict=True)]


def _hidden_states(experiment: Experiment, rows: Rows) -> list[dict[str, Any]]:
    """What the layers that LoRA leaves alone compute, in evaluation mode, one (tokens, D) tensor for each text."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_path(experiment.model)).eval().to(_device())
    layers, items = MODELS[experiment.model].frozen_layers, _texts(experiment, rows).items
    found = []
    with torch.no_grad():
        for start in range(0, len(items), 32):
            part = items[start : start + 32]
            inputs = {
                name: value.to(_device())
                for name, value in collate(part, _tokenizer(experiment).pad_token_id).items()
                if name != "labels"
            }
            states = model(**inputs, output_hidden_states=True).hidden_states[layers].cpu()
            for item, state in zip(part, states, strict=True):
                length = len(item["input_ids"])
                found.append(
                    {
                        "inputs_embeds": state[:length].clone(),
                        "attention_mask": item["attention_mask"],
                        "labels": item["labels"],
                    }
                )
    return found
