"""Folders of runs that never were, to write cards of."""

from __future__ import annotations

import json

PAPER = "https://openreview.net/forum?id=uApm5otXfH"


def cycle(number, first, last, candidate, phase="surrogate", score=0.1, rolled_back=False):
    return {
        "cycle": number,
        "first_step": first,
        "last_step": last,
        "candidate": candidate,
        "family": candidate.partition(":")[0],
        "learning_rate": float(candidate.partition("lr=")[2]),
        "phase": phase,
        "score": score,
        "predicted_mean": None,
        "predicted_std": None,
        "gain": None,
        "rolled_back": rolled_back,
        "seconds": 0.1,
    }


HISTORY = [
    cycle(0, 1, 4, "adamw:lr=0.001", "race", 0.2),
    cycle(1, 5, 8, "sgdm:lr=0.1", "race", -1.0, True),
    cycle(2, 9, 12, "adam:lr=0.01", "race", 0.1),
    cycle(3, 13, 37, "adamw:lr=0.001", "initial", 0.3),
    cycle(4, 38, 62, "adam:lr=0.01", score=-1.0, rolled_back=True),
    cycle(5, 63, 80, "adamw:lr=0.001", score=None),
]
RECORD = {
    "format": 1,
    "versions": {"python": "3.11.7", "hf-iomt": "0.1.0", "torch": "2.13.0"},
    "model": "/somewhere/private/minilm",
    "peft": True,
    "trainer": "IOMTTrainer",
    "candidates": ["adamw:lr=0.001", "adam:lr=0.01", "sgdm:lr=0.1"],
    "settings": {
        "iomt_preset": "default",
        "iomt_candidates": "adamw:lr=1e-3; adam:lr=1e-2; sgdm:lr=0.1",
        "iomt_switch_steps": 25,
        "iomt_beta": 0.7,
        "iomt_distribution_metrics": ["log_me", "leep"],
    },
    "arguments": {"max_steps": 80, "weight_decay": 0.01, "push_to_hub": True, "hub_model_id": "somebody/x"},
    "seconds": {"training": 40.0, "selection": 2.0, "assessment": 1.0, "total": 43.0},
    "steps": 80,
}
LOGS = [
    {"loss": 0.9, "step": 40, "epoch": 0.5},
    {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_runtime": 1.0, "step": 40},
    {"loss": 0.5, "step": 80, "epoch": 1.0},
    {"eval_loss": 0.61234567, "eval_accuracy": 0.75, "eval_runtime": 1.0, "eval_samples_per_second": 9.0, "step": 80},
]
TRANSFERABILITY = {
    "weight": 0.452,
    "performance": 0.562,
    "performance_metric": "accuracy",
    "log_me": -0.653,
    "task": "classification",
    "split": "train",
    "samples": 192,
    "seconds": 3.6,
    "left_out": {"leep": "nothing is in /somewhere/private/minilm any more"},
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "/somewhere/private/minilm",
    "auto_mapping": None,
}


def write_run(folder, history=HISTORY, adapter=ADAPTER, **others):
    files = {"iomt_run": RECORD, "iomt_transferability": TRANSFERABILITY, "trainer_state": {"log_history": LOGS}}
    files |= {"iomt_history": history, "adapter_config": adapter, **others}
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
