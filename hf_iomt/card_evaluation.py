"""The last evaluation of a run, for its card and the card's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
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

    A file that is older than the last evaluation in the logs, by its epoch, is of another run, of one that went on
    since then, or of the model before training: the logs count then.

    Args:
        folder (`Path`): Where `trainer.save_metrics("eval", ...)` may have written `eval_results.json`.
        log_history (`Iterable`): Trainer's logs.
    """
    try:
        found = json.loads((folder / RESULTS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    written, written_epoch = _metrics(found), _epoch(found)
    logged, logged_epoch = _last_logged(log_history)
    if not written or (logged_epoch is not None and (written_epoch is None or written_epoch < logged_epoch)):
        values = logged
    elif written_epoch is not None and written_epoch == logged_epoch:
        # The file may hold more, such as a perplexity. Where both speak, it may be that of a run as long as this one.
        values = {**written, **logged}
    else:
        values = written
    return dict(sorted(values.items(), key=lambda item: item[0].endswith("loss")))


def _last_logged(log_history: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], float | None]:
    """The metrics of the last step that was evaluated, also on several data sets, and the epoch then."""
    evaluations = [entry for entry in log_history if _metrics(entry)]
    last = [entry for entry in evaluations if entry.get("step") == evaluations[-1].get("step")]
    values: dict[str, float] = {}
    for entry in last:
        values.update(_metrics(entry))
    return values, _epoch(last[-1]) if last else None


def merge_results(
    known: list[EvalResult] | None, values: Mapping[str, float], task: str | None, dataset: str | None
) -> list[EvalResult]:
    """
    The evaluation as entries of `model-index`.

    Entries that the card has are kept. Those on the data set of the run keep their task and get the values of the last
    evaluation; where there are none, they are made. Which these are is told by `dataset`; else they are those on the
    only data set and split that the card has. Without either all entries stay as they are.

    Args:
        known (`list[EvalResult]`, *optional*): The entries of the card.
        values (`Mapping[str, float]`): The metrics of the last evaluation.
        task (`str`, *optional*): The task, as the Hub names it.
        dataset (`str`, *optional*): The data set, as the Hub names it.
    """
    # The Hub takes no entry without a task and a data set.
    named: dict[str, Any] = {} if dataset is None else {"dataset_type": dataset, "dataset_name": dataset}
    known = list(known or [])
    own = _entries_of_the_run(known, dataset)
    if own or (known and dataset is None):
        if any(entry.dataset_type == dataset for entry in own):
            # Its trainer knows more of it, such as its name.
            named = {}
        return [
            replace(entry, metric_value=_rounded(values[entry.metric_type]), **named)
            if entry.metric_type in values and any(entry is item for item in own)
            else entry
            for entry in known
        ]
    base: dict[str, Any] = {"task_type": task or "other", "dataset_type": _UNKNOWN, "dataset_name": _UNKNOWN, **named}
    return known + [
        EvalResult(metric_type=name, metric_value=_rounded(value), metric_name=title(name), **base)
        for name, value in values.items()
    ]


def _entries_of_the_run(known: Sequence[EvalResult], dataset: str | None) -> list[EvalResult]:
    """Entries on the data set that the run was evaluated on, on one split of it; empty where that is not certain."""
    places = {(entry.dataset_type, entry.dataset_config, entry.dataset_split) for entry in known}
    if dataset is not None:
        named = {place for place in places if place[0] == dataset} or {
            place for place in places if place[0] == _UNKNOWN
        }
        # Of several splits, the one that this function made.
        places = (
            named if len(named) == 1 else named & {(dataset, None, None)} or (places if len(places) == 1 else set())
        )
    if len(places) != 1:
        return []
    return [entry for entry in known if (entry.dataset_type, entry.dataset_config, entry.dataset_split) in places]


def title(metric: str) -> str:
    """The metric as Trainer's cards name it."""
    return " ".join(part.capitalize() for part in metric.split("_"))


def _epoch(entry: Any) -> float | None:
    found = entry.get("epoch") if isinstance(entry, Mapping) else None
    return float(found) if isinstance(found, (int, float)) else None


def _metrics(entry: Any) -> dict[str, float]:
    if not isinstance(entry, Mapping):
        return {}
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
