"""A run in sentences."""

from __future__ import annotations

import math

import numpy as np

from .calibration import calibrate, predictions, why_none
from .losses import Points, evaluations, is_loss, training_losses
from .names import capitalize, count, format_rate, per_cent, spoken_names
from .run import Run
from .shares import candidate_shares
from .times import format_seconds, time_parts
from .transferability_parts import describe_transferability

_RANGE_TEST, _LEFT_OUT = "iomt/range_test/learning_rate", "iomt/range_test/left_out"
# Candidates that are named; the others are counted.
_NAMED = 3


def summarize_run(run: Run) -> list[str]:
    """
    What a run did, in plain words, the most important first.

    Args:
        run ([`Run`]): The run.

    Returns:
        `list[str]`: Sentences.
    """
    sentences = [
        _length(run),
        _who(run),
        _range_test(run),
        _undone(run),
        _loss(run),
        *_evaluation(run),
        _surrogate(run),
        _time(run),
        *describe_transferability(run)[:1],
        *run.missing,
    ]
    return [sentence for sentence in sentences if sentence]


def format_value(value: float) -> str:
    """A loss or a metric with as many digits as tell something."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def _length(run: Run) -> str:
    race = run.race
    cycles = f"{count(len(run.cycles), 'cycle')}, with {count(len(run.switches), 'switch', 'switches')}"
    if not race:
        return f"The run made {run.steps:,} steps in {cycles}."
    entrants = len({record["candidate"] for record in race})
    steps = race[-1]["last_step"] - race[0]["first_step"] + 1
    out = len({record["candidate"] for record in race if record.get("rolled_back")})
    damage = f", of which {count(out, 'one', 'ones').split()[0]} did damage and {'was' if out == 1 else 'were'} out"
    return (
        f"The run made {run.steps:,} steps: a race of {steps:,} steps among {count(entrants, 'candidate')}"
        f"{damage if out else ''}, then {cycles} in all."
    )


def _who(run: Run) -> str:
    names = spoken_names(run.candidates)
    rows = [row for row in candidate_shares(run) if row.steps > 0]
    if len(rows) == 1:
        return f"{names[rows[0].candidate]} did all the steps."
    parts = [f"{names[row.candidate]} did {per_cent(row.share)} of the steps" for row in rows[:1]]
    parts += [f"{names[row.candidate]} {per_cent(row.share)}" for row in rows[1:_NAMED]]
    if len(rows) > _NAMED:
        rest = sum(row.share for row in rows[_NAMED:])
        parts.append(f"{count(len(rows) - _NAMED, 'other candidate')} {per_cent(rest)}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}."


def _range_test(run: Run) -> str:
    found = [entry[_RANGE_TEST] for entry in run.log_history if isinstance(entry.get(_RANGE_TEST), (int, float))]
    left_out = [int(entry[_LEFT_OUT]) for entry in run.log_history if isinstance(entry.get(_LEFT_OUT), (int, float))]
    if not found:
        return ""
    sentence = f"The range test found {format_rate(found[-1])} to be the learning rate"
    if not left_out:
        return f"{sentence}."
    named = count(left_out[-1], "candidate") if left_out[-1] else "no candidate"
    return f"{sentence} of AdamW, and left out {named} whose steps are far too large or small by it."


def _undone(run: Run) -> str:
    undone = run.undone
    if not undone:
        return "No cycle was rolled back."
    names = spoken_names(run.candidates)
    worst = max(candidate_shares(run), key=lambda row: row.rolled_back)
    whose = f", {worst.rolled_back if worst.rolled_back < len(undone) else 'all'} of {names[worst.candidate]}"
    was = "was" if len(undone) == 1 else "were"
    return f"{capitalize(count(len(undone), 'cycle'))} {was} rolled back{whose if len(undone) > 1 else ''}."


def _loss(run: Run) -> str:
    losses = training_losses(run)
    if not losses:
        return "" if any("losses" in text for text in run.missing) else "No training loss was logged."
    finite = [value for _, value in losses if math.isfinite(value)]
    broken = len(losses) - len(finite)
    note = (
        f" {capitalize(count(broken, 'logged loss', 'logged losses'))} {'was' if broken == 1 else 'were'} not finite."
    )
    if not finite:
        return note.strip()
    part = max(1, len(finite) // 10)
    first, last = float(np.median(finite[:part])), float(np.median(finite[-part:]))
    verb = "fell" if last < first else "rose" if last > first else "stayed"
    where = f"from {format_value(first)} to {format_value(last)}" if last != first else f"at {format_value(first)}"
    what = "the medians of the first and the last tenth of what was logged"
    return f"The training loss {verb} {where}{f' ({what})' if part > 1 else ''}.{note if broken else ''}"


def _evaluation(run: Run) -> list[str]:
    found = evaluations(run)
    if not found:
        return [] if any("losses" in text for text in run.missing) else ["There was no evaluation."]
    step = max(points[-1][0] for points in found.values())
    last = {name: points[-1][1] for name, points in found.items() if points[-1][0] == step}
    # The file has them by the alphabet.
    last = dict(sorted(last.items(), key=lambda item: not is_loss(item[0])))
    sentences = [
        f"The last evaluation, at step {step:,}: "
        + ", ".join(f"{name.replace('_', ' ')} {format_value(value)}" for name, value in last.items())
        + "."
    ]
    if "loss" in found and (best := _best("loss", found["loss"])) is not None and best[0] != step:
        sentences.append(f"The least evaluation loss was {format_value(best[1])}, at step {best[0]:,}.")
    return sentences


def _best(name: str, points: Points) -> tuple[int, float] | None:
    finite = [point for point in points if math.isfinite(point[1])]
    if not finite:
        return None
    return min(finite, key=lambda point: point[1] if is_loss(name) else -point[1])


def _surrogate(run: Run) -> str:
    items = predictions(run)
    if not items:
        return f"There are no predictions of the surrogate to look at: {why_none(run)}."
    return calibrate(items).verdict


def _time(run: Run) -> str:
    parts = time_parts(run)
    if "training" not in parts:
        return ""
    total = sum(parts.values())
    training, selection, assessment = (
        per_cent(parts[name] / total if total else 0.0) for name in ("training", "selection", "assessment")
    )
    return (
        f"It took {format_seconds(total)}: {training} for training, {selection} for choosing and judging, "
        f"{assessment} for measuring ω_t."
    )
