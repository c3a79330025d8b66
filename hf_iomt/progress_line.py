"""[`ProgressLineCallback`]: what is being tried, in the progress bar."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .selection import CycleRecord

if TYPE_CHECKING:
    from .trainer import IOMTTrainerMixin

# Names of candidates that set many hyperparameters are cut.
_LONGEST_NAME = 40


def progress_line(records: list[CycleRecord], step: int, learning_rate: float, rollbacks: int) -> str:
    """
    The present decision in a few words: `adam:lr=0.01, lr 0.0075, score 0.012, rollbacks 1`.

    Args:
        records (`list[CycleRecord]`): The cycles so far, the present one last.
        step (`int`): The last step that was made.
        learning_rate (`float`): The learning rate that it used.
        rollbacks (`int`): How many cycles were undone.
    """
    if not records:
        return ""
    present = records[-1]
    name = present.candidate
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    score = next((record.score for record in reversed(records) if record.score is not None), None)
    parts = [
        f"race {name}" if present.phase == "race" else name,
        # The next entrant of a race may be on the track, and not have made a step.
        f"lr {learning_rate if present.first_step <= step else present.learning_rate:.2g}",
        f"score {score:.2g}" if score is not None else "",
        f"rollbacks {rollbacks}",
    ]
    return ", ".join(part for part in parts if part)


class ProgressLineCallback(TrainerCallback):
    """
    Writes [`progress_line`] behind the progress bar that Trainer's callback draws, or above it in a notebook.

    It looks for the bar at each step, so that it does nothing where the callback was removed or replaced by one
    without a bar, where bars are disabled, and on other ranks. A text that somebody else has written there stays.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer that owns the interleaving.
    """

    def __init__(self, trainer: IOMTTrainerMixin) -> None:
        self._trainer = trainer
        self._written = ""
        # Cycles that are over, and how many of them were undone: a long run has thousands, and a step must not count
        # them all. The last two may still be marked.
        self._settled = (0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Another run has another history."""
        self._settled = (0, 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the line; the bar shows it when it is drawn next."""
        interleaving = self._trainer.interleaving
        if interleaving is None:
            return
        bars = [bar for callback in self._trainer.callback_handler.callbacks if (bar := _find_bar(callback))]
        if not bars:
            return
        records, rate = interleaving.records, interleaving.optimizer.last_learning_rate
        line = progress_line(records, state.global_step, rate, self._rollbacks(records))
        for bar, attribute in bars:
            if getattr(bar, attribute) in (None, "", self._written, _as_html(self._written)):
                setattr(bar, attribute, line if attribute == "postfix" else _as_html(line))
        self._written = line

    def _rollbacks(self, records: list[CycleRecord]) -> int:
        start, found = self._settled
        end = max(start, len(records) - 2)
        self._settled = end, found + sum(record.rolled_back for record in records[start:end])
        return self._settled[1] + sum(record.rolled_back for record in records[end:])


def _as_html(line: str) -> str:
    return html.escape(line) + "<br>"


def _find_bar(callback: TrainerCallback) -> tuple[Any, str] | None:
    """The bar of a progress callback while it has one, and which of its attributes is shown as a text."""
    if isinstance(callback, ProgressCallback):
        bar = callback.training_bar
        # Without bars it may be a stand-in that takes everything.
        return (bar, "postfix") if isinstance(getattr(bar, "postfix", 0), (str, type(None))) else None
    # Its class can be imported within IPython only.
    tracker = getattr(callback, "training_tracker", None)
    return (tracker, "prefix") if isinstance(getattr(tracker, "prefix", None), str) else None
