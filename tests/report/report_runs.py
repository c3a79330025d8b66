"""Folders as runs leave them behind, of any length and with whatever may happen in one."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

FAMILIES = ("adam", "rmsprop", "adagrad", "sgdm", "sgd")
PAPER = [f"{family}:lr={rate}" for family in FAMILIES for rate in ("0.001", "0.01", "0.1")]
STATE, RECORD, TRANSFERABILITY = "trainer_state.json", "iomt_run.json", "iomt_transferability.json"


def cycle(candidate, first, last, **values):
    """A record with what is of interest, and plain values for the rest."""
    return {
        "cycle": 0,
        "first_step": first,
        "last_step": last,
        "candidate": candidate,
        "family": candidate.partition(":")[0],
        "learning_rate": float(candidate.partition("lr=")[2].partition(",")[0]),
        "phase": "surrogate",
        "score": 0.1,
        "predicted_mean": None,
        "predicted_std": None,
        "gain": None,
        "rolled_back": False,
        "seconds": 0.5,
        **values,
    }


def write(folder, history, logs=None, record=None, transferability=None) -> Path:
    """Write the files of a run; those without a value are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = [{**item, "cycle": number} for number, item in enumerate(history)]
    (folder / "iomt_history.json").write_text(json.dumps(numbered), encoding="utf-8")
    for name, value in (
        (STATE, None if logs is None else {"log_history": logs}),
        (RECORD, record),
        (TRANSFERABILITY, transferability),
    ):
        if value is not None:
            (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def long_run(folder, cycles, candidates=PAPER, race=True, evaluations=12, broken=0.0, undone=0.1, length=25) -> Path:
    """A run of this many cycles, always the same: a race, cycles, losses that fall, evaluations."""
    chance = random.Random(0)
    history, field = [], list(candidates)

    def add(candidate, steps, **values):
        first = history[-1]["last_step"] + 1 if history else 1
        record = cycle(candidate, first, first + steps - 1, **values)
        if values["phase"] != "race":
            record["learning_rate"] *= 1 - len(history) / (cycles + 100)
        history.append(record)

    for steps, kept in ((5, 7), (5, 3), (10, 3)) if race else ():
        for candidate in field:
            add(candidate, steps, phase="race", rolled_back=candidate.startswith("sgd:") and steps == 5)
        field = field[:kept]
    for number in range(cycles):
        mean, std, lost = chance.gauss(0.05, 0.03), 0.02 + 0.05 * chance.random(), chance.random() < undone
        known = {"predicted_mean": mean, "predicted_std": std} if number > 5 and len(field) > 1 else {}
        add(
            chance.choice(field),
            length,
            phase="surrogate" if known else "initial",
            score=-1.0 if lost else chance.gauss(mean, std),
            rolled_back=lost,
            **known,
        )
    history[-1]["score"] = None
    total = history[-1]["last_step"]
    logs, spacing = [], max(1, total // 400)
    for step in range(spacing, total + 1, spacing):
        loss = 2.3 * math.exp(-2.5 * step / total) + chance.gauss(0.1, 0.05)
        if chance.random() < broken:
            loss = chance.choice([math.nan, math.inf, 1e9])
        logs.append({"step": step, "loss": loss, "learning_rate": 0.01})
    for number in range(1, evaluations + 1):
        part = number / evaluations
        logs.append(
            {
                "step": round(part * total),
                "eval_loss": 0.15 + 2.3 * math.exp(-2 * part),
                "eval_accuracy": 1 - 0.9 * math.exp(-2 * part),
                "eval_f1": 1 - 0.95 * math.exp(-2 * part),
                "eval_runtime": 1.0,
            }
        )
    record = {
        "format": 1,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "model": "base",
        "peft": True,
        "trainer": "IOMTTrainer",
        "candidates": list(candidates),
        "settings": {"iomt_beta": 0.5, "iomt_switch_steps": length},
        "arguments": {"max_steps": total},
        "seconds": {"training": 110.0, "selection": 9.0, "assessment": 3.6, "total": 122.6},
        "steps": total,
    }
    return write(folder, history, logs, record, TRANSFERABLE)


TRANSFERABLE = {
    "weight": 0.452,
    "performance": 0.562,
    "performance_metric": "accuracy",
    "log_me": -0.653,
    "leep": None,
    "h_score": None,
    "split": "train",
    "samples": 192,
    "seconds": 3.6,
    "left_out": {"leep": "the checkpoint has no head"},
}
