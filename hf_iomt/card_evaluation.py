"""The last evaluation of a run, for its card and the card's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

RESULTS_NAME = "eval_results.json"
_PREFIX = "eval_"
# What an evaluation reports beside what it measures.
_TIMES = {"runtime", "samples_per_second", "steps_per_second", "samples", "model_preparation_time", "num_tokens"}
_UNKNOWN = "unknown"


def read_evaluation(folder: Path, log_history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """
    What the run was last evaluated to, by metric, the loss last.

    Args:
        folder (`Path`): Where `trainer.save_metrics("eval", ...)` may have written `eval_results.json`.
        log_history (`Iterable`): Trainer's logs, for runs that did not call it.
    """
    try:
        found = json.loads((folder / RESULTS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    values = _metrics(found if isinstance(found, dict) else {})
    if not values:
        logs = [(entry.get("step"), _metrics(entry)) for entry in log_history]
        evaluations = [(step, metrics) for step, metrics in logs if metrics]
        # Several data sets are evaluated at one step.
        for step, metrics in evaluations:
            if step == evaluations[-1][0]:
                values.update(metrics)
    return dict(sorted(values.items(), key=lambda item: item[0].endswith("loss")))


def merge_results(
    known: list[EvalResult] | None, values: Mapping[str, float], task: str | None, dataset: str | None
) -> list[EvalResult]:
    """
    The evaluation as entries of `model-index`.

    Entries that the card has are kept with their task, and get the values of the last evaluation. Where there are
    none, they are made.

    Args:
        known (`list[EvalResult]`, *optional*): The entries of the card.
        values (`Mapping[str, float]`): The metrics of the last evaluation.
        task (`str`, *optional*): The task, as the Hub names it.
        dataset (`str`, *optional*): The data set, as the Hub names it.
    """
    # The Hub takes no entry without a task and a data set.
    named: dict[str, Any] = {} if dataset is None else {"dataset_type": dataset, "dataset_name": dataset}
    if known:
        if any(entry.dataset_type == dataset for entry in known):
            # Its trainer knows more of it, such as its name.
            named = {}
        return [
            replace(entry, metric_value=_rounded(values[entry.metric_type]), **named)
            if entry.metric_type in values
            else entry
            for entry in known
        ]
    base: dict[str, Any] = {"task_type": task or "other", "dataset_type": _UNKNOWN, "dataset_name": _UNKNOWN, **named}
    return [
        EvalResult(metric_type=name, metric_value=_rounded(value), metric_name=title(name), **base)
        for name, value in values.items()
    ]


def title(metric: str) -> str:
    """The metric as Trainer's cards name it."""
    return " ".join(part.capitalize() for part in metric.split("_"))


def _metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    names = {name: name.removeprefix(_PREFIX) for name in entry if name.startswith(_PREFIX)}
    return {
        short: float(entry[name])
        for name, short in names.items()
        if short not in _TIMES
        and not short.endswith(tuple(f"_{item}" for item in _TIMES))
        and isinstance(entry[name], (int, float))
        and not isinstance(entry[name], bool)
        and math.isfinite(entry[name])
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
