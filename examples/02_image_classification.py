r"""
Fine-tunes an image classifier, all of it or its head alone; the trainer chooses optimizer and learning rate.

Any model that `AutoModelForImageClassification` loads will do, with labels of its own, with other labels or as a bare
backbone: a head that does not fit is replaced. The data is a set with pictures from the Hub, a folder of parquet files
with a column of pictures, a folder with one sub-folder of pictures per class (train/cat/1.png), or a folder of NumPy
files with the arrays `image` and `label` (train.npz). Torchvision is used where it is installed, else Pillow.

With a model and data from the Hub:

    python examples/02_image_classification.py --model google/vit-base-patch16-224-in21k \
        --dataset uoft-cs/cifar10 --image_column img --output_dir runs/cifar10 \
        --num_train_epochs 1 --per_device_train_batch_size 32

With local folders, training the head alone:

    python examples/02_image_classification.py --model path/to/model --dataset path/to/data \
        --tuning head --metrics path/to/accuracy --output_dir runs/local --max_steps 200
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metrics import classification_metrics, print_metrics
from shares import print_shares
from splits import DataArguments, encode_labels, load_splits
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    DefaultDataCollator,
    HfArgumentParser,
    set_seed,
)

from hf_iomt import IOMTTrainer, IOMTTrainingArguments


@dataclass
class ModelArguments:
    """What to train, and how to read the data."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its image processor."})
    tuning: Literal["full", "head"] = field(
        default="full", metadata={"help": "Train all weights, or 'head': the classifier on a frozen backbone."}
    )
    freeze_batch_norm: bool = field(
        default=True,
        metadata={"help": "Normalise with the statistics of pre-training rather than those of small batches."},
    )
    image_column: str = field(default="image", metadata={"help": "Column of the pictures."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels: numbers or words."})
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy"], metadata={"help": "Metrics of `evaluate`, by name or local path."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. Arguments: the model's, the data's, and all those of `TrainingArguments` and IOMT. There is no
    #    `--learning_rate` to set.
    parser = HfArgumentParser((ModelArguments, DataArguments, IOMTTrainingArguments))  # type: ignore[arg-type]
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    # Trainer would drop the column of pictures before they become pixel values.
    training_args.remove_unused_columns = False
    # The head may be new, so the seed must be set before there is a model.
    set_seed(training_args.seed)

    # 2. Data: pictures become pixel values when they are read, because all at once would fill the memory.
    train, evaluation = load_splits(data_args)
    train, evaluation, names = encode_labels(train, evaluation, model_args.label_column)
    if model_args.image_column not in train.column_names:
        raise ValueError(
            f"There is no column {model_args.image_column!r}: `--image_column` can be {', '.join(train.column_names)}."
        )
    processor = AutoImageProcessor.from_pretrained(model_args.model)

    def process(rows: dict[str, list[Any]]) -> dict[str, Any]:
        # Grey pictures and those with transparency get the three channels that models expect.
        pictures = [picture.convert("RGB") for picture in rows[model_args.image_column]]
        return {"pixel_values": processor(pictures, return_tensors="pt")["pixel_values"], "labels": rows["label"]}

    train, evaluation = (split.with_transform(process) for split in (train, evaluation))

    # 3. Model: a head for other classes, or none, is replaced by a new one.
    model = AutoModelForImageClassification.from_pretrained(
        model_args.model,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    if model_args.tuning == "head":
        model.base_model.requires_grad_(False)
    if model_args.freeze_batch_norm:
        freeze_batch_norm(model)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{len(train)} pictures of {len(names)} classes, {trainable:,} trainable parameters")

    # 4. Training: `IOMTTrainer` in place of `Trainer` is all that differs from a script without IOMT.
    trainer = IOMTTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=processor,
        data_collator=DefaultDataCollator(),
        compute_metrics=classification_metrics(model_args.metrics, len(names)),
    )
    trainer.train()
    trainer.save_model()

    # 5. Results.
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    print_metrics(results, len(evaluation))
    print(f"Before training: {trainer.transferability}")
    print_shares(trainer.iomt_history)


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep all batch normalisation in evaluation mode; its weight and bias are trained as others are."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def hold(*_: object) -> None:
        # Trainer puts the model in training mode at every step, so once is not enough.
        for layer in layers:
            layer.eval()

    model.register_forward_pre_hook(hold)


if __name__ == "__main__":
    main()
