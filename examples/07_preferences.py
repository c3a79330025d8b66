r"""
Trains a language model on preferences with TRL and LoRA: by DPO, or a reward model. Needs the extra `trl`.

The data has columns `chosen` and `rejected`, with or without `prompt`, as texts or as messages.

    python examples/07_preferences.py dpo --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --dataset trl-lib/ultrafeedback_binarized --output_dir runs/dpo --max_steps 500 \
        --per_device_train_batch_size 4 --max_length 512

`reward` in place of `dpo` trains a reward model. Each takes all arguments of TRL's config and those of IOMT.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from adapters import AdapterArguments
from datasets import Dataset
from peft import TaskType
from shares import print_shares
from splits import DataArguments, load_splits
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    set_seed,
)

from hf_iomt.trl import IOMTDPOConfig, IOMTDPOTrainer, IOMTRewardConfig, IOMTRewardTrainer

CONFIGS = {"dpo": IOMTDPOConfig, "reward": IOMTRewardConfig}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. Arguments: the method first, then the adapter's, the data's, and all those of TRL's config and IOMT.
    method, *rest = sys.argv[1:] if argv is None else argv
    if method not in CONFIGS:
        raise SystemExit(f"The first argument must be one of {', '.join(CONFIGS)}, but is {method!r}.")
    parser = HfArgumentParser((AdapterArguments, DataArguments, CONFIGS[method]))  # type: ignore[arg-type]
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(rest)
    train, evaluation = load_splits(data_args)

    # 2. Training.
    trainer = make_trainer(method, model_args, training_args, train, evaluation)
    trainer.train()
    trainer.save_model()

    # 3. Results: how often what was preferred is rated higher, and the rest that TRL reports.
    results = trainer.evaluate()
    # TRL adds its metrics to what is logged.
    reported = {**results, **trainer.state.log_history[-1]}
    trainer.save_metrics("eval", results)
    accuracy = reported["eval_rewards/accuracies" if method == "dpo" else "eval_accuracy"]
    print(f"loss {results['eval_loss']:.4f}, accuracy of the rewards {accuracy:.3f} on {len(evaluation)} pairs")
    print_shares(trainer.iomt_history)


def make_trainer(
    method: str, model_args: AdapterArguments, training_args: Any, train: Dataset, evaluation: Dataset
) -> IOMTDPOTrainer | IOMTRewardTrainer:
    """The trainer in place of TRL's. Under LoRA, DPO's reference is the model without the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)
    shared = {
        "args": training_args,
        "train_dataset": train,
        "eval_dataset": evaluation,
        "processing_class": tokenizer,
    }
    if method == "dpo":
        model = AutoModelForCausalLM.from_pretrained(model_args.model)
        return IOMTDPOTrainer(model, peft_config=model_args.config(TaskType.CAUSAL_LM), **shared)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # The head is new.
    set_seed(training_args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    return IOMTRewardTrainer(model, peft_config=model_args.config(TaskType.SEQ_CLS), **shared)


if __name__ == "__main__":
    main()
