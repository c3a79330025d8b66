r"""
Fine-tunes an encoder-decoder model with LoRA to turn one text into another: summaries, translations, answers.

Any model that `AutoModelForSeq2SeqLM` loads will do. The data is a set with a column of inputs and one of targets.
Evaluation generates. The adapter, the results and the history of the choices are written to `--output_dir`.

    python examples/05_seq2seq.py --model google/flan-t5-small --dataset path/to/pairs.jsonl \
        --source_column document --target_column summary --output_dir runs/summaries --max_steps 500 \
        --per_device_train_batch_size 8 --predict_with_generate
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from peft import LoraConfig, TaskType, get_peft_model
from shares import print_shares
from splits import DataArguments, load_splits
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    HfArgumentParser,
    set_seed,
)

from hf_iomt import IOMTSeq2SeqTrainer, IOMTSeq2SeqTrainingArguments


@dataclass
class ModelArguments:
    """What to train, and how to read the data."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its tokenizer."})
    source_column: str = field(default="source", metadata={"help": "Column of the texts to read."})
    target_column: str = field(default="target", metadata={"help": "Column of the texts to write."})
    prefix: str = field(default="", metadata={"help": "Text before each input, such as 'summarize: '."})
    max_source_length: int = field(default=256, metadata={"help": "Longer inputs are cut after this many tokens."})
    max_target_length: int = field(default=64, metadata={"help": "Longer targets are cut after this many tokens."})
    lora_rank: int = field(default=8, metadata={"help": "Rank r of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapter's output is scaled by alpha / r."})
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "Regular expression for the modules to adapt, or 'all-linear'."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. Arguments: the model's, the data's, and all those of `Seq2SeqTrainingArguments` and IOMT.
    parser = HfArgumentParser((ModelArguments, DataArguments, IOMTSeq2SeqTrainingArguments))  # type: ignore[arg-type]
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    if training_args.generation_max_length is None:
        training_args.generation_max_length = model_args.max_target_length
    set_seed(training_args.seed)

    # 2. Data: inputs and targets become tokens.
    train, evaluation = load_splits(data_args)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)

    def tokenize(rows: dict[str, list[str]]) -> dict[str, Any]:
        sources = [model_args.prefix + text for text in rows[model_args.source_column]]
        inputs = tokenizer(sources, truncation=True, max_length=model_args.max_source_length)
        targets = tokenizer(
            text_target=rows[model_args.target_column], truncation=True, max_length=model_args.max_target_length
        )
        return {"input_ids": inputs["input_ids"], "labels": targets["input_ids"]}

    train, evaluation = (
        split.map(tokenize, batched=True, remove_columns=split.column_names, desc="Tokenizing")
        for split in (train, evaluation)
    )

    # 3. Model: the pre-trained weights stay as they are, the adapter is trained.
    model = get_peft_model(
        AutoModelForSeq2SeqLM.from_pretrained(model_args.model),
        LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM,
            r=model_args.lora_rank,
            lora_alpha=model_args.lora_alpha,
            target_modules=model_args.lora_target_modules,
        ),
    )
    model.print_trainable_parameters()

    # 4. Metric: the share of texts that are generated exactly as they should be.
    def exact_match(prediction: EvalPrediction) -> dict[str, float]:
        found, wanted = (
            # Both are filled up with -100.
            tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
            for ids in map(np.asarray, (prediction.predictions, prediction.label_ids))
        )
        return {"exact_match": float(np.mean([a.strip() == b.strip() for a, b in zip(found, wanted, strict=True)]))}

    # 5. Training: `IOMTSeq2SeqTrainer` in place of `Seq2SeqTrainer`.
    trainer = IOMTSeq2SeqTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=exact_match if training_args.predict_with_generate else None,
    )
    trainer.train()
    trainer.save_model()

    # 6. Results.
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    matched = f", exact match {results['eval_exact_match']:.3f}" if "eval_exact_match" in results else ""
    print(f"loss {results['eval_loss']:.4f}{matched} on {len(evaluation)} rows")
    print(f"Before training: {trainer.transferability}")
    print_shares(trainer.iomt_history)


if __name__ == "__main__":
    main()
