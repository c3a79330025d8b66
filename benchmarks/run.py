"""
Train tasks with methods and write one JSON file per run.

    python -m benchmarks.run --tasks digits_vit digits_cnn --methods grid default paper --seeds 0 1 2 --jobs 2

A finished result is not run again, so a killed sweep continues where it stopped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import multiprocessing
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hf_iomt.json_files import write_json

from .methods import METHODS, expand
from .provenance import provenance

RESULTS = Path(__file__).parent / "results"


def result_path(task: str, method: str, seed: int, results: Path = RESULTS) -> Path:
    """Where the JSON of one run lies."""
    return results / task / re.sub(r"[^\w.-]+", "_", method) / f"seed{seed}.json"


def run_one(task_name: str, method: str, seed: int, path: Path, command: str) -> dict[str, Any]:
    """Train and evaluate once, and write the result to `path`."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from transformers import Trainer, TrainingArguments

    from hf_iomt import IOMTTrainer, IOMTTrainingArguments
    from hf_iomt.optim import get_family, parse_candidates

    from .tasks import TASKS, classification_metrics

    torch.set_num_threads(1)
    task = TASKS[task_name](seed)
    spec = METHODS[method]
    with tempfile.TemporaryDirectory() as folder:
        shared: dict[str, Any] = {
            "output_dir": folder,
            "seed": seed,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 20,
            "per_device_eval_batch_size": 64,
            "disable_tqdm": True,
            **task.arguments,
        }
        parts: dict[str, Any] = {
            "model": task.model,
            "train_dataset": task.train_dataset,
            "eval_dataset": task.test_dataset,
            "data_collator": task.data_collator,
            "compute_metrics": classification_metrics,
        }
        if "single" in spec:
            (candidate,) = parse_candidates(spec["single"])
            family = get_family(candidate.family)
            trainer = Trainer(
                args=TrainingArguments(**shared, learning_rate=candidate.learning_rate),
                optimizer_cls_and_kwargs=(family.optimizer_class, family.arguments(candidate.settings)),
                **parts,
            )
        else:
            trainer = IOMTTrainer(args=IOMTTrainingArguments(**shared, **spec["iomt"]), **parts)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        metrics = trainer.evaluate()
    result = {
        "task": task_name,
        "method": method,
        "specification": spec,
        "seed": seed,
        "metrics": {key: _finite(value) for key, value in metrics.items() if isinstance(value, float)},
        "train_seconds": seconds,
        "losses": [[entry["step"], _finite(entry["loss"])] for entry in trainer.state.log_history if "loss" in entry],
        "iomt_history": getattr(trainer, "iomt_history", None),
        "transferability": vars(found) if (found := getattr(trainer, "transferability", None)) else None,
        **provenance(command),
    }
    write_json(result, path)
    return result


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def main(argv: list[str] | None = None) -> None:
    """Run every combination that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", required=True, help="names in benchmarks/methods.py, or 'grid'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    arguments = parser.parse_args(argv)
    command = "python -m benchmarks.run " + " ".join(sys.argv[1:] if argv is None else argv)
    pending = [
        (task, method, seed, path, command)
        for task in arguments.tasks
        for seed in arguments.seeds
        for method in expand(arguments.methods)
        if not (path := result_path(task, method, seed, arguments.results)).exists()
    ]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # One process per run: a run cannot see what an earlier one left behind.
    with concurrent.futures.ProcessPoolExecutor(
        arguments.jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        futures = [pool.submit(run_one, *job) for job in pending]
        for count, future in enumerate(concurrent.futures.as_completed(futures), 1):
            result = future.result()
            print(
                f"[{count}/{len(pending)}] {result['task']} {result['method']} seed {result['seed']}: "
                f"accuracy {result['metrics']['eval_accuracy']:.4f}, {result['train_seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
