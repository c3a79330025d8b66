"""What a run spent its time on."""

from __future__ import annotations

from .run import Run

# Names as `iomt_run.json` has them, in the order of the pictures.
PARTS = ("training", "selection", "assessment")


def time_parts(run: Run) -> dict[str, float]:
    """
    Seconds of training (with evaluations and checkpoints), of selection and of measuring ω_t.

    Without `iomt_run.json` training is what Trainer's own clock leaves, if it logged the end of training; a part that
    is not known is left out.

    Args:
        run ([`Run`]): The run.
    """
    recorded = run.record.get("seconds") if run.record is not None else None
    if isinstance(recorded, dict) and all(isinstance(recorded.get(name), (int, float)) for name in PARTS):
        return {name: float(recorded[name]) for name in PARTS}
    selection = sum(float(record.get("seconds", 0.0)) for record in run.history)
    assessment = float((run.transferability or {}).get("seconds", 0.0))
    total = next(
        (float(entry["train_runtime"]) for entry in reversed(run.log_history) if "train_runtime" in entry), None
    )
    known = {"selection": selection, "assessment": assessment}
    return known if total is None else {"training": max(total - selection - assessment, 0.0), **known}


def format_seconds(seconds: float) -> str:
    """A time for people: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
