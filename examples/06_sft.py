r"""
Supervised fine-tuning of a language model with TRL and LoRA. Needs the extra `trl`.

The data is in one of TRL's formats: a column `text`, columns `prompt` and `completion`, or `messages`. All of
`SFTConfig`'s arguments can be given (`--packing`, `--max_length`, `--completion_only_loss`), and those of IOMT.

    python examples/06_sft.py --model HuggingFaceTB/SmolLM2-135M-Instruct --dataset trl-lib/Capybara \
        --output_dir runs/sft --max_steps 500 --per_device_train_batch_size 4 --max_length 512
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from adapters import AdapterArguments
from peft import TaskType
from shares import print_shares
from splits import DataArguments, load_splits
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

from hf_iomt.trl import IOMTSFTConfig, IOMTSFTTrainer


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. Arguments: the adapter's, the data's, and all those of `SFTConfig` and IOMT.
    parser = HfArgumentParser((AdapterArguments, DataArguments, IOMTSFTConfig))  # type: ignore[arg-type]
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    train, evaluation = load_splits(data_args)

    # 2. Training: `IOMTSFTTrainer` in place of `SFTTrainer`. TRL tokenizes, and adds the adapter.
    trainer = IOMTSFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_args.model),
        args=training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=AutoTokenizer.from_pretrained(model_args.model),
        peft_config=model_args.config(TaskType.CAUSAL_LM),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    trainer.save_model()

    # 3. Results.
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    print(f"loss per token {before:.4f} before, {results['eval_loss']:.4f} after, on {len(evaluation)} rows")
    print(f"Before training: {trainer.transferability}")
    print_shares(trainer.iomt_history)


if __name__ == "__main__":
    main()
