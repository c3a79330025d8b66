"""How much memory training needs for parameters, gradients, optimizer states and copies, computed beforehand."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .generators import preserved_generators
from .interleaving_settings import InterleavingSettings
from .optim import Candidate, Family, InterleavedOptimizer, Storage, local_part
from .race_plan import FINALISTS, RacePlan

logger = logging.getLogger(__name__)

# Optimizers that treat small tensors in another way take this for a large one.
_SIDE = 64
# Where an optimizer cannot be tried out: as for the Adam family. One's own class may do more in a step than step.
_USUAL_STATE = 2.0
_TRIED_OUT = ("torch", "transformers", "bitsandbytes", "hf_iomt")


@dataclass(frozen=True)
class MemoryNeed:
    """
    Bytes at the peak of a run, without activations, frozen weights and the temporary tensors of a step.

    Args:
        parameters (`int`): Of the trainable parameters.
        in_use (`int`): Of them, their gradients, the state of the active family and running means.
        kept (`int`): Of copies and states that are not in use, which `iomt_offload` moves elsewhere.
        together (`int`): Of both, where they lie in the same memory. Their peaks are at different moments, so this is
            at most the sum.
    """

    parameters: int
    in_use: int
    kept: int
    together: int


def state_size(family: Family, candidate: Candidate, like: torch.Tensor) -> float:
    """
    Bytes of optimizer state for a byte of parameters, found by stepping a small matrix.

    Args:
        family ([`~optim.Family`]): The candidate's family.
        candidate ([`~optim.Candidate`]): Its settings tell which slots there are.
        like (`torch.Tensor`): A trainable parameter: gives type and device.

    Returns:
        `float`: 2 for Adam, 1 for SGD with momentum, and so on. Single numbers such as step counters do not count. Of
            classes that are neither torch's nor transformers' nor bitsandbytes' nor ours nothing is known: 2.
    """
    if family.optimizer_class.__module__.partition(".")[0] not in _TRIED_OUT:
        return _USUAL_STATE
    parameter = torch.nn.Parameter(torch.zeros(_SIDE, _SIDE, dtype=like.dtype, device=like.device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        with preserved_generators(0):
            optimizer = family.build([parameter], candidate.settings)
            if callable(getattr(optimizer, "train", None)):
                optimizer.train()  # type: ignore[attr-defined]
            optimizer.step()
    except Exception as error:
        logger.debug("No estimate of the state of %s: %s", candidate.name, error)
        return _USUAL_STATE
    slots = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
    return sum(_bytes(slot) for slot in slots if slot.numel() > 1) / _bytes(parameter)


def memory_need(
    tensors: Sequence[torch.Tensor],
    optimizer: InterleavedOptimizer,
    settings: InterleavingSettings,
    race: RacePlan | None = None,
    tested: bool = False,
    strides: bool = False,
    watched: bool = False,
) -> MemoryNeed:
    """
    What a run needs at most, whoever wins the race.

    With P for a copy of the trainable parameters (and running statistics), S for the state of an entrant or family
    and A for a running mean (P, or twice that of 16-bit parameters), the peaks are

    - range test: 2P + gradients + the two moments of AdamW;
    - strides after it: 2P + gradients + S in use, P + gradients kept;
    - race: 2P + A + Σ (P + S) over all entrants; P + gradients + S + A of it in use;
    - cycles: P + gradients + Σ S over the families, + P for rollback, + P for patience, + P for the watch over
      overfitting, + A for scores by the probe.

    Args:
        tensors (`Sequence[torch.Tensor]`): What training changes, see [`~optim.trainable_tensors`].
        optimizer ([`~optim.InterleavedOptimizer`]): Gives the candidates.
        settings ([`InterleavingSettings`]): How cycles are scored and undone.
        race ([`RacePlan`], *optional*): The race, if there is one.
        tested (`bool`, *optional*, defaults to `False`): Whether a range test comes before it.
        strides (`bool`, *optional*, defaults to `False`): Whether strides are measured after that, which leave no more
            than three candidates where there is no race.
        watched (`bool`, *optional*, defaults to `False`): Whether there is an [`OverfittingWatch`].
    """
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    copy, gradients = sum(map(_bytes, tensors)), sum(map(_bytes, trained))
    mean = sum(
        _bytes(tensor) // tensor.itemsize * torch.promote_types(tensor.dtype, torch.float32).itemsize
        if tensor.is_floating_point()
        else _bytes(tensor)
        for tensor in tensors
    )
    states = [round(gradients * size) for size in _state_sizes(optimizer, trained[0])]
    # In use and kept, moment by moment.
    moments: list[tuple[int, int]] = [(copy + 3 * gradients, copy)] if tested else []
    # The parameters before the last step, and those at the start with their gradients.
    moments += [(copy + 2 * gradients + state, 2 * gradients) for state in states if strides]
    if race is not None:
        kept = copy
        for entrant in race.entrants:
            moments.append((copy + gradients + states[entrant] + mean, kept))
            kept += copy + states[entrant]
            moments.append((copy + mean, kept))
    largest: dict[str, int] = {}
    for candidate, state in zip(optimizer.candidates, states, strict=True):
        largest[candidate.family] = max(state, largest.get(candidate.family, 0))
    families = sorted(largest.values(), reverse=True)[: None if race is None and not strides else FINALISTS]
    tail = mean if settings.score == "probe" else 0
    copies = copy * (settings.rollback + (settings.rollback and settings.patience > 0) + watched)
    for active in (families[0], families[-1]):
        kept = copies + (sum(families) - active if optimizer.idle_state == "keep" else 0)
        moments.append((copy + gradients + active + tail, kept))
        if settings.score == "probe":
            # The probe is measured at the mean, and the last parameters wait.
            moments.append((copy + active + tail, kept + copy))
    return MemoryNeed(
        parameters=gradients,
        in_use=max(used for used, _ in moments),
        kept=max(kept for _, kept in moments),
        together=max(used + kept for used, kept in moments),
    )


def report_memory(need: MemoryNeed, storage: Storage) -> None:
    """
    Log what a run needs.

    Raises:
        ValueError: Copies go to a disk that has no room for them.
    """
    where = {"none": "", "cpu": " in the CPU's memory", "disk": f" on the disk of {storage.folder}"}[storage.place]
    logger.info(
        "Memory, without activations and frozen weights: at most %s for trainable parameters of %s, %s",
        _readable(need.in_use if where else need.together),
        _readable(need.parameters),
        f"and {_readable(need.kept)}{where}." if where else f"{_readable(need.kept)} of it for what is not in use.",
    )
    if storage.place == "disk" and storage.folder is not None:
        os.makedirs(storage.folder, exist_ok=True)
        free = shutil.disk_usage(storage.folder).free
        if free < need.kept:
            raise ValueError(
                f"`iomt_offload='disk'` may need {_readable(need.kept)} in {storage.folder}, but only "
                f"{_readable(free)} are free there. Make room, choose another `output_dir`, race fewer candidates, or "
                "set `iomt_offload` to 'cpu' or 'none'."
            )


def _state_sizes(optimizer: InterleavedOptimizer, like: torch.Tensor) -> list[float]:
    known: dict[Any, float] = {}
    sizes = []
    for candidate in optimizer.candidates:
        # Which hyperparameters there are, and are not 0, tells the slots.
        key = candidate.family, tuple((name, bool(value)) for name, value in candidate.settings.items())
        if key not in known:
            known[key] = state_size(optimizer.families[candidate.family], candidate, like)
        sizes.append(known[key])
    return sizes


def _bytes(tensor: torch.Tensor) -> int:
    part = local_part(tensor)
    return part.numel() * part.element_size()


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
