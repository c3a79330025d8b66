"""
How well the transferability metrics foretell what a model becomes, and what they cost.

    python -m benchmarks transferability --jobs 2

For every model and data set: the assessment that `IOMTTrainer` makes before the first step, the time of one plain pass
over the same samples, and the test accuracy of a head trained by `IOMTTrainer` on the frozen backbone. Backbones that
are cut after some of their layers stand for further models. Needs `$HF_IOMT_DATA` and `$HF_IOMT_WEIGHTS`; a finished
result is not made again. Writes one JSON each, and from them `transferability.md` and `transferability.png`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_iomt.json_files import write_json

from .run import RESULTS

WEIGHTS_VARIABLE = "HF_IOMT_WEIGHTS"
FOLDER = RESULTS / "transferability"

_IMAGES = ("usps", "mnist", "cifar10", "hymenoptera")
_TEXTS = ("mrpc", "qqp", "rte", "wnli")
# Name to folder of weights and number of layers, stages or blocks that are kept.
_IMAGE_MODELS: dict[str, tuple[str, int]] = {
    "ViT-Tiny": ("vit-tiny-patch16-224", 12),
    "ViT-Tiny, 6 layers": ("vit-tiny-patch16-224", 6),
    "MobileNetV2": ("mobilenet_v2_1.0_224", 16),
    "ResNet-18, 3 stages": ("resnet18-stages1-3", 3),
    "ResNet-18, 2 stages": ("resnet18-stages1-3", 2),
}
_TEXT_MODELS: dict[str, tuple[str, int]] = {
    "MiniLM": ("minilm", 6),
    "MiniLM, 4 layers": ("minilm", 4),
    "MiniLM, 2 layers": ("minilm", 2),
    "LLaMA 260K": ("stories260K", 5),
}
# The models that were not cut.
_WHOLE = ("ViT-Tiny", "MobileNetV2", "ResNet-18, 3 stages", "MiniLM", "LLaMA 260K")
_LANGUAGE_MODEL = "LLaMA 260K as language model"
_SAMPLES = {"images": 1000, "texts": 2000}
_TEST_SAMPLES = 1000
# Enough to converge, whatever the scale of the features.
_HEAD_STEPS, _HEAD_BATCH = 5000, 64


def jobs() -> list[tuple[str, str, str]]:
    """What to measure, on which data, of which model."""
    pairs = [
        *((data, model) for model in _IMAGE_MODELS for data in _IMAGES),
        *((data, model) for model in (*_TEXT_MODELS, _LANGUAGE_MODEL) for data in _TEXTS),
    ]
    heads = [("head", data, model) for data, model in pairs if model != _LANGUAGE_MODEL]
    return [*(("assessment", data, model) for data, model in pairs), *heads]


def measure(part: str, data: str, name: str, path: Path, command: str) -> dict[str, Any]:
    """Assess one model on one data set, or tune its head, and write the result."""
    import torch
    from transformers import DefaultDataCollator, set_seed

    from hf_iomt import IOMTTrainer, IOMTTrainingArguments
    from hf_iomt.assessment import take_samples

    from .provenance import provenance

    torch.set_num_threads(1)
    set_seed(0)
    kind = "images" if data in _IMAGES else "texts"
    model, train, test, collator = _images(data, name) if kind == "images" else _texts(data, name)
    train = take_samples(train, _SAMPLES[kind], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        shared: dict[str, Any] = {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
        args = IOMTTrainingArguments(
            **shared,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=32,
            iomt_distribution_metrics=["log_me", "leep", "h_score"],
            remove_unused_columns=kind == "texts",
        )
        trainer = IOMTTrainer(model, args, train_dataset=train, data_collator=collator or DefaultDataCollator())

        def forward() -> None:
            trainer.evaluation_loop(trainer.get_test_dataloader(train), "Forward", prediction_loss_only=True)

        result: dict[str, Any] = {"data": data, "model": name, "seed": 0}
        if part == "head":
            tested = _features(trainer, take_samples(test, _TEST_SAMPLES, seed=0))
            result |= {"accuracy": _tune_head(_features(trainer, train), tested, shared), "steps": _HEAD_STEPS}
        else:
            # The first pass finds caches cold.
            forward()
            timed = {"forward": _timed(forward)}
            found: list[Any] = []
            timed["assessment"] = _timed(lambda: found.append(trainer.assess_transferability(_SAMPLES[kind])))
            result |= {
                "transferability": vars(found[0]),
                "seconds": {part: wall for part, (wall, _) in timed.items()},
                "processor_seconds": {part: processor for part, (_, processor) in timed.items()},
            }
    result |= provenance(command)
    write_json(result, path)
    return result


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def _features(trainer: Any, data: Any) -> tuple[Any, Any]:
    """What the head is given, of shape (N, D), and the labels."""
    import torch

    from hf_iomt.transferability import ForwardRecorder, choose_pooling, pool

    features, labels = [], []
    trainer.model.eval()
    with ForwardRecorder(trainer.model) as recorder, torch.no_grad():
        for inputs in trainer.get_test_dataloader(data):
            trainer.model(**{name: value for name, value in inputs.items() if name != "labels"})
            output = recorder.backbone_output
            features.append(pool(output, choose_pooling(output, recorder.model.config), inputs.get("attention_mask")))
            labels.append(inputs["labels"])
    return torch.cat(features).float(), torch.cat(labels)


def _tune_head(trained: tuple[Any, Any], tested: tuple[Any, Any], shared: dict[str, Any]) -> float:
    """Test accuracy of a linear head; the backbone is frozen, so its features are computed once."""
    import torch
    from torch.utils.data import TensorDataset

    from hf_iomt import IOMTTrainer, IOMTTrainingArguments

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = torch.nn.Linear(trained[0].shape[1], int(trained[1].max()) + 1)

        def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.classifier(features)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
        return dict(zip(("features", "labels"), map(torch.stack, zip(*rows, strict=True)), strict=True))

    torch.manual_seed(0)
    args = IOMTTrainingArguments(
        **shared,
        max_steps=_HEAD_STEPS,
        per_device_train_batch_size=_HEAD_BATCH,
        iomt_candidates="head",
        save_strategy="no",
        logging_strategy="no",
    )
    trainer = IOMTTrainer(
        Head(),
        args,
        train_dataset=TensorDataset(*trained),
        data_collator=collate,
        compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(-1) == given.label_ids).mean())},
    )
    trainer.train()
    return float(trainer.evaluate(TensorDataset(*tested))["eval_accuracy"])


def _weights(folder: str) -> str:
    if WEIGHTS_VARIABLE not in os.environ:
        raise SystemExit(f"No weights: set {WEIGHTS_VARIABLE} to the folder of pre-trained models.")
    return str(Path(os.environ[WEIGHTS_VARIABLE]) / folder)


def _images(data: str, name: str) -> tuple[Any, Any, Any, Any]:
    """Model, training data, test data and collator of an image task."""
    import numpy as np
    from datasets import load_dataset
    from PIL import Image
    from torch import nn
    from torch.utils.data import Dataset
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from .data import data_path

    folder, kept = _IMAGE_MODELS[name]
    path = _weights(folder)
    processor = AutoImageProcessor.from_pretrained(path)

    class Pictures(Dataset[dict[str, Any]]):
        def __init__(self, split: str) -> None:
            if (data_path() / data / f"{split}.npz").exists():
                arrays = np.load(data_path() / data / f"{split}.npz")
                self.labels = arrays["label"].astype(int).tolist()
                self.pictures: Any = [Image.fromarray(picture) for picture in arrays["image"]]
            else:
                rows = load_dataset("parquet", data_files=str(data_path() / data / f"{split}.parquet"), split="train")
                self.labels, self.pictures = rows["label"], rows["image"]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> dict[str, Any]:
            picture = self.pictures[index].convert("RGB")
            return {
                "pixel_values": processor(picture, return_tensors="pt")["pixel_values"][0],
                "labels": self.labels[index],
            }

    train, test = Pictures("train"), Pictures("test")
    model = AutoModelForImageClassification.from_pretrained(
        path, num_labels=len(set(train.labels)), ignore_mismatched_sizes=True
    )
    if folder.startswith("vit"):
        model.vit.layers = model.vit.layers[:kept]
    elif folder.startswith("resnet"):
        model.resnet.encoder.stages = model.resnet.encoder.stages[:kept]
        model.classifier[-1] = nn.Linear(model.config.hidden_sizes[kept - 1], len(set(train.labels)))
    return model, train, test, None


def _texts(data: str, name: str) -> tuple[Any, Any, Any, Any]:
    """Model, training data, test data and collator of a text task."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        DataCollatorWithPadding,
    )

    from .data import data_path
    from .models import text_model_path

    folder, kept = _TEXT_MODELS.get(name, ("stories260K", 5))
    path = text_model_path() if folder == "minilm" else _weights(folder)
    tokenizer = AutoTokenizer.from_pretrained(path)
    columns = ("question1", "question2") if data == "qqp" else ("sentence1", "sentence2")
    files = {split: str(data_path() / data / f"{split}.parquet") for split in ("train", "test")}
    splits = load_dataset("parquet", data_files=files)
    splits = splits.map(
        lambda row: tokenizer(row[columns[0]], row[columns[1]], truncation=True, max_length=128),
        batched=True,
        remove_columns=list(columns),
    )
    if name == _LANGUAGE_MODEL:
        collator: Any = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        splits = splits.remove_columns("label")
        return AutoModelForCausalLM.from_pretrained(path), splits["train"], splits["test"], collator
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    if folder == "minilm":
        model.bert.encoder.layer = model.bert.encoder.layer[:kept]
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, splits["train"], splits["test"], DataCollatorWithPadding(tokenizer)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown table of everything, then what it comes to."""
    lines = [
        "# Transferability before tuning, and accuracy after",
        "",
        "Written by `python -m benchmarks transferability`; do not edit.",
        "",
        "| data | model | samples | ω_p | LogME | LEEP | H-score | ω_t | seconds | of a plain pass | head tuned, % |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        found = result["transferability"]
        numbers = [found[part] for part in ("performance", "log_me", "leep", "h_score", "weight")]
        cells = ["–" if number is None else f"{number:.3f}" for number in numbers]
        accuracy = "–" if result["accuracy"] is None else f"{100 * result['accuracy']:.1f}"
        lines.append(
            f"| {result['data']} | {result['model']} | {found['samples']:,} | {' | '.join(cells)} "
            f"| {found['seconds']:.1f} | {result['seconds']['forward']:.1f} | {accuracy} |"
        )
    lines += [
        "",
        "Rank correlation (Spearman) over the models of a data set, with the accuracy of the tuned head:",
        "",
    ]
    lines += [
        "| data | models | LogME | H-score | LEEP | ω_t | LogME, whole models |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in (*_IMAGES, *_TEXTS):
        rows = [item for item in results if item["data"] == data and item["accuracy"] is not None]
        cells = [_correlation(rows, part) for part in ("log_me", "h_score", "leep", "weight")]
        cells.append(_correlation([item for item in rows if item["model"] in _WHOLE], "log_me"))
        lines.append(f"| {data} | {len(rows)} | {' | '.join(cells)} |")
    ratios = [item["processor_seconds"]["assessment"] / item["processor_seconds"]["forward"] for item in results]
    lines += ["", f"Processor time of the assessment over a plain pass: median {statistics.median(ratios):.3f} ×.", ""]
    return "\n".join(lines)


def _correlation(rows: list[dict[str, Any]], part: str) -> str:
    from scipy.stats import spearmanr

    pairs = [
        (item["transferability"][part], item["accuracy"]) for item in rows if item["transferability"][part] is not None
    ]
    if len(pairs) < 3:
        return "–"
    return f"{spearmanr(*zip(*pairs, strict=True)).statistic:.2f}"


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """LogME against the accuracy of the tuned head, a panel for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    # The colour-blind-safe palette of Okabe and Ito; models that were cut are hollow.
    colours = ("#0072B2", "#0072B2", "#D55E00", "#009E73", "#009E73", "#CC79A7", "#CC79A7", "#CC79A7", "#000000")
    markers = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
    names = (*_IMAGE_MODELS, *_TEXT_MODELS)
    styles = dict(zip(names, zip(colours, markers, strict=True), strict=True))
    figure, panels = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
    for data, panel in zip((*_IMAGES, *_TEXTS), panels.flat, strict=True):
        rows = [item for item in results if item["data"] == data and item["accuracy"] is not None]
        for item in rows:
            colour, marker = styles[item["model"]]
            face = colour if item["model"] in _WHOLE else "none"
            x, y = item["transferability"]["log_me"], 100 * item["accuracy"]
            panel.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=9)
        values = [item["transferability"]["log_me"] for item in rows]
        # Equal up to rounding, as on wnli, is to look equal.
        width = max(max(values) - min(values), 0.02) if values else 1.0
        centre = (max(values) + min(values)) / 2 if values else 0.0
        panel.set_xlim(centre - 0.7 * width, centre + 0.7 * width)
        panel.set_title(f"{data}, rank correlation {_correlation(rows, 'log_me')}", fontsize=10)
        panel.margins(y=0.15)
        panel.grid(alpha=0.3)
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="",
            label=name,
            fillstyle="full" if name in _WHOLE else "none",
        )
        for name, (colour, marker) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=9)
    figure.supxlabel("LogME before tuning")
    figure.supylabel("test accuracy of the tuned head, %")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run what has no result yet, then write table and figure from all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--data", nargs="+", default=[*_IMAGES, *_TEXTS])
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the JSON files")
    arguments = parser.parse_args(argv)
    command = "python -m benchmarks transferability " + " ".join(sys.argv[1:] if argv is None else argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pending = []
    for part, data, name in jobs():
        path = arguments.results / part / data / f"{name.replace(', ', '_').replace(' ', '_')}.json"
        if data in arguments.data and not path.exists():
            pending.append((part, data, name, path, command))
    # One process per run: a run cannot see what an earlier one left behind.
    with concurrent.futures.ProcessPoolExecutor(
        arguments.jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        futures = [pool.submit(measure, *job) for job in pending]
        for count, future in enumerate(concurrent.futures.as_completed(futures), 1):
            result = future.result()
            print(f"[{count}/{len(pending)}] {result['data']}, {result['model']}", flush=True)
    results = []
    for path in sorted(arguments.results.glob("assessment/*/*.json")):
        head = arguments.results / "head" / path.relative_to(arguments.results / "assessment")
        accuracy = json.loads(head.read_text())["accuracy"] if head.exists() else None
        results.append({**json.loads(path.read_text()), "accuracy": accuracy})
    if results:
        (arguments.results / "transferability.md").write_text(table(results))
        draw(results, arguments.results / "transferability.png")


if __name__ == "__main__":
    main()
