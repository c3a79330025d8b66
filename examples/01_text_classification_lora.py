r"""
Fine-tunes a text classifier with LoRA; the trainer chooses optimizer and learning rate on the way.

Any model that `AutoModelForSequenceClassification` loads will do. The data needs a column of labels and one or two
columns of text. The adapter, the results and the history of the choices are written to `--output_dir`.

With a model and data from the Hub:

    python examples/01_text_classification_lora.py --model FacebookAI/roberta-base \
        --dataset nyu-mll/glue --dataset_config mrpc --output_dir runs/mrpc \
        --num_train_epochs 3 --per_device_train_batch_size 16

With local folders, the second of which holds train.parquet and test.parquet:

    python examples/01_text_classification_lora.py --model path/to/model --dataset path/to/data \
        --metrics path/to/accuracy path/to/f1 --output_dir runs/local --max_steps 400
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metrics import classification_metrics, print_metrics
from peft import LoraConfig, TaskType, get_peft_model
from shares import print_shares
from splits import DataArguments, encode_labels, find_text_columns, load_splits
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    set_seed,
)

from hf_iomt import IOMTTrainer, IOMTTrainingArguments


@dataclass
class ModelArguments:
    """What to train, and how to read the data."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its tokenizer."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "One or two columns of text. By default looked for under usual names."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels: numbers or words."})
    max_length: int = field(default=128, metadata={"help": "Longer texts are cut after this many tokens."})
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy", "f1"],
        metadata={"help": "Metrics of `evaluate`, by name or local path."},
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank r of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapter's output is scaled by alpha / r."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout on the adapter's input."})
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "Regular expression for the modules to adapt, or 'all-linear'."}
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
    # The classification head is new, so the seed must be set before there is a model.
    set_seed(training_args.seed)

    # 2. Data: texts become tokens, labels numbers.
    train, evaluation = load_splits(data_args)
    train, evaluation, names = encode_labels(train, evaluation, model_args.label_column)
    columns = find_text_columns(model_args.text_columns, train.column_names)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)
    if tokenizer.pad_token is None:
        # Language models are trained without padding.
        tokenizer.pad_token = tokenizer.eos_token

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return dict(
            tokenizer(*(rows[column] for column in columns), truncation=True, max_length=model_args.max_length)
        )

    unused = [column for column in train.column_names if column != "label"]
    train, evaluation = (
        split.map(tokenize, batched=True, remove_columns=unused, desc="Tokenizing") for split in (train, evaluation)
    )

    # 3. Model: the pre-trained weights stay as they are; the adapter and the new head are trained.
    base = AutoModelForSequenceClassification.from_pretrained(
        model_args.model,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    base.config.pad_token_id = tokenizer.pad_token_id
    model = get_peft_model(
        base,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=model_args.lora_rank,
            lora_alpha=model_args.lora_alpha,
            lora_dropout=model_args.lora_dropout,
            target_modules=model_args.lora_target_modules,
        ),
    )
    model.print_trainable_parameters()

    # 4. Training: `IOMTTrainer` in place of `Trainer` is all that differs from a script without IOMT.
    trainer = IOMTTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
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


if __name__ == "__main__":
    main()
