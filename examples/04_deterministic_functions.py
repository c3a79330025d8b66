r"""
Minimises four functions of two variables with single optimizers and by interleaving them, in a plain PyTorch loop.

Redraws Figure 7(a) of the paper for the functions of its Figure 1: the paths over the contours, that of the
interleaved run in the colour of the optimizer that was active, and below them the value at each step.

Single optimizers are shown with the best of three learning rates, which is known in hindsight only; interleaving
starts from all 15 combinations and is run once per seed, and the run with the median result is drawn.

It needs no data, and `pip install hf-iomt[plots]` for the picture:

    python examples/04_deterministic_functions.py --output runs/functions.png

Shorter:

    python examples/04_deterministic_functions.py --output runs/functions.png --steps 200 --seeds 1
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from hf_iomt import InterleavedOptimizer, Interleaving, InterleavingSettings, Selector, SelectorSettings
from hf_iomt.selection import ParameterProjection

Array = NDArray[np.float64]

# The candidates of the paper, Section 5.1.
FAMILIES = {"sgd": "SGD", "sgdm": "SGDM", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adam": "Adam"}
LEARNING_RATES = (0.1, 0.01, 0.001)
# Colours of Okabe and Ito, which the colour-blind can tell apart, on grey contours.
COLOURS = {"sgd": "#0072B2", "sgdm": "#56B4E9", "adagrad": "#009E73", "rmsprop": "#D55E00", "adam": "#CC79A7"}

START: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": "black"}
END: dict[str, Any] = {"marker": "D", "markersize": 8, "markerfacecolor": "#F0E442", "markeredgecolor": "black"}
MINIMUM: dict[str, Any] = {"marker": "+", "markersize": 14, "markeredgewidth": 2.5, "markeredgecolor": "black"}


def rosenbrock(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A curved valley with a flat floor."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Four minima of equal depth."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def griewank(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Regular waves on a shallow bowl."""
    return 1 + (x**2 + y**2) / 4000 - torch.cos(x) * torch.cos(y / math.sqrt(2))


def ackley(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Many local minima on the way to a steep funnel."""
    waves = torch.exp((torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)) / 2)
    return -20 * torch.exp(-0.2 * torch.sqrt((x**2 + y**2) / 2)) - waves + math.e + 20


@dataclass(frozen=True)
class Problem:
    """A function with its minima, where to start, and the part of the plane to draw: left, right, bottom, top."""

    name: str
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    extent: tuple[float, float, float, float]


PROBLEMS = (
    Problem("Rosenbrock", rosenbrock, (-1.5, 2.0), ((1.0, 1.0),), (-2.0, 2.0, -1.0, 3.0)),
    Problem(
        "Himmelblau",
        himmelblau,
        (0.3, -4.8),
        ((3.0, 2.0), (-2.8051, 3.1313), (-3.7793, -3.2832), (3.5844, -1.8481)),
        (-5.5, 5.5, -5.5, 5.5),
    ),
    # Near a ridge, so that optimizers part.
    Problem("Griewank", griewank, (-1.0, 2.8), ((0.0, 0.0),), (-5.0, 3.0, -2.0, 6.0)),
    Problem("Ackley", ackley, (-2.6, 3.4), ((0.0, 0.0),), (-4.5, 4.5, -4.5, 4.5)),
)


@dataclass(frozen=True)
class Run:
    """
    What a run did.

    Args:
        candidate (`str`): The only candidate, or `interleaved`.
        points (`Array` of shape (steps, 2, 2)): Position before and after each step.
        values (`Array` of shape (steps,)): Value before each step.
        families (`list[str]`): Family that made each step.
        kept (`Array` of shape (steps,)): Whether the step was not undone.
        end (`Array` of shape (2,)): Position at the end, once damage was undone.
        result (`float`): Value there; infinity where it is not finite.
    """

    candidate: str
    points: Array
    values: Array
    families: list[str]
    kept: NDArray[np.bool_]
    end: Array
    result: float


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print and draw."""
    # 1. Arguments.
    parser = argparse.ArgumentParser(description="Single optimizers against interleaving, in two dimensions.")
    parser.add_argument("--output", type=Path, default=Path("functions.png"), help="picture to write")
    parser.add_argument("--steps", type=int, default=500, help="steps of a run")
    parser.add_argument("--seeds", type=int, default=5, help="interleaved runs per function")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1 or arguments.seeds < 1:
        parser.error("--steps and --seeds must be at least 1")
    # Tensors of two numbers gain nothing from threads.
    torch.set_num_threads(1)

    # 2. Every candidate alone, and all of them interleaved.
    single = {
        problem.name: [
            minimise_alone(problem, f"{family}:lr={rate}", arguments.steps)
            for family in FAMILIES
            for rate in LEARNING_RATES
        ]
        for problem in PROBLEMS
    }
    interleaved = {
        problem.name: sorted(
            (minimise_interleaved(problem, arguments.steps, seed) for seed in range(arguments.seeds)),
            key=lambda run: run.result,
        )
        for problem in PROBLEMS
    }

    # 3. The values reached.
    print_table(single, interleaved, arguments.steps)

    # 4. The picture.
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    draw(single, interleaved).savefig(arguments.output, dpi=150)
    print(f"Drawn: {arguments.output}")


def minimise_alone(problem: Problem, candidate: str, steps: int) -> Run:
    """Minimise with one candidate."""
    point = torch.nn.Parameter(torch.tensor(problem.start))
    # With one candidate this is the torch optimizer of that name.
    optimizer = InterleavedOptimizer([point], candidate)
    points, values = [], []
    for _ in range(steps):
        before = point.tolist()
        loss = problem.function(*point)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        points.append((before, point.tolist()))
        values.append(loss.item())
    families = [optimizer.active.family] * steps
    return _run(problem, candidate, point, points, values, families, np.ones(steps, dtype=bool))


def minimise_interleaved(problem: Problem, steps: int, seed: int) -> Run:
    """Minimise with all candidates, interleaved as in Algorithm 1, with damage undone."""
    point = torch.nn.Parameter(torch.tensor(problem.start))
    rates = "|".join(str(rate) for rate in LEARNING_RATES)
    optimizer = InterleavedOptimizer([point], "; ".join(f"{family}:lr={rates}" for family in FAMILIES))
    selector = Selector(
        [candidate.family for candidate in optimizer.candidates],
        [candidate.settings for candidate in optimizer.candidates],
        SelectorSettings(initial_cycles=5),
        seed,
    )

    @torch.no_grad()
    def probe() -> Array:
        # There is no data to sample from: the function itself says how good a point is.
        return np.array([problem.function(*point).item()])

    interleaving = Interleaving(
        optimizer,
        selector,
        tensors=[point],
        projection=ParameterProjection([("point", point)], seed),
        settings=InterleavingSettings(switch_steps=10, score="probe", rollback=True, patience=4),
        probe=probe,
    )
    points, values, families = [], [], []
    interleaving.begin()
    for _ in range(steps):
        before = point.tolist()
        loss = problem.function(*point)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # At the end of a cycle this chooses who steps next.
        interleaving.after_backward(loss.detach())
        optimizer.step()
        points.append((before, point.tolist()))
        values.append(loss.item())
        families.append(optimizer.active.family)
        # And this goes back to where the cycle began, should it have done damage.
        interleaving.after_step()
    interleaving.finish()
    kept = np.ones(steps, dtype=bool)
    for record in interleaving.history:
        kept[record["first_step"] - 1 : record["last_step"]] = not record["rolled_back"]
    return _run(problem, "interleaved", point, points, values, families, kept)


def _run(
    problem: Problem,
    candidate: str,
    point: torch.Tensor,
    points: Sequence[tuple[list[float], list[float]]],
    values: Sequence[float],
    families: list[str],
    kept: NDArray[np.bool_],
) -> Run:
    with torch.no_grad():
        result = problem.function(*point).item()
    return Run(
        candidate,
        np.array(points, dtype=np.float64),
        np.array(values, dtype=np.float64),
        families,
        kept,
        point.detach().double().numpy(),
        result if math.isfinite(result) else math.inf,
    )


def best_of_family(runs: Sequence[Run], family: str) -> Run:
    """The run with the learning rate that was best for the family."""
    return min((run for run in runs if run.families[0] == family), key=lambda run: run.result)


def print_table(single: dict[str, list[Run]], interleaved: dict[str, list[Run]], steps: int) -> None:
    """Print the values reached, one column per function."""
    rows = {
        f"{name}, best lr in hindsight": [
            f"{best.result:.2g} ({best.candidate.partition('=')[2]})"
            for best in (best_of_family(single[problem.name], family) for problem in PROBLEMS)
        ]
        for family, name in FAMILIES.items()
    }
    alone = [[run.result for run in single[problem.name]] for problem in PROBLEMS]
    together = [[run.result for run in interleaved[problem.name]] for problem in PROBLEMS]
    rows |= {
        "a single run, median": [_shown(_median(values)) for values in alone],
        "a single run, worst": [_shown(max(values)) for values in alone],
        "interleaved, median": [_shown(_median(values)) for values in together],
        "interleaved, worst": [_shown(max(values)) for values in together],
    }
    seeds, runs = len(together[0]), len(alone[0])
    print(f"Value after {steps} steps; {runs} single runs, {seeds} interleaved. The least possible value is 0.")
    print(f"{'':<30}" + "".join(f"{problem.name:>18}" for problem in PROBLEMS))
    for label, cells in rows.items():
        print(f"{label:<30}" + "".join(f"{cell:>18}" for cell in cells))


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _shown(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "diverged"


def draw(single: dict[str, list[Run]], interleaved: dict[str, list[Run]]) -> Figure:
    """Draw the paths over the contours, and below them the values."""
    figure = Figure(figsize=(16, 8), layout="constrained")
    axes = figure.subplots(2, len(PROBLEMS), height_ratios=(1.6, 1))
    for (above, below), problem in zip(axes.T, PROBLEMS, strict=True):
        runs = [best_of_family(single[problem.name], family) for family in FAMILIES]
        together = interleaved[problem.name][len(interleaved[problem.name]) // 2]
        _draw_paths(above, problem, runs, together)
        _draw_values(below, runs, together)
    axes[0, 0].set_ylabel("y")
    axes[1, 0].set_ylabel("value")
    figure.suptitle(
        "Interleaved run: outlined, in the colour of the active optimizer; cycles that were undone left out"
    )
    colours = [Line2D([], [], color=COLOURS[family], linewidth=3, label=name) for family, name in FAMILIES.items()]
    signs = [
        Line2D([], [], color="black", linewidth=4.5, label="interleaved"),
        Line2D([], [], color="black", linewidth=1.2, label="single, best lr in hindsight"),
        Line2D([], [], **START, linestyle="none", label="start"),
        Line2D([], [], **END, linestyle="none", label="end of the interleaved run"),
        Line2D([], [], **MINIMUM, linestyle="none", label="global minimum"),
    ]
    # A legend is filled column by column: optimizers above, signs below.
    handles = [handle for pair in zip(colours, signs, strict=True) for handle in pair]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(colours), frameon=False)
    return figure


def _draw_paths(axes: Axes, problem: Problem, runs: Sequence[Run], together: Run) -> None:
    left, right, bottom, top = problem.extent
    grid = torch.meshgrid(torch.linspace(left, right, 300), torch.linspace(bottom, top, 300), indexing="xy")
    heights = np.log10(problem.function(*grid).numpy() + 1e-2)
    axes.contourf(*grid, heights, levels=20, cmap="Greys", alpha=0.3)
    for run in runs:
        path = np.concatenate([run.points[:1, 0], run.points[:, 1]])
        axes.plot(*path.T, color=COLOURS[run.families[0]], linewidth=1.2)
        axes.plot(*path[-1], color=COLOURS[run.families[0]], marker="o", markersize=4)
    # What was undone is not part of the path.
    segments = together.points[together.kept]
    colours = [COLOURS[family] for family, kept in zip(together.families, together.kept, strict=True) if kept]
    axes.add_collection(LineCollection(list(segments), colors="black", linewidths=5, capstyle="round"))
    axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=3, capstyle="round"))
    axes.plot(*problem.start, **START)
    axes.plot(*together.end, **END)
    for minimum in problem.minima:
        axes.plot(*minimum, **MINIMUM)
    axes.set(xlim=(left, right), ylim=(bottom, top), title=problem.name, xlabel="x", aspect="equal")


def _draw_values(axes: Axes, runs: Sequence[Run], together: Run) -> None:
    steps = np.arange(len(together.values))
    for run in runs:
        axes.plot(steps, run.values, color=COLOURS[run.families[0]], linewidth=1.2)
    corners = np.stack([steps, together.values], axis=1)
    segments = np.stack([corners[:-1], corners[1:]], axis=1)[together.kept[:-1]]
    colours = [COLOURS[family] for family, kept in zip(together.families, together.kept[:-1], strict=False) if kept]
    axes.add_collection(LineCollection(list(segments), colors="black", linewidths=4.5))
    axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=2.5))
    axes.set(yscale="log", xlabel="step", xlim=(0, len(steps)))
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
