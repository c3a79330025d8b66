"""Figures of the comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from .contenders import CONTENDERS, DEFAULT, FAMILIES, UNLEARNED, Contender
from .protocol import PROFILE_RATIOS, SCALE, Runs, metric_of, performance_profile, values

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# The colour-blind-safe palette of Okabe and Ito.
ORANGE, BLUE, GREEN, PINK, SKY, RED, BLACK = (
    "#E69F00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
)
_ROLE_COLOURS = {
    "iomt": RED,
    "single": BLUE,
    "hybrid": PINK,
    "peer": GREEN,
    "search": ORANGE,
    "control": "#777777",
}
_UNITS = {"accuracy": "test accuracy, %", "f1": "test F1, %", "perplexity": "test perplexity (lower is better)"}
# In the profile: those who tune nothing, and what a user would tune.
_LEAST_TASKS = 3
_IN_PROFILE = (
    "IOMT, nothing set",
    "IOMT, the paper's 15 candidates",
    "best of the paper's grid (15 runs)",
    "AdamW, tuned (9 runs)",
    "AdamW, 5e-5 (Trainer's default)",
    "Schedule-Free AdamW, tuned",
    "Prodigy",
)


def save(figure: Any, path: Path) -> None:
    """Write a figure and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def draw_comparison(name: str, runs: Runs, path: Path) -> None:
    """Final test metrics of every contender: each seed a dot, the mean a bar."""
    metric = metric_of(runs)
    rows: list[tuple[Contender, dict[int, float]]] = []
    for contender in CONTENDERS:
        picked = contender.pick(runs)
        if picked is not None:
            rows.append((contender, values(runs[picked], "test", metric)))
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.1), layout="constrained")
    for height, (contender, found) in enumerate(reversed(rows)):
        colour = _ROLE_COLOURS[contender.role]
        scaled = [SCALE[metric] * value for value in found.values() if math.isfinite(value)]
        if not scaled:
            continue
        axes.plot(scaled, [height] * len(scaled), "o", color=colour, alpha=0.55, markersize=5)
        axes.plot([statistics.mean(scaled)] * 2, [height - 0.35, height + 0.35], color=colour, linewidth=2.5)
    axes.set_yticks(range(len(rows)), [contender.title for contender, _ in reversed(rows)], fontsize=8)
    if metric == "perplexity":
        axes.set_xscale("log")
    axes.set_xlabel(f"{_UNITS[metric]}  (dots: seeds, bars: means)")
    axes.set_title(name)
    axes.grid(axis="x", alpha=0.3)
    save(figure, path)


def draw_learning_rates(experiments: Mapping[str, Runs], path: Path) -> None:
    """Test metric over the learning rate, a panel for each experiment; default IOMT as a line across."""
    columns = 3
    count = len(experiments)
    figure, panels = plt.subplots(
        -(-count // columns), columns, figsize=(13, 3.4 * -(-count // columns)), layout="constrained", squeeze=False
    )
    for panel in panels.flat[count:]:
        panel.set_axis_off()
    styles = {
        family: (colour, marker)
        for family, colour, marker in zip(
            # AdamW without weight decay, as here, is Adam.
            ("sgd", "sgdm", "adagrad", "rmsprop", "nadam", "adamw"),
            (SKY, BLUE, ORANGE, PINK, GREEN, BLACK),
            "sDv^oP",
            strict=True,
        )
    }
    for panel, (name, runs) in zip(panels.flat, experiments.items(), strict=False):
        metric = metric_of(runs)
        for family, (colour, marker) in styles.items():
            points = []
            for method in (item for item in FAMILIES[family] if item in runs):
                found = [item for item in values(runs[method], "test", metric).values() if math.isfinite(item)]
                if found:
                    rate = float(method.partition("lr=")[2].partition(",")[0])
                    points.append((rate, SCALE[metric] * statistics.mean(found)))
            if points:
                panel.plot(*zip(*sorted(points), strict=True), color=colour, marker=marker, label=family)
        default = runs.get(DEFAULT.methods[0])
        if default:
            mean = SCALE[metric] * statistics.mean(values(default, "test", metric).values())
            panel.axhline(mean, color=RED, linewidth=2, label=DEFAULT.title)
        if panel.lines:
            panel.set_xscale("log")
            panel.set_yscale("log" if metric == "perplexity" else "linear")
        panel.set_title(name, fontsize=10)
        panel.set_ylabel(_UNITS[metric], fontsize=8)
        panel.grid(alpha=0.3)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    for panel in panels.flat[:count]:
        panel.set_xlabel("learning rate", fontsize=8)
    save(figure, path)


def draw_profile(times: Mapping[str, Mapping[str, float]], path: Path) -> bool:
    """
    Share of the tasks, of those that all were run on, on which one is at most so much slower than the fastest.

    Tasks where nothing is learned are left out: chance reaches their targets. With too few others it would tell
    nothing: it is not drawn then, and `False` is returned.
    """
    chosen = {title: times[title] for title in _IN_PROFILE if title in times}
    common = set.intersection(*(set(found) for found in chosen.values())) - set(UNLEARNED) if chosen else set()
    if len(common) < _LEAST_TASKS:
        return False
    profile = performance_profile(
        {title: {task: found[task] for task in sorted(common)} for title, found in chosen.items()}
    )
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    colours = (RED, PINK, BLUE, BLACK, SKY, GREEN, ORANGE)
    lines = ("-", "--", "-", "--", ":", "-.", ":")
    for (title, shares), colour, line in zip(profile.items(), colours, lines, strict=False):
        axes.step(PROFILE_RATIOS, 100 * shares, where="post", color=colour, linestyle=line, linewidth=2, label=title)
    axes.set_xlabel(f"times slower to the target than the fastest of them, {len(common)} tasks")
    axes.set_ylabel("tasks whose target was reached, %")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
    return True
