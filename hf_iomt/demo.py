"""The demo: LoRA tuning of a small ViT by IOMT, by AdamW at Trainer's defaults and by each optimizer of the paper."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from .optim import PRESETS, Candidate, get_family, parse_candidates
from .report import write_report
from .step_shares import format_shares
from .trainer import IOMTTrainer
from .training_args import IOMTTrainingArguments

# The model is pre-trained on the digits below this one, and tuned to all ten.
SOURCE_DIGITS = 7
BASE_MODEL_NAME = "base_model"

_PRETRAINING_LEARNING_RATE = 2e-3
_TRAIN_SHARE = 0.6

# Trainer takes any sized sequence; a list keeps the samples in memory as they are.
Samples: TypeAlias = list[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Result:
    """
    One row of the table.

    Args:
        method (`str`): What was run.
        accuracy (`float`): Accuracy on the test data.
        loss (`float`): Loss on the test data; not finite where training diverged.
        steps (`int`): Optimizer steps made.
        seconds (`float`): Time that training took.
    """

    method: str
    accuracy: float
    loss: float
    steps: int
    seconds: float


def run_demo(
    output_dir: str | os.PathLike[str] = "hf_iomt_demo",
    seed: int = 0,
    steps: int = 300,
    grid: Sequence[Candidate] | None = None,
    pretraining_steps: int = 400,
) -> list[Result]:
    """
    Tune the same model with IOMT and with single optimizers, and print what came out.

    Every run starts at the same weights and sees the same batches under the same schedule. The test data chooses
    nothing but the best and the worst of the grid, which the table says.

    The output folder then holds the adapter that IOMT trained, its base model in `base_model`, `iomt_history.json`,
    and a report of IOMT's run where matplotlib is installed. To use the adapter:

    ```python
    base = ViTForImageClassification.from_pretrained(
        "hf_iomt_demo/base_model", num_labels=10, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, "hf_iomt_demo")
    ```

    Args:
        output_dir (`str` or `os.PathLike`, *optional*, defaults to `"hf_iomt_demo"`): Folder for the results.
        seed (`int`, *optional*, defaults to 0): Seed of the data split, the model and the batches.
        steps (`int`, *optional*, defaults to 300): Optimizer steps of every tuning run.
        grid (`Sequence[Candidate]`, *optional*): Single optimizers to compare with; the paper's 15 if left out.
        pretraining_steps (`int`, *optional*, defaults to 400): Optimizer steps of pre-training.

    Returns:
        `list[Result]`: The rows of the table: IOMT, AdamW, the best and the worst of the grid.

    Raises:
        ValueError: The grid is empty.
        OSError: The output folder cannot be written.
    """
    grid = parse_candidates(PRESETS["paper"]) if grid is None else list(grid)
    if not grid:
        raise ValueError("`grid` is empty: give at least one candidate.")
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"A small ViT, pre-trained on the digits 0 to {SOURCE_DIGITS - 1}, is tuned with LoRA to all ten digits: "
        f"{len(grid) + 2} runs of {steps:,} steps.",
        flush=True,
    )
    with _quiet_on_one_thread():
        train, test = load_samples(seed)
        arguments: dict[str, Any] = {
            "output_dir": str(folder),
            "seed": seed,
            "max_steps": steps,
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": len(test),
            "label_names": ["labels"],
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            # The demo draws its own bars.
            "disable_tqdm": True,
            # Moving the batches to an accelerator would take longer than training so small a model.
            "use_cpu": True,
        }
        data: dict[str, Any] = {"train_dataset": train, "eval_dataset": test, "compute_metrics": _accuracy}
        model = _make_model(train, {**arguments, "max_steps": pretraining_steps}, folder / BASE_MODEL_NAME)

        tuned = copy.deepcopy(model)
        # What its report shows. Evaluations choose nothing, and their time is left out.
        shown = {
            "logging_strategy": "steps",
            "logging_steps": max(1, steps // 60),
            "eval_strategy": "steps",
            "eval_steps": max(1, steps // 10),
            # These are the test data.
            "iomt_overfitting_samples": 0,
        }
        iomt_trainer = IOMTTrainer(tuned, IOMTTrainingArguments(**{**arguments, **shown}), **data)
        # The steps of the range test are among them.
        iomt_trainer.args.max_steps = iomt_trainer.steps_beside_range_test(steps)
        with tqdm(desc="IOMT", total=iomt_trainer.args.max_steps) as bar:
            iomt = _tune("IOMT, default settings", iomt_trainer, bar)
            tested = iomt_trainer.range_test
            iomt = replace(iomt, steps=iomt.steps + (0 if tested is None else len(tested.rates)))
        tuned.save_pretrained(str(folder))

        trainer = Trainer(copy.deepcopy(model), TrainingArguments(**arguments), **data)
        with tqdm(desc="AdamW", total=steps) as bar:
            adamw = _tune(f"AdamW, Trainer's defaults (lr {trainer.args.learning_rate:g})", trainer, bar)

        singles = []
        with tqdm(desc="Grid", total=steps * len(grid)) as bar:
            for candidate in grid:
                bar.set_postfix_str(candidate.name)
                family = get_family(candidate.family)
                trainer = Trainer(
                    copy.deepcopy(model),
                    TrainingArguments(**arguments),
                    **data,
                    optimizer_cls_and_kwargs=(family.optimizer_class, family.arguments(candidate.settings)),
                )
                singles.append(_tune(candidate.name, trainer, bar))

    best, worst = pick_extremes(singles)
    results = [
        iomt,
        adamw,
        replace(best, method=f"Best of {len(grid)} in hindsight: {best.method}"),
        replace(worst, method=f"Worst of {len(grid)}: {worst.method}"),
    ]
    print(f"\n{format_table(results)}\n")
    print(
        f"Best and worst were picked by the test data, after {len(grid)} runs: {sum(run.steps for run in singles):,} "
        f"steps, {sum(run.seconds for run in singles):.0f} s."
    )
    print(f"Before IOMT trained: {iomt_trainer.transferability}.")
    if tested is not None:
        print(f"The range test, {tested.batches} batches, found the learning rate {tested.learning_rate:g}.")
    print(f"IOMT's steps, its race included: {format_shares(iomt_trainer.iomt_history)}.")
    print(f"The adapter that IOMT trained lies in {folder}, the model that it adapts in {folder / BASE_MODEL_NAME}.")
    print(_report(folder))
    return results


def load_samples(seed: int) -> tuple[Samples, Samples]:
    """
    scikit-learn's digits, scaled to [-1, 1] and split at random.

    Returns:
        Training and test samples, each with `pixel_values` of shape (1, 8, 8) and `labels` of shape ().
    """
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8.0 - 1.0
    samples = [
        {"pixel_values": image, "labels": label} for image, label in zip(pixels, torch.tensor(labels), strict=True)
    ]
    train, test = train_test_split(samples, train_size=_TRAIN_SHARE, stratify=labels, random_state=seed)
    return train, test


def pick_extremes(results: Sequence[Result]) -> tuple[Result, Result]:
    """The best and the worst by accuracy, then by loss; a loss that is not finite is the worst there is."""
    ranked = sorted(results, key=lambda run: (run.accuracy, -run.loss if math.isfinite(run.loss) else -math.inf))
    return ranked[-1], ranked[0]


def format_table(results: Sequence[Result]) -> str:
    """The results as a table of plain text."""
    rows = [("method", "test accuracy", "test loss", "optimizer steps", "seconds")]
    rows += [
        (run.method, f"{run.accuracy:.1%}", f"{run.loss:.3f}", f"{run.steps:,}", f"{run.seconds:.1f}")
        for run in results
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _report(folder: Path) -> str:
    """Write the report of IOMT's run where matplotlib is there; says where it lies, or how to get one."""
    try:
        return f"What it did, in figures and tables: {write_report([folder], folder)}."
    except ImportError:
        return f"For a report with figures: pip install 'hf-iomt[plots]', then hf-iomt report {folder}."


def _make_model(train: Samples, arguments: dict[str, Any], folder: Path) -> PeftModel:
    """Pre-train on the source digits, save that model, and put LoRA and a new classifier on it."""
    set_seed(arguments["seed"])
    base = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            id2label={digit: str(digit) for digit in range(SOURCE_DIGITS)},
        )
    )
    source = [sample for sample in train if sample["labels"] < SOURCE_DIGITS]
    trainer = Trainer(
        base, TrainingArguments(**arguments, learning_rate=_PRETRAINING_LEARNING_RATE), train_dataset=source
    )
    with tqdm(desc="Pre-training", total=arguments["max_steps"]) as bar:
        _train(trainer, bar)
    base.save_pretrained(folder)
    # The new classifier has ten outputs, so the saved one does not fit.
    base = ViTForImageClassification.from_pretrained(folder, num_labels=10, ignore_mismatched_sizes=True)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    return get_peft_model(base, config)


def _tune(method: str, trainer: Trainer, bar: Any) -> Result:
    """Train, then measure on the test data."""
    seconds = _train(trainer, bar)
    metrics = trainer.evaluate()
    return Result(method, metrics["eval_accuracy"], metrics["eval_loss"], trainer.state.global_step, seconds)


def _train(trainer: Trainer, bar: Any) -> float:
    """Train with a progress bar and without printed logs; gives the seconds it took, without those of evaluations."""
    # Trainer prints its logs where its own bars are off.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_ProgressCallback(bar))
    began = time.perf_counter()
    trainer.train()
    evaluating = sum(entry.get("eval_runtime", 0.0) for entry in trainer.state.log_history)
    return time.perf_counter() - began - evaluating


class _ProgressCallback(TrainerCallback):
    """Advances a bar that several runs may share."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.update()


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


@contextlib.contextmanager
def _quiet_on_one_thread() -> Iterator[None]:
    """Only the demo's own output, and one thread of torch: for so small a model more of them only wait."""
    threads = torch.get_num_threads()
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    # It follows that of transformers.
    level = logging.getLogger("hf_iomt").level
    torch.set_num_threads(1)
    # The new classifier is announced as a mismatch, and loading and saving have bars of their own.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT reads a property that transformers has renamed. Needed until PEFT reads the new one.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        torch.set_num_threads(threads)
        transformers_logging.set_verbosity(verbosity)
        logging.getLogger("hf_iomt").setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
