"""[`TrackerLegendCallback`]: tells trackers what the numbers of candidates and phases stand for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import (  # type: ignore[attr-defined]
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from .optim import Candidate
from .selection import PHASES

if TYPE_CHECKING:
    from .trainer import IOMTTrainerMixin

logger = logging.getLogger(__name__)

NAME = "iomt_legend"


def make_legend(candidates: Sequence[Candidate]) -> dict[str, dict[str, str]]:
    """
    The names behind the numbers of `iomt/candidate` and `iomt/phase`.

    Returns:
        `dict` that JSON holds: `{"candidate": {"0": "adam:lr=0.01", ...}, "phase": {"0": "race", ...}}`.
    """
    return {
        "candidate": {str(index): candidate.name for index, candidate in enumerate(candidates)},
        "phase": {str(index): phase for index, phase in enumerate(PHASES)},
    }


class TrackerLegendCallback(TrainerCallback):
    """
    Writes [`make_legend`] into what W&B, trackio, TensorBoard and MLflow know about a run.

    The arguments and the model's configuration, which Trainer's callbacks hand to trackers, stay as they are: they are
    saved too. So it is written to the trackers themselves, at the first step, when all of them have begun their run.
    Others have the names of [`share_metrics`], which hold index, family and learning rate.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer, whose callbacks tell which trackers are in use.
    """

    def __init__(self, trainer: IOMTTrainerMixin) -> None:
        self._trainer = trainer
        self._written = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A new run of training may be a new run of the tracker."""
        self._written = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the legend once."""
        if self._written or not state.is_world_process_zero:
            return
        self._written = True
        legend = make_legend(self._trainer.interleaved_optimizer.candidates)
        for callback in self._trainer.callback_handler.callbacks:
            try:
                _write(callback, legend, state.global_step)
            except Exception:
                # Trackers fail in many ways, none of which is worth the run.
                logger.warning("%s did not take the legend of the candidates.", type(callback).__name__, exc_info=True)


def _write(callback: TrainerCallback, legend: dict[str, dict[str, str]], step: int) -> None:
    # Their callbacks have imported them.
    if isinstance(callback, WandbCallback):
        run = sys.modules["wandb"].run
        if run is not None:
            run.config.update({NAME: legend}, allow_val_change=True)
    elif isinstance(callback, TrackioCallback):
        # Takes the place of W&B's, but is a plain dictionary; sent with the first numbers.
        sys.modules["trackio"].config.update({NAME: legend})
    elif isinstance(callback, TensorBoardCallback):
        if callback.tb_writer is not None:
            callback.tb_writer.add_text(NAME, _format_table(legend), step)
    elif isinstance(callback, MLflowCallback):
        mlflow = sys.modules["mlflow"]
        if mlflow.active_run() is not None:
            # One each: the length of a value is limited.
            limit = mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
            mlflow.log_params(
                {
                    f"{NAME}/{kind}/{index}": name[:limit]
                    for kind, names in legend.items()
                    for index, name in names.items()
                }
            )


def _format_table(legend: dict[str, dict[str, str]]) -> str:
    """A table in Markdown, which TensorBoard shows."""
    lines = ["| number | value | name |", "|---|---|---|"]
    for kind, names in legend.items():
        lines += [f"| iomt/{kind} | {index} | {name} |" for index, name in names.items()]
    return "\n".join(lines)
