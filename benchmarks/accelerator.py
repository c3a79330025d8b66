"""
What training costs on an accelerator: time and memory of the device.

    python -m benchmarks accelerator --output benchmarks/results/accelerator.json

A BERT of the base size (110 million parameters, random weights: nothing is downloaded), batches of 32 texts of 128
tokens, bf16, with LoRA on queries and values and in full. Three ways of training for as many steps:

- `Trainer` with the fused AdamW that is its default;
- `IOMTTrainer` with two candidates of (nearly) the same AdamW and no race, so that both do the same work on the model:
  what scores, copies and choices cost;
- `IOMTTrainer` with default settings but for ω_t, which depends on the data and not on the length of a run; its
  range test comes before these steps, and counts.

Runs of a round follow each other, every second round backwards, and ratios are taken round by round. Memory is the
most that torch had allocated on the device in a run, and what `hf_iomt.memory` computes beforehand is compared with
what `IOMTTrainer` needs beyond `Trainer`. A round that is in the output is not made again.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

from .provenance import provenance

_BASELINE, _ALIKE, _DEFAULT = "Trainer, AdamW", "IOMTTrainer, AdamW twice", "IOMTTrainer, default"
_LEARNING_RATES = {"lora": 1e-3, "full": 5e-5}
_MIB = 2**20


def _model(mode: str, config: BertConfig) -> Any:
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    if mode == "full":
        return model
    return get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    )


def _rows(config: BertConfig) -> list[dict[str, Any]]:
    """Texts of tokens drawn at random, whose first one tells the label."""
    texts = torch.randint(config.vocab_size, (2048, config.max_position_embeddings))
    return [{"input_ids": text, "labels": int(text[0]) % 2} for text in texts]


def _train(mode: str, method: str, config: BertConfig, steps: int, batch_size: int) -> dict[str, float]:
    """Seconds and MiB of one run."""
    rate = _LEARNING_RATES[mode]
    with tempfile.TemporaryDirectory() as folder:
        shared: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": steps,
            "per_device_train_batch_size": batch_size,
            "save_strategy": "no",
            "report_to": "none",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "bf16": torch.cuda.is_available(),
            "learning_rate": rate,
        }
        parts: dict[str, Any] = {"model": _model(mode, config), "train_dataset": _rows(config)}
        if method == _BASELINE:
            trainer: Any = Trainer(args=TrainingArguments(**shared), **parts)
        else:
            chosen: dict[str, Any] = {"iomt_candidates": f"adamw:lr={rate}|{1.001 * rate}", "iomt_race_steps": 0}
            args = IOMTTrainingArguments(**shared, iomt_transferability="0.5", **(chosen if method == _ALIKE else {}))
            trainer = IOMTTrainer(args=args, **parts)
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        trainer.train()
        if on_gpu:
            torch.cuda.synchronize()
        result = {"seconds": time.perf_counter() - began}
        if on_gpu:
            result["peak_mib"] = torch.cuda.max_memory_allocated() / _MIB
        if method != _BASELINE:
            result["selection_seconds"] = sum(record["seconds"] for record in trainer.iomt_history)
            result["cycles"] = len(trainer.iomt_history)
            need = trainer.memory_need
            result |= {"parameters_mib": need.parameters / _MIB, "expected_mib": need.together / _MIB}
    del trainer, parts
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return result


def _round(mode: str, config: BertConfig, steps: int, batch_size: int, backwards: bool) -> dict[str, dict[str, float]]:
    methods = (_BASELINE, _ALIKE, _DEFAULT)[:: -1 if backwards else 1]
    return {method: _train(mode, method, config, steps, batch_size) for method in methods}


def summarize(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Paired ratios of time, and memory beyond `Trainer`'s over what was computed beforehand."""
    summary: dict[str, Any] = {
        "trainer_seconds": statistics.median(runs[_BASELINE]["seconds"] for runs in rounds),
    }
    for method in (_ALIKE, _DEFAULT):
        ratios = [runs[method]["seconds"] / runs[_BASELINE]["seconds"] for runs in rounds]
        summary[method] = {
            "ratios": ratios,
            "median_ratio": statistics.median(ratios),
            "selection_share": statistics.median(
                runs[method]["selection_seconds"] / runs[method]["seconds"] for runs in rounds
            ),
        }
        first = rounds[0][method]
        if "peak_mib" in first:
            # Trainer with AdamW: parameters, gradients and two moments.
            expected = first["expected_mib"] - 4 * first["parameters_mib"]
            summary[method] |= {
                "peak_mib": first["peak_mib"],
                "trainer_peak_mib": rounds[0][_BASELINE]["peak_mib"],
                "extra_mib": first["peak_mib"] - rounds[0][_BASELINE]["peak_mib"],
                "expected_extra_mib": expected,
            }
    return summary


def main(argv: list[str] | None = None) -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tiny", action="store_true", help="A model that trains anywhere, to try the command out.")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    tiny: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(max_position_embeddings=128, **(tiny if arguments.tiny else {}))
    result: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        result = json.loads(arguments.output.read_text())
    for mode in _LEARNING_RATES:
        measured = result.setdefault(mode, {"steps": arguments.steps, "rounds": []})
        rounds, steps = measured["rounds"], measured["steps"]
        if len(rounds) < arguments.rounds:
            # The first runs load kernels, and do not count.
            _round(mode, config, min(steps, 60), arguments.batch_size, backwards=False)
        while len(rounds) < arguments.rounds:
            backwards = len(rounds) % 2 == 1
            rounds.append(_round(mode, config, steps, arguments.batch_size, backwards))
            print(f"{mode}, round {len(rounds)}: {rounds[-1]}", flush=True)
            measured["summary"] = summarize(rounds)
            command = "python -m benchmarks accelerator " + " ".join(sys.argv[1:] if argv is None else argv)
            result |= provenance(command)
            if arguments.output:
                arguments.output.write_text(json.dumps(result, indent=1))
    print(json.dumps({mode: result[mode].get("summary") for mode in _LEARNING_RATES}, indent=1))


if __name__ == "__main__":
    main()
