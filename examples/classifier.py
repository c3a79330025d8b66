"""A text classifier with LoRA, and its data, for the examples that are about something else; 01 shows each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from splits import DataArguments, encode_labels, find_text_columns, load_splits
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    set_seed,
)


@dataclass
class ClassifierArguments:
    """What to train, and how to read the data."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its tokenizer."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "One or two columns of text. By default looked for under usual names."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels: numbers or words."})
    max_length: int = field(default=128, metadata={"help": "Longer texts are cut after this many tokens."})
    lora_rank: int = field(default=8, metadata={"help": "Rank r of the adapter."})
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "Regular expression for the modules to adapt, or 'all-linear'."}
    )


class Classifier:
    """
    Data as tokens, and models with a new adapter and a new head.

    Args:
        arguments ([`ClassifierArguments`]): What to train.
        data ([`DataArguments`]): What to train and evaluate on.

    Attributes:
        train, evaluation (`Dataset`): The data, as tokens with a column `label`.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        collator (`DataCollatorWithPadding`): Pads a batch.
    """

    def __init__(self, arguments: ClassifierArguments, data: DataArguments) -> None:
        self._arguments = arguments
        train, evaluation = load_splits(data)
        train, evaluation, self._names = encode_labels(train, evaluation, arguments.label_column)
        columns = find_text_columns(arguments.text_columns, train.column_names)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(arguments.model)
        if self.tokenizer.pad_token is None:
            # Language models are trained without padding.
            self.tokenizer.pad_token = self.tokenizer.eos_token

        def tokenize(rows: dict[str, list[Any]]) -> dict[str, Any]:
            texts = (rows[column] for column in columns)
            return dict(self.tokenizer(*texts, truncation=True, max_length=arguments.max_length))

        unused = [column for column in train.column_names if column != "label"]
        self.train: Dataset = train.map(tokenize, batched=True, remove_columns=unused, desc="Tokenizing")
        self.evaluation: Dataset = evaluation.map(tokenize, batched=True, remove_columns=unused, desc="Tokenizing")
        self.collator = DataCollatorWithPadding(self.tokenizer)

    def make_model(self, seed: int) -> PeftModel:
        """A model whose adapter and head depend on the seed alone."""
        set_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(
            self._arguments.model,
            num_labels=len(self._names),
            id2label=dict(enumerate(self._names)),
            label2id={name: number for number, name in enumerate(self._names)},
        )
        base.config.pad_token_id = self.tokenizer.pad_token_id
        return get_peft_model(  # type: ignore[no-any-return]
            base,
            LoraConfig(
                task_type=TaskType.SEQ_CLS,
                r=self._arguments.lora_rank,
                lora_alpha=2 * self._arguments.lora_rank,
                target_modules=self._arguments.lora_target_modules,
            ),
        )


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows that are labelled as they should be."""
    # Some models return more than their logits.
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float(np.mean(np.argmax(logits, axis=-1) == prediction.label_ids))}
