r"""
Fine-tunes a text classifier with LoRA and shares it on the Hub, with a model card that tells how it was optimized.

Log in first, with `hf auth login` and a token that may write. The token is tried before anything is trained.
`HF_ENDPOINT` names another hub than Hugging Face's.

With a model and data from the Hub, to a repository of yours:

    python examples/09_push_to_hub.py --model sentence-transformers/all-MiniLM-L6-v2 \
        --dataset nyu-mll/glue --dataset_config mrpc --text_columns sentence1 sentence2 \
        --output_dir runs/shared --hub_model_id you/mrpc-minilm-lora --max_steps 100

With local folders, whose names on the Hub the card is told:

    python examples/09_push_to_hub.py --model path/to/model --base_model sentence-transformers/all-MiniLM-L6-v2 \
        --dataset path/to/data --dataset_name nyu-mll/glue --text_columns sentence1 sentence2 \
        --output_dir runs/shared --hub_model_id you/mrpc-minilm-lora --max_steps 100
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metrics import classification_metrics, print_metrics
from peft import LoraConfig, TaskType, get_peft_model
from splits import DataArguments, encode_labels, load_splits
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
    """What to train, how to read the data, and what the card says of both."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its tokenizer."})
    base_model: str | None = field(
        default=None, metadata={"help": "Hub id of the model, for the card, where `--model` is a folder."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id of the data, for the card, where `--dataset` is a folder."}
    )
    text_columns: list[str] = field(default_factory=lambda: ["text"], metadata={"help": "One or two columns of text."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels: numbers or words."})
    max_length: int = field(default=64, metadata={"help": "Longer texts are cut after this many tokens."})


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and push."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    parser = HfArgumentParser((ModelArguments, DataArguments, IOMTTrainingArguments))  # type: ignore[arg-type]
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    # 1. The repository is made, and the token tried, when the trainer is made. Every checkpoint's model is pushed too;
    #    `--hub_strategy end` pushes once.
    training_args.push_to_hub = True
    set_seed(training_args.seed)

    # 2. Data and model, as in the first example.
    train, evaluation = load_splits(data_args)
    train, evaluation, names = encode_labels(train, evaluation, model_args.label_column)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, Any]:
        texts = (rows[column] for column in model_args.text_columns)
        return dict(tokenizer(*texts, truncation=True, max_length=model_args.max_length))

    unused = [column for column in train.column_names if column != "label"]
    train, evaluation = (split.map(tokenize, batched=True, remove_columns=unused) for split in (train, evaluation))
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(
            model_args.model, num_labels=len(names), id2label=dict(enumerate(names))
        ),
        LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear"),
    )

    # 3. Training.
    trainer = IOMTTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=classification_metrics(["accuracy", "f1"], len(names)),
    )
    trainer.train()
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    print_metrics(results, len(evaluation))

    # 4. The push. Where it fails, all is in `--output_dir`, and the message says how to push it later.
    trainer.push_to_hub(finetuned_from=model_args.base_model, dataset_tags=model_args.dataset_name)
    print(f"Pushed to {trainer.hub_model_id}")


if __name__ == "__main__":
    main()
