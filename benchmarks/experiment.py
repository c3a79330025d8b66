"""Experiments: one small YAML file each, in the folder of its tier."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "experiments"
TIERS = ("smoke", "cpu", "gpu")
TUNINGS = ("full", "head", "lora")


@dataclass(frozen=True)
class Experiment:
    """
    A task and how it is trained; every method of it has this in common.

    Args:
        name (`str`): Name of the file, without its ending.
        tier (`str`): `smoke`, `cpu` or `gpu`.
        data (`str`): A data set of `data.SOURCES`.
        model (`str`): A model of `models.MODELS`.
        tuning (`str`): `full`, `head` (on features of the frozen backbone) or `lora`.
        methods (`tuple[str, ...]`): Methods and groups of methods, see `methods`.
        batch_size (`int`): Samples of an optimizer step.
        size (`int`): Pixels of an image's side, or tokens at most.
        steps (`int`): Optimizer steps; 0 where `epochs` says how long.
        epochs (`int`): Epochs at most; training then ends by the convergence rule of the paper's section 5.1.
        seeds (`tuple[int, ...]`): Seeds of the initial weights, of the order of the batches and of every draw.
        schedule (`str`): Learning-rate schedule of the methods that do not name their own.
        evaluations (`int`): How often the validation split is looked at, at equal distances.
        metric (`str`): What methods are compared by: `accuracy`, `f1` or `perplexity`.
        train, validation, test (`int`, *optional*): Samples of each split, at most.
        freeze_batch_norm (`bool`): Keep batch normalisation as it was pre-trained.
        cached (`bool`): Compute what the layers below LoRA's do once: they then run without dropout.
        dtype (`str`): In what the weights are loaded.
        arguments (`tuple`): Further arguments of `TrainingArguments`, as pairs of name and value.
    """

    name: str
    tier: str
    data: str
    model: str
    tuning: str
    methods: tuple[str, ...]
    batch_size: int
    size: int
    steps: int = 0
    epochs: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    schedule: str = "linear"
    evaluations: int = 10
    metric: str = "accuracy"
    train: int | None = None
    validation: int = 500
    test: int | None = None
    freeze_batch_norm: bool = False
    cached: bool = False
    dtype: str = "float32"
    arguments: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Raises `ValueError` where a field has a value that it cannot have."""
        from .data import SOURCES
        from .models import MODELS

        for field_name, allowed in {
            "tier": TIERS,
            "tuning": TUNINGS,
            "data": SOURCES,
            "model": MODELS,
            "metric": ("accuracy", "f1", "perplexity"),
        }.items():
            value = getattr(self, field_name)
            if value not in allowed:
                raise ValueError(
                    f"{self.name}: `{field_name}` must be one of {', '.join(allowed)}, but got {value!r}."
                )
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(f"{self.name}: give `steps` or `epochs`, one of them.")


def load_experiment(path: Path) -> Experiment:
    """
    Read one file.

    Raises:
        ValueError: A field is unknown, missing or has a value that it cannot have.
    """
    values = yaml.safe_load(path.read_text())
    unknown = set(values) - {item.name for item in fields(Experiment)}
    if unknown:
        raise ValueError(f"{path}: unknown field {sorted(unknown)[0]!r}.")
    values |= {name: tuple(values[name]) for name in ("methods", "seeds") if name in values}
    values["arguments"] = tuple(values.get("arguments", {}).items())
    try:
        return Experiment(name=path.stem, tier=path.parent.name, **values)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def load_tier(tier: str, folder: Path = FOLDER) -> list[Experiment]:
    """All experiments of a tier, by name."""
    return [load_experiment(path) for path in sorted((folder / tier).glob("*.yaml"))]
