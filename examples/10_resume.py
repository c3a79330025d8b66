r"""
Trains on a machine that may be taken away: the same command again goes on where the last whole checkpoint was.

A run that was killed ends with the same weights and the same history, to the last bit, as one that was not. To see it,
`--kill_at_step` kills the first attempt as `kill -9` would. Give the command twice:

    python examples/10_resume.py --model FacebookAI/roberta-base --dataset nyu-mll/glue --dataset_config mrpc \
        --output_dir runs/resumed --max_steps 300 --per_device_train_batch_size 16 --save_steps 50 --kill_at_step 170
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from classifier import Classifier, ClassifierArguments, accuracy
from metrics import print_metrics
from shares import print_shares
from splits import DataArguments
from transformers import HfArgumentParser, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_iomt import IOMTTrainer, IOMTTrainingArguments


@dataclass
class ResumeArguments:
    """What is to go wrong."""

    kill_at_step: int | None = field(
        default=None, metadata={"help": "Kill the process after this step, if it did not begin with a checkpoint."}
    )


class KillCallback(TrainerCallback):
    """Ends the process without warning: nothing is written, nothing is cleaned up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Kill after the step."""
        if state.global_step == self.step:
            print(f"Killed after step {self.step}. Give the same command again.", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def main(argv: Sequence[str] | None = None) -> None:
    """Begin, or go on; save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. Arguments.
    parser = HfArgumentParser((ClassifierArguments, DataArguments, ResumeArguments, IOMTTrainingArguments))  # type: ignore[arg-type]
    model_args, data_args, resume_args, training_args = parser.parse_args_into_dataclasses(argv)

    # 2. The same model and the same data as before: the seed makes them.
    classifier = Classifier(model_args, data_args)
    trainer = IOMTTrainer(
        model=classifier.make_model(training_args.seed),
        args=training_args,
        train_dataset=classifier.train,
        eval_dataset=classifier.evaluation,
        processing_class=classifier.tokenizer,
        data_collator=classifier.collator,
        compute_metrics=accuracy,
    )

    # 3. Is there a checkpoint? `True` finds the newest that was written to its end.
    begun = os.path.isdir(training_args.output_dir) and get_last_checkpoint(training_args.output_dir) is not None
    if begun:
        print(f"Going on in {training_args.output_dir}.")
    elif resume_args.kill_at_step is not None:
        trainer.add_callback(KillCallback(resume_args.kill_at_step))
    trainer.train(resume_from_checkpoint=begun)
    trainer.save_model()

    # 4. Results.
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    print_metrics(results, len(classifier.evaluation))
    print_shares(trainer.iomt_history)


if __name__ == "__main__":
    main()
