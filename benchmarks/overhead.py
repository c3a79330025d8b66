"""
What selection costs.

    python -m benchmarks overhead --output benchmarks/results/overhead.json

1. `IOMTTrainer` over `Trainer` with the same optimizer and as many steps: MiniLM with LoRA on every layer, batches of
   16, settings as by default, so cycles of 25 steps with rollback. Two candidates of (nearly) the same learning rate,
   so that both trainers do the same work on the model; no race. Runs alternate, and the ratio is taken pair by pair.
2. The cost of choosing a candidate in cycle 400 over that in cycle 50, 15 candidates of 5 families.
3. The assessment of transferability over one plain pass over the same 2,000 samples of 32 tokens, with the same model;
   and the seconds of LogME and LEEP for 2,000 samples, 768 features, 10 classes and 1,000 source classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_iomt import (
    InterleavedOptimizer,
    Interleaving,
    InterleavingSettings,
    IOMTTrainer,
    IOMTTrainingArguments,
    Selector,
    SelectorSettings,
)
from hf_iomt.optim import PRESETS
from hf_iomt.selection import ParameterProjection, select_parameters
from hf_iomt.transferability import leep, log_me

from .models import text_model_path
from .provenance import provenance

_LEARNING_RATE = 1e-3


def _model() -> Any:
    set_seed(0)
    return get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(text_model_path(), num_labels=2),
        LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"]),
    )


def _train(interleave: bool, data: Dataset, collator: Any, steps: int) -> tuple[float, float, float]:
    """Wall seconds, processor seconds, and the seconds of them that the history puts down to selection."""
    with tempfile.TemporaryDirectory() as folder:
        shared: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": steps,
            "per_device_train_batch_size": 16,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": steps,
            "disable_tqdm": True,
        }
        parts: dict[str, Any] = {"model": _model(), "train_dataset": data, "data_collator": collator}
        if interleave:
            trainer: Trainer = IOMTTrainer(
                args=IOMTTrainingArguments(
                    **shared,
                    iomt_candidates=f"adamw:lr={_LEARNING_RATE}|{1.001 * _LEARNING_RATE}",
                    iomt_race_steps=0,
                    # Measured by itself: it does not recur, so its share depends on the length of the run.
                    iomt_transferability="0.5",
                ),
                **parts,
            )
        else:
            trainer = Trainer(
                args=TrainingArguments(**shared, learning_rate=_LEARNING_RATE),
                optimizer_cls_and_kwargs=(torch.optim.AdamW, {"lr": _LEARNING_RATE}),
                **parts,
            )
        wall, processor = time.perf_counter(), time.process_time()
        trainer.train()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall, processor, sum(record["seconds"] for record in getattr(trainer, "iomt_history", []))


def _texts() -> tuple[Dataset, Any]:
    """2,000 texts of 32 tokens, and how to collate them."""
    tokenizer = AutoTokenizer.from_pretrained(text_model_path())
    words = [f"what is the {n} best way to learn a language number {n}" for n in range(2000)]
    encoded = tokenizer(words, padding="max_length", max_length=32, truncation=True)
    return Dataset.from_dict({**encoded, "labels": [n % 2 for n in range(2000)]}), DataCollatorWithPadding(tokenizer)


def training_ratio(pairs: int, steps: int) -> dict[str, Any]:
    """Paired ratios of IOMTTrainer's time over Trainer's."""
    data, collator = _texts()
    _train(True, data, collator, 25)
    runs = []
    for pair in range(pairs):
        # Whoever runs second may find a warmer or a more throttled machine: take turns.
        order = (False, True) if pair % 2 == 0 else (True, False)
        measured = {interleave: _train(interleave, data, collator, steps) for interleave in order}
        runs.append(
            {
                "wall_ratio": measured[True][0] / measured[False][0],
                "processor_ratio": measured[True][1] / measured[False][1],
                "selection_share": measured[True][2] / measured[True][0],
                "trainer_seconds": measured[False][0],
            }
        )
        print(f"pair {pair}: {runs[-1]}", flush=True)
    return {
        "runs": runs,
        "median_wall_ratio": statistics.median(run["wall_ratio"] for run in runs),
        "median_processor_ratio": statistics.median(run["processor_ratio"] for run in runs),
        "median_selection_share": statistics.median(run["selection_share"] for run in runs),
    }


def assessment_cost(pairs: int) -> dict[str, Any]:
    """Paired ratios of the assessment's time over that of a plain evaluation, and the time of the metrics."""
    data, collator = _texts()
    with tempfile.TemporaryDirectory() as folder:
        args = IOMTTrainingArguments(
            output_dir=folder, report_to="none", disable_tqdm=True, per_device_train_batch_size=16, use_cpu=True
        )
        trainer = IOMTTrainer(_model(), args, train_dataset=data, data_collator=collator)
        runs = []
        for _ in range(pairs):
            seconds = []
            for work in (lambda: trainer.evaluate(data), trainer.assess_transferability):
                began = time.process_time()
                work()
                seconds.append(time.process_time() - began)
            runs.append(
                {"pass_seconds": seconds[0], "assessment_seconds": seconds[1], "ratio": seconds[1] / seconds[0]}
            )
            print(f"assessment: {runs[-1]}", flush=True)
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(2000, 768)), rng.integers(10, size=2000)
    source = rng.dirichlet(np.ones(1000), size=2000)
    began = time.process_time()
    log_me(features, labels)
    evidence = time.process_time()
    leep(source, labels)
    return {
        "runs": runs,
        "median_ratio": statistics.median(run["ratio"] for run in runs),
        "log_me_seconds": evidence - began,
        "leep_seconds": time.process_time() - evidence,
    }


def selection_growth() -> dict[str, float]:
    """Median seconds of choosing near cycle 50 and near cycle 400, and their ratio."""
    model = _model()
    named = dict(model.named_parameters())
    parameters = [parameter for parameter in named.values() if parameter.requires_grad]
    optimizer = InterleavedOptimizer(parameters, PRESETS["paper"])
    selector = Selector(
        [candidate.family for candidate in optimizer.candidates],
        [candidate.settings for candidate in optimizer.candidates],
        SelectorSettings(),
        seed=0,
    )
    projection = ParameterProjection([(name, named[name]) for name in select_parameters(named.items())], 0)
    interleaving = Interleaving(optimizer, selector, parameters, projection, InterleavingSettings(switch_steps=1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(421):
        loss = torch.zeros(())
        for parameter in parameters:
            parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator)
            loss += parameter.detach().square().mean()
        interleaving.after_backward(loss)
        optimizer.step()
        interleaving.after_step()
    seconds = [record["seconds"] for record in interleaving.history]
    early, late = statistics.median(seconds[40:61]), statistics.median(seconds[390:411])
    return {"seconds_cycle_50": early, "seconds_cycle_400": late, "ratio": late / early}


def main(argv: list[str] | None = None) -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = {
        "selection": selection_growth(),
        "assessment": assessment_cost(arguments.pairs),
        "training": training_ratio(arguments.pairs, arguments.steps),
        **provenance("python -m benchmarks overhead " + " ".join(sys.argv[1:] if argv is None else argv)),
    }
    print(json.dumps({name: result[name] for name in ("selection", "assessment", "training")}, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
