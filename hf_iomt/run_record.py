"""What a run was and how long it took, written beside its history for whoever reads it later."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import AcceleratorConfig

from . import __version__
from .json_files import write_json
from .selection import HISTORY_NAME

if TYPE_CHECKING:
    from .interleaving import Interleaving
    from .range_test import RangeTest
    from .training_args import IOMTTrainingArguments
    from .transferability import Transferability

    _Base = Trainer
else:
    _Base = object

RUN_NAME = "iomt_run.json"
_FORMAT = 1

_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "trl", "sentence-transformers")
# Where files lie, how much is printed, and what depends on the machine: no part of what a run is.
_LEFT_OUT = {
    *("output_dir", "logging_dir", "run_name", "project", "resume_from_checkpoint", "deepspeed", "local_rank"),
    *("disable_tqdm", "log_level", "log_level_replica", "dataloader_pin_memory", "do_train", "do_eval", "do_predict"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
}
# Secrets and places, by how their names end, also within settings that are dictionaries; and tokens of a text.
_PRIVATE_ENDINGS = ("token", "_key", "_dir", "_path", "_file", "password")
_WRITTEN_TOKENS = {f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk")}
# What Trainer may make of a default, or a user may write instead of it.
_NOTHING: tuple[Any, ...] = (None, "", "none", [], {})
# Trainers make `False` of `None` here. Elsewhere it is a choice, such as whether the best metric is the largest.
_FALSE_IS_NOTHING = {"activation_checkpointing", "gradient_checkpointing", "ddp_broadcast_buffers"}


class RunRecordMixin(_Base):
    """
    Writes `iomt_run.json`, `iomt_history.json` and `trainer_state.json` into the output folder, at every checkpoint
    and at the end of training, and the first two into checkpoints too.

    A resumed run adds its seconds to those of the checkpoint, so it ends with the files of one that was not stopped,
    but for the seconds themselves.
    """

    args: IOMTTrainingArguments
    interleaving: Interleaving | None
    transferability: Transferability | None
    range_test: RangeTest | None
    _restored: dict[str, Any] | None
    _began: float | None = None
    # Of the whole run before this process; then, once training has ended, of all of it.
    _earlier_seconds = 0.0
    _total_seconds: float | None = None

    def begin_record(self) -> None:
        """Start the clock; the callback calls it before anything is measured."""
        self._began, self._total_seconds = time.perf_counter(), None
        if self._restored is None:
            # Where the selection starts afresh, so do the history and the clock.
            self._earlier_seconds = 0.0

    def end_record(self) -> None:
        """Stop the clock and write the files."""
        self._total_seconds = self._seconds_so_far()
        self.save_run()

    def save_run(self) -> None:
        """Write the files into the output folder, or into that of the trial in a hyperparameter search."""
        if self.interleaving is None or not self.args.should_save:
            return
        folder = self._run_folder()
        os.makedirs(folder, exist_ok=True)
        self._write_record(folder)
        self.state.save_to_json(os.path.join(folder, TRAINER_STATE_NAME))

    def update_state_file(self) -> None:
        """Write `trainer_state.json` again, where training has ended: an evaluation afterwards is part of its logs."""
        path = os.path.join(self._run_folder(), TRAINER_STATE_NAME)
        # A folder that was moved or deleted since then stays so.
        if self._total_seconds is not None and self.args.should_save and os.path.exists(path):
            self.state.save_to_json(path)

    def run_record(self) -> dict[str, Any]:
        """What `iomt_run.json` holds, see `docs/report.md`."""
        assert self.interleaving is not None
        selector, loop = self.interleaving.selector.settings, self.interleaving.settings
        resolved = {"iomt_switch_steps": loop.switch_steps, "iomt_initial_cycles": selector.initial_cycles}
        names = [item.name for item in fields(self.args) if item.name.startswith("iomt_")]
        model = _model_name(self.model)
        return {
            "format": _FORMAT,
            "versions": _versions(),
            "model": model,
            "model_is_folder": model is not None and os.path.isdir(model),
            "peft": hasattr(self.model, "peft_config"),
            "trainer": type(self).__name__,
            "candidates": [candidate.name for candidate in self.interleaving.optimizer.candidates],
            "settings": {name: _plain(resolved.get(name, getattr(self.args, name))) for name in names},
            "arguments": changed_arguments(self.args),
            "seconds": self._seconds(),
            "steps": self.state.global_step,
        }

    def _seconds(self) -> dict[str, float]:
        """
        Seconds of the run by what they were spent on. The range test is selection, evaluations and checkpoints are
        training.
        """
        assert self.interleaving is not None
        total = self._seconds_so_far() if self._total_seconds is None else self._total_seconds
        selection = sum(record.seconds for record in self.interleaving.records)
        selection += self.range_test.seconds if self.range_test is not None else 0.0
        assessment = self.transferability.seconds if self.transferability is not None else 0.0
        return {
            "training": max(total - selection - assessment, 0.0),
            "selection": selection,
            "assessment": assessment,
            "total": total,
        }

    def _seconds_so_far(self) -> float:
        return self._earlier_seconds + (0.0 if self._began is None else time.perf_counter() - self._began)

    def _run_folder(self) -> str:
        return str(self._get_output_dir(getattr(self, "_trial", None)))

    def _write_record(self, folder: str) -> None:
        assert self.interleaving is not None
        write_json(self.interleaving.history, os.path.join(folder, HISTORY_NAME))
        write_json(self.run_record(), os.path.join(folder, RUN_NAME))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # Before the checkpoint is pushed to the Hub.
        self.save_run()
        super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.interleaving is not None and self.args.should_save:
            self._write_record(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._earlier_seconds = _read_total(Path(checkpoint) / RUN_NAME)


def changed_arguments(args: TrainingArguments) -> dict[str, Any]:
    """
    Trainer's arguments that differ from their defaults, as plain JSON values, without those of IOMT.

    Paths, tokens and what changes no result are left out.

    Args:
        args (`TrainingArguments`): The arguments of a run.
    """
    changed: dict[str, Any] = {}
    for item in fields(args):
        name, value = item.name, getattr(args, item.name)
        if name in _LEFT_OUT or name.startswith("iomt_") or not item.init:
            continue
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if name == "accelerator_config":
            # Trainer takes a part of it away when it is used.
            before = AcceleratorConfig().to_dict()
            found = {} if value is None else value.to_dict()
            value, default = {key: item for key, item in found.items() if item != before.get(key)}, None
        value, default = _plain(value), _plain(default)
        if not _is_same(name, value, default) and not _is_private(name, value):
            changed[name] = value
    return changed


def _is_same(name: str, value: Any, default: Any) -> bool:
    if name in _FALSE_IS_NOTHING:
        value, default = value or None, default or None
    # 0 and `False` are equal for Python.
    equal = value == default and isinstance(value, bool) == isinstance(default, bool)
    return equal or (_is_nothing(value) and _is_nothing(default))


def _is_nothing(value: Any) -> bool:
    return not isinstance(value, (bool, int, float)) and value in _NOTHING


def _is_private(name: str, value: Any) -> bool:
    is_path = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", ".")))
    return is_path or (name.endswith(_PRIVATE_ENDINGS) and name not in _WRITTEN_TOKENS)


def _plain(value: Any) -> Any:
    """A value that JSON can hold; what it cannot is told by its name."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        pairs = [(str(key), _plain(item)) for key, item in value.items()]
        return {key: item for key, item in pairs if not _is_private(key, item)}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "hf-iomt": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _model_name(model: Any) -> str | None:
    """Name or path of the model that was loaded; `None` for one made from a configuration."""
    adapters = getattr(model, "peft_config", None)
    if adapters:
        name = next(iter(adapters.values())).base_model_name_or_path
    else:
        name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return str(name) if name else None


def _read_total(path: Path) -> float:
    """Seconds that a run had taken at a checkpoint; 0 where it did not write them."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]["total"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0
