"""Models that are built here, and what is done to pre-trained ones before they are trained."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers for 8 × 8 images, of which the first channel is read."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(1024, 40), nn.ReLU(), nn.Linear(40, classes))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of shape (n, classes) for images of shape (n, 3, 8, 8), and their mean loss."""
        logits = self.classifier(self.features(pixel_values[:, :1]))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Head(nn.Module):
    """
    A linear classifier of features that were computed before.

    Args:
        width (`int`): Of the features.
        classes (`int`): How many there are.
        frozen (`int`): Parameters of the backbone that computed the features. Their values are not there, but they
            count where someone asks how much of the model trains.
    """

    def __init__(self, width: int, classes: int, frozen: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, classes)
        self.backbone = _placeholder(frozen)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of shape (n, classes) for features of shape (n, width), and their mean loss."""
        logits = self.classifier(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def _placeholder(count: int) -> nn.Parameter:
    """So many parameters without values, which are asked for their number only."""
    return nn.Parameter(torch.zeros(count, dtype=torch.int8), requires_grad=False)


def small_vit(classes: int) -> nn.Module:
    """A ViT of 3 layers and width 48 with 2 × 2 patches for 8 × 8 images."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8,
        patch_size=2,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=classes,  # type: ignore[call-arg]
    )
    return ViTForImageClassification(config)


SCRATCH: dict[str, Callable[[int], nn.Module]] = {"small_cnn": SmallCNN, "small_vit": small_vit}


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep batch normalisation at the statistics of pre-training; its scale and shift are trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = types.MethodType(lambda self, mode=True: self, module)  # type: ignore[method-assign]


def resize_position_embeddings(model: Any, size: int) -> None:
    """Make a ViT take images of `size` × `size` pixels, by interpolating its position embeddings."""
    embeddings = model.vit.embeddings
    patches = embeddings.patch_embeddings
    if tuple(patches.image_size) == (size, size):
        return
    count = (size // model.config.patch_size) ** 2
    with torch.no_grad():
        tokens = torch.zeros(1, count + 1, model.config.hidden_size)
        values = embeddings.interpolate_pos_encoding(tokens, size, size).clone()
    embeddings.position_embeddings = nn.Parameter(values)
    patches.image_size, patches.num_patches = (size, size), count
    embeddings.image_size = (size, size)
    model.config.image_size = size


class _Given(nn.Module):
    """
    Stands in for frozen layers whose output is the input, and for the number of their parameters.

    Args:
        frozen (`int`): How many the layers had.
    """

    def __init__(self, frozen: int) -> None:
        super().__init__()
        self.frozen = _placeholder(frozen)

    def forward(self, inputs_embeds: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return inputs_embeds


def cut_layers(model: Any, count: int) -> None:
    """Take the embeddings and the lowest `count` layers off a BERT: it is given their output as `inputs_embeds`."""
    backbone = model.base_model
    cut = [backbone.embeddings, *backbone.encoder.layer[:count]]
    backbone.embeddings = _Given(sum(item.numel() for module in cut for item in module.parameters()))
    backbone.encoder.layer = backbone.encoder.layer[count:]
    model.config.num_hidden_layers = len(backbone.encoder.layer)
