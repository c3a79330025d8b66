"""The paper's deterministic functions of two variables, with their minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


def rosenbrock(points: torch.Tensor) -> torch.Tensor:
    """(1 − x)² + 100·(y − x²)², least at (1, 1). Points have shape (..., 2), values (...), here and below."""
    x, y = points.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(points: torch.Tensor) -> torch.Tensor:
    """(x² + y − 11)² + (x + y² − 7)², least at four points."""
    x, y = points.unbind(-1)
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def griewank(points: torch.Tensor) -> torch.Tensor:
    """1 + (x² + y²) / 4000 − cos(x)·cos(y / √2), least at the origin."""
    x, y = points.unbind(-1)
    return 1 + (x**2 + y**2) / 4000 - torch.cos(x) * torch.cos(y / math.sqrt(2))


def ackley(points: torch.Tensor) -> torch.Tensor:
    """−20·exp(−0.2·√((x² + y²) / 2)) − exp((cos 2πx + cos 2πy) / 2) + e + 20, least at the origin, a cone's tip."""
    # Unlike the root of a sum, the norm has a gradient, of zero, at the tip.
    radius = torch.linalg.vector_norm(points, dim=-1) / math.sqrt(2)
    return -20 * torch.exp(-0.2 * radius) - torch.exp(torch.cos(2 * math.pi * points).mean(-1)) + math.e + 20


@dataclass(frozen=True)
class Problem:
    """
    A function of two variables, whose least value is 0.

    Args:
        name (`str`): Its name.
        function (`Callable`): Values of shape (...) for points of shape (..., 2).
        minima (`tuple`): The points where it is least.
        start (`tuple[float, float]`): Where the runs of the figures begin.
        window (`tuple[float, float, float, float]`): Left, right, bottom and top of what is drawn and of the region
            that random starts come from.
    """

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    minima: tuple[tuple[float, float], ...]
    start: tuple[float, float]
    window: tuple[float, float, float, float]


PROBLEMS = (
    Problem("Rosenbrock", rosenbrock, ((1.0, 1.0),), (-1.5, 2.0), (-2.0, 2.0, -1.0, 3.0)),
    Problem(
        "Himmelblau",
        himmelblau,
        ((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
        (0.3, -4.8),
        (-5.5, 5.5, -5.5, 5.5),
    ),
    Problem("Griewank", griewank, ((0.0, 0.0),), (-1.0, 2.8), (-5.0, 5.0, -5.0, 5.0)),
    Problem("Ackley", ackley, ((0.0, 0.0),), (-2.6, 3.4), (-4.5, 4.5, -4.5, 4.5)),
)


def values_at(points: torch.Tensor) -> torch.Tensor:
    """Values of shape (..., functions) at points of shape (..., functions, 2), one for each function."""
    return torch.stack([problem.function(points[..., n, :]) for n, problem in enumerate(PROBLEMS)], dim=-1)
