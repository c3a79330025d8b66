r"""
Fine-tunes a language model with LoRA on your text; the trainer chooses optimizer and learning rate on the way.

Any model that `AutoModelForCausalLM` loads will do. The data is a text file, or a set with a column of documents. The
adapter, the results and the history of the choices are written to `--output_dir`.

With a model and data from the Hub:

    python examples/03_causal_lm_lora.py --model HuggingFaceTB/SmolLM2-135M \
        --dataset roneneldan/TinyStories --max_train_samples 20000 --max_eval_samples 500 \
        --output_dir runs/stories --max_steps 500 --per_device_train_batch_size 8

With local files, the last tenth of the text held out:

    python examples/03_causal_lm_lora.py --model path/to/model --dataset path/to/text.txt \
        --output_dir runs/local --max_steps 300
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from shares import print_shares
from splits import DataArguments, load_splits
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DefaultDataCollator,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    set_seed,
)

from hf_iomt import IOMTTrainer, IOMTTrainingArguments


@dataclass
class ModelArguments:
    """What to train, and how to read the data."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its tokenizer."})
    text_column: str = field(default="text", metadata={"help": "Column of the documents."})
    block_size: int = field(default=128, metadata={"help": "Tokens of a training example."})
    lora_rank: int = field(default=8, metadata={"help": "Rank r of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapter's output is scaled by alpha / r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapter's input."})
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
    set_seed(training_args.seed)

    # 2. Data: all texts become one stream of tokens, which is cut into blocks of equal length, so nothing is padded.
    #    What is held out of a text is its end, because random lines would be known from their neighbours.
    train, evaluation = load_splits(data_args, shuffle=False)
    if model_args.text_column not in train.column_names:
        raise ValueError(
            f"There is no column {model_args.text_column!r}: `--text_column` can be {', '.join(train.column_names)}."
        )
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)
    # The rows of a text file are lines of one document, others are documents of their own.
    separate = tokenizer.eos_token_id is not None and not data_args.dataset.endswith(".txt")
    end = [tokenizer.eos_token_id] if separate else []
    train, evaluation = (
        cut_into_blocks(split, tokenizer, model_args.text_column, end, model_args.block_size)
        for split in (train, evaluation)
    )

    # 3. Model: the pre-trained weights stay as they are, the adapter is trained.
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_args.model),
        LoraConfig(
            task_type=TaskType.CAUSAL_LM,
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
        data_collator=DefaultDataCollator(),
    )
    before = perplexity(trainer.evaluate())
    trainer.train()
    trainer.save_model()

    # 5. Results.
    results = trainer.evaluate()
    results["eval_perplexity"] = perplexity(results)
    trainer.save_metrics("eval", results)
    print(
        f"perplexity {before:.2f} before, {results['eval_perplexity']:.2f} after, "
        f"on {len(evaluation)} blocks of {model_args.block_size} tokens"
    )
    print(f"Before training: {trainer.transferability}")
    print_shares(trainer.iomt_history)


def cut_into_blocks(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, column: str, end: list[int], block_size: int
) -> Dataset:
    """
    Turn texts into blocks of tokens.

    Args:
        rows (`Dataset`): Texts in the column `column`.
        tokenizer (`PreTrainedTokenizerBase`): Turns a text into tokens.
        column (`str`): Name of the column.
        end (`list[int]`): Tokens to put after each text.
        block_size (`int`): Tokens of a block. What is left at the end of 1,000 texts is dropped.

    Raises:
        ValueError: The texts do not fill a block.
    """

    def cut(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(batch[column], add_special_tokens=False, verbose=False)["input_ids"]
        stream = list(chain.from_iterable(tokens + end for tokens in encoded))
        blocks = [stream[start : start + block_size] for start in range(0, len(stream) - block_size + 1, block_size)]
        return {"input_ids": blocks, "labels": blocks}

    blocks = rows.map(cut, batched=True, remove_columns=rows.column_names, desc="Cutting into blocks")
    if len(blocks) == 0:
        raise ValueError(
            f"A split of {len(rows)} texts does not fill one block of {block_size} tokens. "
            "Give more text or a smaller `--block_size`."
        )
    return blocks


def perplexity(results: dict[str, float]) -> float:
    """exp of the mean loss per token; infinity where that is no number of the machine."""
    loss = results["eval_loss"]
    return math.exp(loss) if loss < 700 else math.inf


if __name__ == "__main__":
    main()
