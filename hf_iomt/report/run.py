"""A run as its folder tells it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As `selection`, `transferability`, `run_record` and transformers name them. Importing these would load torch, which
# takes longer than the whole report.
HISTORY_NAME = "iomt_history.json"
TRANSFERABILITY_NAME = "iomt_transferability.json"
RUN_NAME = "iomt_run.json"
STATE_NAME = "trainer_state.json"

# What there is to see in a file, for a reader who lacks it.
_CONTENTS = {
    STATE_NAME: "losses and evaluations",
    RUN_NAME: "the settings and the time of training",
    TRANSFERABILITY_NAME: "the transferability",
}
_NEEDED = ("cycle", "first_step", "last_step", "candidate", "family", "learning_rate", "phase")


@dataclass(frozen=True)
class Run:
    """
    What the files in the folder of a run say.

    Args:
        folder (`Path`): The output folder, or a checkpoint.
        history (`list[dict]`): One dictionary per cycle, see [`~selection.CycleRecord`]; at least one.
        log_history (`list[dict]`): What Trainer logged, in order; empty where `trainer_state.json` is missing.
        transferability (`dict`, *optional*): The fields of [`~transferability.Transferability`].
        record (`dict`, *optional*): What the run was and how long it took, from `iomt_run.json`.
        missing (`tuple[str, ...]`): A sentence for each file that is missing or cannot be read.
    """

    folder: Path
    history: list[dict[str, Any]]
    log_history: list[dict[str, Any]]
    transferability: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name; that of a checkpoint with its run."""
        path = self.folder.resolve()
        return f"{path.parent.name}/{path.name}" if path.name.startswith("checkpoint-") else path.name or str(path)

    @property
    def steps(self) -> int:
        """The last optimizer step."""
        return int(self.history[-1]["last_step"])

    @property
    def candidates(self) -> list[str]:
        """Names of the candidates in the order of the list; of those that made steps where no record names them."""
        used = dict.fromkeys(str(record["candidate"]) for record in self.history)
        listed = self.record.get("candidates", []) if self.record is not None else []
        return list(dict.fromkeys([*listed, *used]))

    @property
    def race(self) -> list[dict[str, Any]]:
        """The records of the race."""
        return [record for record in self.history if record["phase"] == "race"]

    @property
    def cycles(self) -> list[dict[str, Any]]:
        """The records after the race."""
        return [record for record in self.history if record["phase"] != "race"]

    @property
    def undone(self) -> list[dict[str, Any]]:
        """The cycles that were rolled back; an entrant of the race that did damage is none."""
        return [record for record in self.cycles if record.get("rolled_back")]

    @property
    def switches(self) -> list[int]:
        """First steps of the records whose candidate is another than the one before."""
        pairs = zip(self.history, self.history[1:], strict=False)
        return [int(after["first_step"]) for before, after in pairs if before["candidate"] != after["candidate"]]

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of IOMT by its name, such as `iomt_beta`, if it is known."""
        settings = self.record.get("settings", {}) if self.record is not None else {}
        return settings.get(name, default)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """
    Read the folder of a run: `args.output_dir`, or one of its checkpoints.

    Files other than the history are optional; `Run.missing` tells which are not there.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Raises:
        FileNotFoundError: There is no history in the folder.
        ValueError: The history cannot be read, or holds no cycle.
    """
    path = Path(folder)
    source = path / HISTORY_NAME
    if not source.is_file():
        nested = sorted(item.parent for item in path.glob(f"*/{HISTORY_NAME}")) if path.is_dir() else []
        hint = f" There is one in {nested[0]}." if nested else ""
        raise FileNotFoundError(
            f"{path} has no {HISTORY_NAME}. Give the `output_dir` of a run of IOMTTrainer that has ended or has saved "
            f"a checkpoint.{hint}"
        )
    history = _read(source)
    if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
        raise ValueError(f"{source} is not a history: it must be a list of cycles.")
    if not history:
        raise ValueError(f"{source} holds no cycle: the run ended before its first step.")
    for record in history:
        if lacking := [name for name in _NEEDED if name not in record]:
            raise ValueError(f"{source} is not a history: a cycle has no {lacking[0]!r}.")
    missing: list[str] = []
    state, record = (_read_optional(path / name, missing) for name in (STATE_NAME, RUN_NAME))
    # A file beside a run that had no use for ω_t is of another run in the same folder.
    transferability = _read_optional(path / TRANSFERABILITY_NAME, missing) if _weighs(record) else None
    logs = [] if state is None else state.get("log_history", [])
    return Run(path, history, logs, transferability, record, tuple(missing))


def _weighs(record: dict[str, Any] | None) -> bool:
    """Whether the run asked for ω_t: it was set, or the surrogate chose among several candidates."""
    settings = (record or {}).get("settings", {})
    alone = record is not None and len(record.get("candidates", [])) == 1
    chosen = settings.get("iomt_selection", "surrogate") == "surrogate" and not alone
    return chosen or settings.get("iomt_transferability", "auto") != "auto"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_optional(path: Path, missing: list[str]) -> dict[str, Any] | None:
    reason = f"{path.name} is missing"
    if path.is_file():
        try:
            value = _read(path)
            if isinstance(value, dict):
                return value
            reason = f"{path.name} is not what it should be"
        except ValueError:
            reason = f"{path.name} is damaged"
    missing.append(f"{reason}: {_CONTENTS[path.name]} cannot be shown.")
    return None
