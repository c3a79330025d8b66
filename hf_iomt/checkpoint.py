"""What a checkpoint holds of the interleaving, and which checkpoints are whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .optim import Candidate
from .shards import pack

STATE_NAME = "iomt_state.pt"
_VERSION = 3


def describe(
    candidates: Iterable[Candidate], model: nn.Module, shards: int | None = None
) -> dict[str, dict[str, str]]:
    """
    What must be the same when a run is resumed: the candidates, the trainable parameters with their shapes, and how
    many processes share them where they are sharded.
    """
    return {
        "numbers of shards": {} if shards is None else {str(shards): ""},
        "candidates": {candidate.name: "" for candidate in candidates},
        "trainable parameters": {
            name: str(tuple(parameter.shape))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        },
    }


def save_state(
    state: Mapping[str, Any], description: dict[str, dict[str, str]], folder: str, part: int | None = None
) -> None:
    """
    Write the state of an [`Interleaving`], so that a reader finds all of it or none.

    Args:
        state (`Mapping[str, Any]`): What `Interleaving.state_dict` returned.
        description (`dict`): What `describe` returned.
        folder (`str`): The checkpoint.
        part (`int`, *optional*): Number of the process where each writes its own part.
    """
    target = _state_path(folder, part)
    temporary = target.with_name(target.name + ".tmp")
    torch.save({"version": _VERSION, "description": description, "state": pack(dict(state))}, temporary)
    temporary.replace(target)


def load_state(folder: str, description: dict[str, dict[str, str]], part: int | None = None) -> dict[str, Any] | None:
    """
    Read what `save_state` wrote. Sharded tensors are still packed, see [`shards.unpack`].

    Returns:
        The state, or `None` where the checkpoint has neither it nor an optimizer, as with `save_only_model`.

    Raises:
        ValueError: It is damaged, from another version, missing where there is an optimizer, or from a run with other
            candidates or trainable parameters.
    """
    path = _state_path(folder, part)
    if not path.exists():
        # A file of torch, or of FSDP: optimizer.pt, optimizer.bin, optimizer_0.
        optimizer = next((item.name for item in sorted(Path(folder).glob("optimizer*"))), None)
        if optimizer is None:
            return None
        if (other := _state_path(folder, 0 if part is None else None)).exists():
            raise ValueError(
                f"{folder} was written {'with' if part is None else 'without'} FSDP: it has {other.name} instead of "
                f"{path.name}. Resume it in the same way."
            )
        raise ValueError(
            f"{folder} was not written by IOMTTrainer, or not to its end: it has {optimizer} but no {path.name}. "
            f"Resume from another checkpoint; or delete {optimizer} there to go on from its weights alone."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        version, before, state = saved["version"], saved["description"], dict(saved["state"])
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged: {reason} Resume from another checkpoint.") from error
    if version != _VERSION:
        raise ValueError(
            f"{path} has version {version}, but this release reads version {_VERSION}. Resume with the release of "
            "hf-iomt that wrote it."
        )
    for kind, now in description.items():
        differences = [
            *(f"{name}{before[kind][name]} is gone" for name in before[kind] if name not in now),
            *(f"{name}{now[name]} is new" for name in now if name not in before[kind]),
            *(f"{name} was{before[kind][name]}" for name in now if before[kind].get(name, now[name]) != now[name]),
        ]
        if not differences and list(before[kind]) != list(now):
            differences = ["their order"]
        if differences:
            more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise ValueError(
                f"{folder} was written with other {kind}: {', '.join(differences[:3])}{more}. Resume with the same "
                f"ones; or delete {path.name} and {OPTIMIZER_NAME} there to go on from its weights alone."
            )
    return state


def _state_path(folder: str, part: int | None) -> Path:
    name = Path(STATE_NAME)
    return Path(folder) / (name if part is None else f"{name.stem}_{part}{name.suffix}")


def is_whole(folder: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint was written to its end: Trainer's own state is its last file."""
    try:
        json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def find_checkpoint(asked: str | bool | None, output_dir: str) -> str | bool | None:
    """
    The checkpoint to resume from: the newest whole one where `asked` is true.

    Args:
        asked (`str` or `bool`, *optional*): What was passed to `train`.
        output_dir (`str`): The folder of the checkpoints.

    Raises:
        ValueError: The checkpoint asked for was not written to its end.
    """
    if asked is True:
        folders = [
            (int(match[1]), str(path))
            for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
            if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)) and is_whole(path)
        ]
        # Without one Trainer says so.
        return max(folders)[1] if folders else True
    if isinstance(asked, str) and os.path.isdir(asked) and not is_whole(asked):
        raise ValueError(
            f"{asked} was not written to its end: {TRAINER_STATE_NAME} is missing or damaged. Resume from an earlier "
            "checkpoint; `resume_from_checkpoint=True` finds the newest whole one."
        )
    return asked
