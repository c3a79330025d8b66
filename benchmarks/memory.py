"""
What training needs in memory.

    python -m benchmarks memory --output benchmarks/results/memory.json

1. `IOMTTrainer` with default settings over `Trainer` with AdamW: MiniLM with LoRA on the Quora question pairs, as in
   the `cpu` tier, 100 steps of 16; training alone, and followed by an evaluation on 500 pairs with scikit-learn's
   accuracy and F1, whose modules the surrogate needs too.
2. Full fine-tuning of a BERT with 63 million parameters from a config, batches of one short text: what `IOMTTrainer`
   needs beyond `Trainer` with AdamW, over what `hf_iomt.memory` computes beforehand.

In the second part glibc's `MALLOC_MMAP_THRESHOLD_` is held at its initial 128 KiB for all, so that memory that was
freed is given back; the first part leaves it alone.

Every run is a process of its own, and its memory is the greatest resident set that the system reports for it (with
pages of files that are mapped). Runs of a pair follow each other. A run whose result is in the output is not made
again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .provenance import provenance

# The peak of a race is when the last entrant of the first rung ends it, and of cycles when every family was there.
_FULL: dict[str, dict[str, Any]] = {
    "default": {},
    "default, disk": {"iomt_offload": "disk"},
    "no race": {"iomt_race_steps": 0, "iomt_selection": "cyclical"},
    "no race, disk": {"iomt_race_steps": 0, "iomt_selection": "cyclical", "iomt_offload": "disk"},
    "no race, no rollback, idle states reset": {
        "iomt_race_steps": 0,
        "iomt_selection": "cyclical",
        "iomt_rollback": False,
        "iomt_idle_state": "reset",
    },
}
_LORA = ("lora", "lora, evaluated")
_BASELINE = "Trainer, AdamW"
_MIB = 2**20
_STEPS = 40


def _arguments(folder: str, **settings: Any) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "save_strategy": "no",
        "report_to": "none",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        **settings,
    }


def _train(work: str, folder: str) -> dict[str, Any]:
    """Make one run in this process. Imports are what a script of that trainer needs: they take memory too."""
    import torch

    torch.set_num_threads(1)
    part, method = work.split("/")
    parts, settings = _full() if part == "full" else _lora()
    need: dict[str, Any] = {}
    if method == _BASELINE:
        from transformers import Trainer, TrainingArguments

        if part == "full":
            # The same modules on both sides, so that what differs is parameters' copies alone.
            import hf_iomt.trainer  # noqa: F401
        learning_rate = 5e-5 if part == "full" else 1e-3
        args: Any = TrainingArguments(**_arguments(folder, learning_rate=learning_rate, **settings))
        trainer: Any = Trainer(args=args, **parts)
    else:
        from hf_iomt import IOMTTrainer, IOMTTrainingArguments

        if part == "full":
            settings = {**settings, "iomt_switch_steps": 5, "iomt_transferability": "0.5", **_FULL[method]}
        args = IOMTTrainingArguments(**_arguments(folder, **settings))
        trainer = IOMTTrainer(args=args, **parts)
    if part == "full":
        trainer.add_callback(_stopping())
    trainer.train()
    if part == "lora, evaluated":
        from .tuning import classification_metrics

        trainer.compute_metrics = classification_metrics
        trainer.evaluate(parts["eval_dataset"])
    if method != _BASELINE:
        found = trainer.memory_need
        need = {
            "parameters_mib": found.parameters / _MIB,
            "expected_mib": (found.in_use if args.iomt_offload == "disk" else found.together) / _MIB,
            "on_disk_mib": found.kept / _MIB if args.iomt_offload == "disk" else 0.0,
        }
    return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, **need}


def _lora() -> tuple[dict[str, Any], dict[str, Any]]:
    from .experiment import Experiment
    from .tuning import build_task

    experiment = Experiment("memory", "cpu", "qqp", "minilm", "lora", (), batch_size=16, size=64, steps=100, test=500)
    task = build_task(experiment, seed=0)
    parts = {
        "model": task.model,
        "train_dataset": task.train,
        "eval_dataset": task.test,
        "data_collator": task.collator,
    }
    arguments = {"max_steps": 100, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16}
    return parts, {**arguments, "remove_unused_columns": False}


def _full() -> tuple[dict[str, Any], dict[str, Any]]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=512,
        num_hidden_layers=20,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=32,
    )
    texts = torch.randint(1000, (64, 8))
    # One class, which every candidate learns: entrants that do damage are dropped, and would take no memory.
    rows = [{"input_ids": text, "labels": 0} for text in texts]
    parts = {"model": BertForSequenceClassification(config), "train_dataset": rows}
    return parts, {"max_steps": 300, "per_device_train_batch_size": 1}


def _stopping() -> Any:
    """Ends a run early: the race is as long as in one of all its steps, and every family has had a cycle."""
    from transformers import TrainerCallback

    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = control.should_training_stop or state.global_step >= _STEPS

    return Stopping()


def _measure(work: str) -> dict[str, Any]:
    """The result of one run, from a process of its own."""
    # glibc raises its threshold for what it maps, and gives back when freed, up to 32 MiB: then freed tensors count.
    threshold = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)} if work.startswith("full/") else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **threshold}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.memory", "--work", work, "--output", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{work} failed:\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(path.read_text())
    print(work, result, flush=True)
    return result


def summarize(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Ratios of pairs for LoRA, and measured over expected memory for full fine-tuning."""
    lora = {}
    for part in _LORA:
        pairs = zip(runs[f"{part}/default"], runs[f"{part}/{_BASELINE}"], strict=True)
        ratios = [ours["peak_mib"] / plain["peak_mib"] for ours, plain in pairs]
        lora[part] = {
            "ratios": ratios,
            "median_ratio": statistics.median(ratios),
            "median_trainer_mib": statistics.median(run["peak_mib"] for run in runs[f"{part}/{_BASELINE}"]),
        }
    baseline = [run["peak_mib"] for run in runs[f"full/{_BASELINE}"]]
    full = {}
    for method in _FULL:
        measured = runs[f"full/{method}"]
        size = measured[0]["parameters_mib"]
        # Trainer with AdamW: parameters, gradients and two moments.
        extra = [run["peak_mib"] - plain for run, plain in zip(measured, baseline, strict=True)]
        expected = measured[0]["expected_mib"] - 4 * size
        full[method] = {
            "parameters_mib": size,
            "extra_in_parameters": [item / size for item in extra],
            "expected_extra_in_parameters": expected / size,
            "median_total_over_expected": (statistics.median(extra) + 4 * size) / measured[0]["expected_mib"],
            "median_extra_over_expected": statistics.median(extra) / expected if expected else None,
            "on_disk_in_parameters": measured[0]["on_disk_mib"] / size,
        }
    return {"lora": lora, "full": full}


def main(argv: list[str] | None = None) -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="Pairs of runs with LoRA.")
    parser.add_argument("--repetitions", type=int, default=2, help="Runs of each kind of full fine-tuning.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work:
        arguments.output.write_text(json.dumps(_train(arguments.work, str(arguments.output.parent))))
        return
    old = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    runs: dict[str, list[dict[str, Any]]] = old.get("runs", {})
    lora = [f"{part}/{method}" for part in _LORA for method in (_BASELINE, "default")]
    full = [f"full/{method}" for method in (_BASELINE, *_FULL)]
    for works, repetitions in ((lora, arguments.pairs), (full, arguments.repetitions)):
        for number in range(repetitions):
            for work in works:
                if len(runs.setdefault(work, [])) > number:
                    continue
                runs[work].append(_measure(work))
                result = {
                    "runs": runs,
                    **provenance("python -m benchmarks memory " + " ".join(sys.argv[1:] if argv is None else argv)),
                }
                arguments.output.write_text(json.dumps(result, indent=1))
    result = {**json.loads(arguments.output.read_text()), **summarize(runs)}
    arguments.output.write_text(json.dumps(result, indent=1))
    print(json.dumps(summarize(runs), indent=1))


if __name__ == "__main__":
    main()
