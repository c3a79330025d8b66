"""Runs on the deterministic functions: with one torch optimizer, or interleaved in a plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_iomt import InterleavedOptimizer, Interleaving, IOMTTrainingArguments, Selector
from hf_iomt.cycle_plan import plan_cycles
from hf_iomt.optim import PRESETS, get_family, parse_candidates
from hf_iomt.race_plan import plan_race
from hf_iomt.selection import ParameterProjection

from .function_problems import Problem, values_at

GRID = parse_candidates(PRESETS["paper"])
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, random choice": {"iomt_selection": "random"},
    "paper": {"iomt_preset": "paper"},
}


def clip(gradient: torch.Tensor, max_norm: float | None) -> torch.Tensor:
    """Gradients of shape (..., 2), each shortened to a norm; as they are for `None`."""
    if max_norm is None:
        return gradient
    norms = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    shortened: torch.Tensor = gradient * (max_norm / (norms + 1e-6)).clamp(max=1.0)
    return shortened


def minimise(
    family: str,
    settings: Sequence[dict[str, Any]],
    starts: torch.Tensor,
    steps: int,
    max_norm: float | None = None,
) -> torch.Tensor:
    """
    Minimise with one torch optimizer, many runs at a time: all five work on each number by itself.

    Args:
        family (`str`): The optimizer.
        settings (`Sequence[dict]` of length n): Hyperparameters, a run for each.
        starts (`torch.Tensor` of shape (..., functions, 2)): Where each run begins.
        steps (`int`): Steps of each run.
        max_norm (`float`, *optional*): Largest norm of a gradient.

    Returns:
        `torch.Tensor` of shape (steps + 1, n, ..., functions, 2): where each run was.
    """
    points = [torch.nn.Parameter(starts.clone()) for _ in settings]
    known = get_family(family)
    groups = [{"params": [point], **known.arguments(values)} for point, values in zip(points, settings, strict=True)]
    optimizer = known.build(groups, settings[0])
    track = torch.empty((steps + 1, len(settings), *starts.shape), dtype=starts.dtype)
    track[0] = starts
    for step in range(1, steps + 1):
        present = track[step - 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(values_at(present).sum(), present)
        for point, part in zip(points, clip(gradient, max_norm), strict=True):
            point.grad = part
        optimizer.step()
        torch.stack([point.detach() for point in points], out=track[step])
    return track


@dataclass
class Leg:
    """A cycle of an interleaved run, or an entrant's rung of its race: who stepped, and the points it passed."""

    candidate: str
    phase: str
    undone: bool
    points: list[list[float]]


def interleave(
    method: str, problem: Problem, start: Sequence[float], seed: int, steps: int, max_norm: float | None = None
) -> tuple[list[float], list[Leg]]:
    """
    Minimise with the candidates of the paper, interleaved, in a plain loop.

    Args:
        method (`str`): A key of `METHODS`.
        problem ([`Problem`]): What to minimise.
        start (`Sequence[float]` of length 2): Where to begin.
        seed (`int`): Seed of the choices.
        steps (`int`): Steps, those of the race included.
        max_norm (`float`, *optional*): Largest norm of a gradient.

    Returns:
        Where it ended, and what was done.
    """
    point = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = InterleavedOptimizer([point], GRID)
    args = IOMTTrainingArguments("unused", use_cpu=True, report_to="none", iomt_candidates="paper", **METHODS[method])
    race = plan_race(range(len(GRID)), args.iomt_race_steps or 0, steps)
    switch_steps, initial_cycles = plan_cycles(args, steps - (race.total_steps if race is not None else 0), None)

    @torch.no_grad()
    def probe() -> NDArray[np.float64]:
        return np.array([problem.function(point).item()])

    interleaving = Interleaving(
        optimizer,
        Selector(
            [candidate.family for candidate in GRID],
            [candidate.settings for candidate in GRID],
            args.selector_settings(initial_cycles, 0.5),
            seed,
        ),
        tensors=[point],
        projection=ParameterProjection([("point", point)], seed),
        settings=args.interleaving_settings(switch_steps),
        probe=probe,
        race=race,
    )
    track = []
    interleaving.begin()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.function(point)
        loss.backward()
        # Before a cycle begins, because one that did damage may be undone here.
        interleaving.after_backward(loss.detach())
        point.grad = clip(point.grad, max_norm) if point.grad is not None else None
        before = point.tolist()
        optimizer.step()
        track.append((before, point.tolist()))
        interleaving.after_step()
    interleaving.finish()
    legs = []
    for record in interleaving.history:
        first, last = record["first_step"] - 1, record["last_step"]
        passed = [track[first][0], *(after for _, after in track[first:last])]
        legs.append(Leg(record["candidate"], record["phase"], record["rolled_back"], passed))
    return point.tolist(), legs
