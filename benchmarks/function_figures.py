"""Figures of the deterministic functions, from the JSON files of `benchmarks.functions` and from nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from .function_problems import PROBLEMS, Problem
from .function_tables import compare, method_label, paired_values, summary

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

NAMES = {"sgd": "SGD", "sgdm": "SGDM", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adam": "Adam"}
# Colours of Okabe and Ito, which the colour-blind can tell apart, on grey contours.
COLOURS = {"sgd": "#0072B2", "sgdm": "#56B4E9", "adagrad": "#009E73", "rmsprop": "#D55E00", "adam": "#CC79A7"}
METHOD_MARKS = {"default": ("#D55E00", "o"), "default, random choice": ("#E69F00", "^"), "paper": ("#0072B2", "s")}
START: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": "black"}
END: dict[str, Any] = {"marker": "D", "markersize": 8, "markerfacecolor": "#F0E442", "markeredgecolor": "black"}
MINIMUM: dict[str, Any] = {"marker": "+", "markersize": 13, "markeredgewidth": 2.5, "markeredgecolor": "black"}
# Values below are all the same to a reader, and zero has no place on a logarithmic axis.
_FLOOR, _CEILING = 1e-8, 1e4


def draw(folder: Path) -> None:
    """
    Write `figure1.png`, `figure4.png`, `figure7a.png` and `functions.md`.

    Args:
        folder (`Path`): Where the JSONs are, and where the figures go.

    Raises:
        SystemExit: A JSON is missing.
    """
    experiments = {"figure1": draw_figure1, "figure4": draw_figure4, "figure7a": draw_figure7a}
    missing = [name for name in experiments if not (folder / f"{name}.json").exists()]
    if missing:
        raise SystemExit(f"{folder} has no {missing[0]}.json: make it with `python -m benchmarks functions run`.")
    contents = {name: json.loads((folder / f"{name}.json").read_text()) for name in experiments}
    for name, experiment in experiments.items():
        figure = experiment(contents[name])
        figure.savefig(folder / f"{name}.png", dpi=90)
        plt.close(figure)
    (folder / "functions.md").write_text(summary(contents))


def draw_figure1(content: dict[str, Any]) -> Any:
    """One row per function, one column per optimizer: the paths, where all runs ended, and the values there."""
    settings, results = content["settings"], content["results"]
    figure, grid = plt.subplots(len(PROBLEMS), len(NAMES) + 1, figsize=(19, 13), layout="constrained")
    for row, problem in zip(grid, PROBLEMS, strict=True):
        for axes, family in zip(row, NAMES, strict=False):
            result = results[problem.name][family]
            _background(axes, problem)
            lines = [np.array(path) for path in result["paths"]]
            axes.add_collection(LineCollection(lines, colors=COLOURS[family], linewidths=1.2, alpha=0.6))
            ends = np.array([end for end in result["ends"] if None not in end]).reshape(-1, 2)
            axes.plot(*ends.T, ".", color="black", markersize=3, alpha=0.6)
            axes.plot(*problem.start, **START)
            lost = _outside(result["ends"], problem)
            if lost:
                axes.set_xlabel(f"{lost} of {len(result['ends'])} ended outside", fontsize=10)
        edges = []
        for family in NAMES:
            values = sorted(_shown(value) for value in results[problem.name][family]["values"])
            edges += [values[0], values[-1]]
            shares = np.arange(1, len(values) + 1) / len(values)
            row[-1].step(values, shares, where="post", color=COLOURS[family], linewidth=2)
        row[-1].set(xscale="log", xlim=(min(edges) / 2, max(edges) * 2), ylim=(0, 1.02), ylabel="share of runs")
        row[-1].grid(alpha=0.3)
        row[0].set_ylabel(problem.name, fontsize=15)
    for axes, family in zip(grid[0], NAMES, strict=False):
        axes.set_title(NAMES[family], fontsize=15, color=COLOURS[family], fontweight="bold")
    grid[0, -1].set_title("share that ends at or below", fontsize=13)
    grid[-1, -1].set_xlabel(f"value after {settings['steps']} steps\n({_FLOOR:g}: or less; {_CEILING:g}: or diverged)")
    figure.suptitle(
        f"{settings['runs']} runs of each optimizer from one start, with hyperparameters drawn at random "
        f"(lines: {min(settings['paths'], settings['runs'])} of them)",
        fontsize=16,
    )
    marks = [
        Line2D([], [], **START, linestyle="none", label="start"),
        Line2D([], [], color="black", marker=".", linestyle="none", label="end of a run"),
        Line2D([], [], **MINIMUM, linestyle="none", label="global minimum"),
        *(Line2D([], [], color=COLOURS[family], linewidth=3, label=name) for family, name in NAMES.items()),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=12)
    return figure


def draw_figure4(content: dict[str, Any]) -> Any:
    """Above the directions of the first step, below the paths of the first steps with the direction of all of them."""
    results, moments = content["results"], content["settings"]["moments"]
    rows = [str(moment) for moment in moments]
    figure, grid = plt.subplots(len(rows) + 1, len(PROBLEMS), figsize=(17, 17), layout="constrained")
    for column, problem in zip(grid.T, PROBLEMS, strict=True):
        result = results[problem.name]
        for axes, moment in zip(column, rows, strict=False):
            _compass(axes, result["after"][moment]["displacements"])
        column[0].set_title(problem.name, fontsize=15)
        _first_steps(column[-1], problem, result)
    for axes, moment in zip(grid[:, 0], moments, strict=False):
        axes.set_ylabel("first step" if moment == 1 else f"after {moment} steps", fontsize=14)
    grid[-1, 0].set_ylabel(f"paths of {moments[-1]} steps", fontsize=14)
    handles = [Line2D([], [], color=COLOURS[family], linewidth=4, label=name) for family, name in NAMES.items()]
    handles += [
        Line2D([], [], **START, linestyle="none", label="start"),
        Line2D([], [], **MINIMUM, linestyle="none", label="global minimum"),
    ]
    figure.suptitle(
        "Directions from the start, each optimizer at its best learning rate of the paper's grid\n"
        "(equal directions lie on each other, the thinnest arrow on top)",
        fontsize=16,
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=13)
    return figure


def _compass(axes: Axes, directions: dict[str, Any]) -> None:
    """Unit arrows from the centre; where several coincide all are seen, because later ones are thinner."""
    circle = np.linspace(0, 2 * math.pi, 200)
    axes.plot(np.cos(circle), np.sin(circle), color="0.8", linewidth=1)
    for number, (family, (x, y)) in enumerate(directions["directions"].items()):
        if x is None or y is None or (x, y) == (0, 0):
            continue
        width = 9.0 - 1.8 * number
        axes.annotate(
            "",
            (x, y),
            (0, 0),
            arrowprops={
                "arrowstyle": f"-|>,head_width={0.35 + 0.06 * width},head_length={0.5 + 0.08 * width}",
                "linewidth": width,
                "color": COLOURS[family],
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
    angles = [
        value for row, values in enumerate(directions["angles"]) for value in values[row + 1 :] if value is not None
    ]
    axes.set_xlabel(f"angles between two: mean {np.mean(angles):.0f}°, largest {max(angles):.0f}°", fontsize=12)
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=[], yticks=[])


def _first_steps(axes: Axes, problem: Problem, result: dict[str, Any]) -> None:
    paths = {family: np.array(path, dtype=np.float64) for family, path in result["paths"].items()}
    points = np.concatenate(list(paths.values()))
    points = points[np.isfinite(points).all(axis=1)]
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = 0.6 * (points.max(axis=0) - points.min(axis=0)).max()
    window = (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
    _background(axes, problem, window)
    for family, path in paths.items():
        rate = result["candidates"][family].partition("lr=")[2]
        axes.plot(
            *path.T, ".-", color=COLOURS[family], linewidth=1.6, markersize=4, label=f"{NAMES[family]}, lr {rate}"
        )
        axes.plot(*path[-1], "o", color=COLOURS[family], markeredgecolor="black", markersize=8)
    axes.plot(*problem.start, **START)
    axes.legend(fontsize=9, loc="best", framealpha=0.85)


def draw_figure7a(content: dict[str, Any]) -> Any:
    """Paths of single and interleaved runs, and below them the final values from the random starts in pairs."""
    results = content["results"]
    figure, grid = plt.subplots(4, len(PROBLEMS), figsize=(17, 18.5), layout="constrained")
    for column, problem in zip(grid.T, PROBLEMS, strict=True):
        drawn = results["drawn"][problem.name]
        for axes, method in zip(column, ("default", "paper"), strict=False):
            _paths(axes, problem, drawn["single"], drawn["interleaved"][method])
        for axes, kind in zip(column[2:], ("free", "clipped"), strict=True):
            _pairs(axes, results[kind][problem.name])
        column[0].set_title(problem.name, fontsize=15)
    labels = ("interleaved, default", "interleaved, paper preset", "20 starts, not clipped", "20 starts, clipped")
    starts = len(results["starts"])
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label.replace("20", str(starts)) + ("\nfinal value, interleaved" if "starts" in label else ""))
        axes.yaxis.label.set_fontsize(13)
    for axes in grid[-1]:
        axes.set_xlabel("final value, best of 15 single runs", fontsize=12)
    figure.suptitle(
        f"{content['settings']['steps']} steps. Outlined: interleaved, in the colour of the active optimizer; thin: "
        "single, at the best learning rate of each\n"
        f"Dots: final values ({_FLOOR:g}: or less; {_CEILING:g}: or diverged)",
        fontsize=16,
    )
    first = [Line2D([], [], color=COLOURS[family], linewidth=3, label=name) for family, name in NAMES.items()]
    second = [
        Line2D([], [], **START, linestyle="none", label="start"),
        Line2D([], [], **END, linestyle="none", label="end of the interleaved run"),
        Line2D([], [], color="black", linestyle=":", label="race, or put back"),
        Line2D([], [], **MINIMUM, linestyle="none", label="global minimum"),
        *(
            Line2D([], [], color=colour, marker=mark, markersize=8, linestyle="none", label=method_label(method))
            for method, (colour, mark) in METHOD_MARKS.items()
        ),
    ]
    figure.legend(handles=[*first, *second], loc="outside lower center", ncols=6, frameon=False, fontsize=12)
    return figure


def _paths(axes: Axes, problem: Problem, single: dict[str, Any], interleaved: dict[str, Any]) -> None:
    _background(axes, problem)
    for family, run in single.items():
        axes.plot(*np.array(run["path"]).T, color=COLOURS[family], linewidth=1.2)
        axes.plot(*run["path"][-1], "o", color=COLOURS[family], markersize=5)
    # What was undone, and the trials of the race, are not part of the path.
    legs = [leg for leg in interleaved["legs"] if leg["phase"] != "race" and not leg["undone"] and leg["points"]]
    lines = [np.array(leg["points"]) for leg in legs]
    colours = [COLOURS[leg["candidate"].partition(":")[0]] for leg in legs]
    axes.add_collection(LineCollection(lines, colors="black", linewidths=5, capstyle="round", zorder=3))
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=3, capstyle="round", zorder=3))
    # Where training went on from elsewhere: the result of the race, or parameters put back.
    stops = [np.array(problem.start), *(line[-1] for line in lines)]
    jumps = [np.stack(ends) for ends in zip(stops, (line[0] for line in lines), strict=False)]
    axes.add_collection(LineCollection(jumps, colors="black", linewidths=1.5, linestyles=":", zorder=3))
    axes.plot(*problem.start, **START, zorder=4)
    if None not in interleaved["end"]:
        axes.plot(*interleaved["end"], **END, zorder=4)
    value = interleaved["value"]
    best = min(run["value"] for run in single.values() if run["value"] is not None)
    axes.set_xlabel(f"{'diverges' if value is None else f'ends at {value:.2g}'}; best single run {best:.2g}")
    axes.xaxis.label.set_fontsize(12)


def _pairs(axes: Axes, result: dict[str, Any]) -> None:
    for method, (colour, mark) in METHOD_MARKS.items():
        best, together = paired_values(result, method)
        shown = ([_shown(value) for value in best], [_shown(value) for value in together])
        axes.plot(*shown, mark, color=colour, alpha=0.7, markersize=7, markeredgecolor="white", markeredgewidth=0.5)
    counts = [
        f"{method_label(method).removeprefix('IOMT, ')}: {compare(*reversed(paired_values(result, method)))[0]}"
        for method in METHOD_MARKS
    ]
    text = "better than the best single run\n" + "\n".join(counts)
    axes.text(0.97, 0.04, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=9)
    limits = (_FLOOR / 3, _CEILING * 3)
    axes.plot(limits, limits, color="0.5", linewidth=1, zorder=0)
    axes.fill_between(limits, limits, limits[0], color="#009E73", alpha=0.08, zorder=0)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
    axes.grid(alpha=0.3)


def _background(axes: Axes, problem: Problem, window: tuple[float, float, float, float] | None = None) -> None:
    left, right, bottom, top = window or problem.window
    x, y = torch.meshgrid(torch.linspace(left, right, 200), torch.linspace(bottom, top, 200), indexing="xy")
    heights = np.log10(problem.function(torch.stack([x, y], dim=-1)).numpy() + 1e-2)
    axes.contourf(x, y, heights, levels=20, cmap="Greys", alpha=0.3)
    axes.contour(x, y, heights, levels=10, colors="black", alpha=0.12, linewidths=0.6)
    for minimum in problem.minima:
        axes.plot(*minimum, **MINIMUM)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")


def _outside(ends: list[list[float | None]], problem: Problem) -> int:
    left, right, bottom, top = problem.window
    return sum(x is None or y is None or not (left <= x <= right and bottom <= y <= top) for x, y in ends)


def _shown(value: float | None) -> float:
    return _CEILING if value is None else min(max(value, _FLOOR), _CEILING)
