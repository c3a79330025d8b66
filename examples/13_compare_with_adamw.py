r"""
Is one run of IOMT as good as tuned AdamW, on your task? Trains AdamW at several rates, and IOMT once.

A tenth of the training data is held out to choose AdamW's rate. The evaluation data is read once per row, and chooses
nothing. All runs of a seed share initial weights, batches, schedule and number of steps. One seed proves little: give
`--seeds 3`. The table, and nothing else, is written to `--output_dir`.

    python examples/13_compare_with_adamw.py --model FacebookAI/roberta-base --dataset nyu-mll/glue \
        --dataset_config mrpc --output_dir runs/comparison --max_steps 300 --per_device_train_batch_size 16 --seeds 3
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from classifier import Classifier, ClassifierArguments, accuracy
from datasets import Dataset
from splits import DataArguments
from transformers import HfArgumentParser, Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

_HELD_OUT_SHARE = 0.1


@dataclass
class ComparisonArguments:
    """What to compare."""

    rates: list[float] = field(
        default_factory=lambda: [5e-5, 1e-4, 3e-4, 1e-3, 3e-3],
        metadata={"help": "AdamW's learning rates. Trainer's default, 5e-5, has a row of its own."},
    )
    seeds: int = field(default=1, metadata={"help": "How many seeds, from `--seed` on."})


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    method: str
    seed: int
    validation: float
    test: float
    steps: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    """Run all, print the table and write it."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    # 1. Arguments: those of `TrainingArguments` hold for every run.
    parser = HfArgumentParser((ClassifierArguments, DataArguments, ComparisonArguments, IOMTTrainingArguments))  # type: ignore[arg-type]
    model_args, data_args, asked, training_args = parser.parse_args_into_dataclasses(argv)
    training_args.save_strategy = "no"

    # 2. Data: what chooses is not what is reported.
    classifier = Classifier(model_args, data_args)
    parts = classifier.train.train_test_split(_HELD_OUT_SHARE, seed=0)
    train, validation = parts["train"], parts["test"]

    # 3. The runs.
    outcomes = []
    for seed in range(training_args.seed, training_args.seed + asked.seeds):
        for rate in asked.rates:
            outcomes.append(_run(f"AdamW {rate:g}", seed, rate, training_args, classifier, train, validation))
        outcomes.append(_run("IOMT", seed, None, training_args, classifier, train, validation))
        print(f"Seed {seed}: {len(asked.rates) + 1} runs.", flush=True)

    # 4. The table.
    table = make_table(outcomes, [f"AdamW {rate:g}" for rate in asked.rates])
    print(f"\n{table}")
    folder = Path(training_args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.md").write_text(table + "\n", encoding="utf-8")
    (folder / "comparison.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))


def make_table(outcomes: Sequence[Outcome], grid: Sequence[str]) -> str:
    """
    The table, in Markdown.

    Args:
        outcomes (`Sequence[Outcome]`): All runs.
        grid (`Sequence[str]`): The methods among which the validation data chooses, in the mean over the seeds.
    """
    by_method = {method: [item for item in outcomes if item.method == method] for method in [*grid, "IOMT"]}

    def mean(method: str, name: str) -> float:
        return statistics.fmean(getattr(item, name) for item in by_method[method])

    picked = max(grid, key=lambda method: mean(method, "validation"))
    default = "AdamW 5e-05"
    rows = [
        (f"{picked}, the best of {len(grid)} on the validation data", [*grid], picked),
        *([(f"{default}, Trainer's default", [default], default)] if default in grid else []),
        ("IOMT", ["IOMT"], "IOMT"),
    ]
    lines = ["| method | validation accuracy | test accuracy | runs | steps in all | seconds in all |"]
    lines.append("|---|---|---|---|---|---|")
    for title, methods, shown in rows:
        steps, seconds = (sum(mean(method, name) for method in methods) for name in ("steps", "seconds"))
        tests = [100 * item.test for item in by_method[shown]]
        spread = f" ± {statistics.stdev(tests):.1f}" if len(tests) > 1 else ""
        validation, test = 100 * mean(shown, "validation"), statistics.fmean(tests)
        lines.append(
            f"| {title} | {validation:.1f} | {test:.1f}{spread} | {len(methods)} | {steps:.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _run(
    method: str,
    seed: int,
    rate: float | None,
    arguments: IOMTTrainingArguments,
    classifier: Classifier,
    train: Dataset,
    validation: Dataset,
) -> Outcome:
    """One run: AdamW at a rate with the plain `Trainer`, or IOMT where there is none."""
    args: TrainingArguments = copy.deepcopy(arguments)
    args.seed = seed
    if rate is not None:
        args.optim, args.learning_rate = "adamw_torch", rate
    trainer = (IOMTTrainer if rate is None else Trainer)(
        model=classifier.make_model(seed),
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=classifier.tokenizer,
        data_collator=classifier.collator,
        compute_metrics=accuracy,
    )
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    found = [trainer.evaluate(data)["eval_accuracy"] for data in (validation, classifier.evaluation)]
    return Outcome(method, seed, found[0], found[1], trainer.state.global_step, seconds)


if __name__ == "__main__":
    main()
