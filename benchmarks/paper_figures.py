"""The paper's Figures 7(b), 8, 9, 10 and 11, from our results. Figures 1, 4 and 7(a) are made by `functions`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from .contenders import FAMILIES
from .figures import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, save
from .methods import GROUPS
from .protocol import Runs, metric_of, tuned, values

_LINES = {
    "sgd": SKY,
    "sgdm": BLUE,
    "adagrad": ORANGE,
    "rmsprop": PINK,
    "adam": GREEN,
    "adamw": BLACK,
}


def figure_7b(experiments: Mapping[str, Runs], path: Path) -> bool:
    """Where runs from the same initial weights end: two principal components of their projected last layers."""
    runs = experiments.get("cifar10_resnet18_full")
    if runs is None:
        return False
    metric, named = metric_of(runs), {}
    for family in _LINES:
        name = tuned(FAMILIES[family], runs, metric)
        if name is not None:
            named[name] = (runs[name], _LINES[family])
    for name in ("iomt default", "iomt paper"):
        if name in runs:
            named[name] = (runs[name], RED)
    seed = max(set.intersection(*(set(found) for found, _ in named.values())))
    states = np.array([[value or 0.0 for value in found[seed]["state"]] for found, _ in named.values()])
    centred = states - states.mean(axis=0)
    _, singular, axes_of = np.linalg.svd(centred, full_matrices=False)
    places = centred @ axes_of[:2].T
    explained = singular[:2] ** 2 / (singular**2).sum()
    figure, axes = plt.subplots(figsize=(6.5, 5), layout="constrained")
    for (name, (_, colour)), place in zip(named.items(), places, strict=True):
        axes.plot(*place, "*" if name.startswith("iomt") else "o", color=colour, markersize=11)
        axes.annotate(name, place, xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"first component ({explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"second component ({explained[1]:.0%})")
    axes.set_title(f"Weights at the end, cifar10 and ResNet-18, seed {seed}")
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    save(figure, path)
    return True


def figure_8(experiments: Mapping[str, Runs], path: Path) -> bool:
    """Training loss and validation accuracy over the steps, mean over the seeds, each between its evaluations."""
    chosen = {
        name: runs for name, runs in experiments.items() if name.endswith("_full") and metric_of(runs) == "accuracy"
    }
    chosen = dict(list(chosen.items())[:4])
    if not chosen:
        return False
    figure, panels = plt.subplots(2, len(chosen), figsize=(4 * len(chosen), 6), layout="constrained", squeeze=False)
    for column, (name, runs) in enumerate(chosen.items()):
        lines = {family: (tuned(FAMILIES[family], runs, "accuracy"), colour) for family, colour in _LINES.items()}
        lines |= {"IOMT, nothing set": ("iomt default", RED)}
        for title, (method, colour) in lines.items():
            if method is None or method not in runs:
                continue
            for row, key in enumerate(("train_loss", "accuracy")):
                steps, means = mean_curve(runs[method], key)
                panels[row][column].plot(steps, means, color=colour, label=title, linewidth=1 + (colour == RED))
        panels[0][column].set_title(name, fontsize=10)
        panels[0][column].set_yscale("log")
        panels[1][column].set_xlabel("step")
        for row in range(2):
            panels[row][column].grid(alpha=0.3)
    panels[0][0].set_ylabel("training loss")
    panels[1][0].set_ylabel("validation accuracy")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    save(figure, path)
    return True


def mean_curve(runs: Mapping[int, Any], key: str) -> tuple[list[int], list[float]]:
    """A metric in the mean over the seeds, at the steps of all their evaluations, between which it is interpolated."""
    # A range test shifts the evaluations, by another number of steps in each run.
    curves = [[(p["step"], p[key]) for p in run["curve"] if p.get(key) is not None] for run in runs.values()]
    curves = [curve for curve in curves if curve]
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    steps = sorted({step for curve in curves for step, _ in curve if first <= step <= last})
    means = [np.interp(steps, [step for step, _ in curve], [value for _, value in curve]) for curve in curves]
    return steps, np.mean(means, axis=0).tolist()


def figure_9(experiments: Mapping[str, Runs], path: Path) -> bool:
    """The case study: which of SGD and SGDM was active when, over the training loss of the plain runs."""
    runs = experiments.get("hymenoptera_resnet18_full", {})
    cases = [name for name in GROUPS["case"] if name in runs]
    if not cases:
        return False
    figure, panels = plt.subplots(len(cases), 1, figsize=(9, 3.4 * len(cases)), layout="constrained", squeeze=False)
    for panel, case in zip(panels.flat, cases, strict=True):
        seed = min(runs[case])
        run = runs[case][seed]
        # The range test comes before the first step of the history.
        before = run["steps"] - run["history"][-1]["last_step"]
        for record in run["history"]:
            start, end = record["first_step"] - 1 + before, record["last_step"] + before
            family, _, rest = record["candidate"].partition(":lr=")
            colour = BLUE if family == "sgdm" else ORANGE
            panel.axvspan(start, end, color=colour, alpha=0.45 if rest.startswith("0.01") else 0.2, linewidth=0)
            # A tick where a cycle ends.
            panel.axvline(end, 0, 0.03, color=BLACK, linewidth=0.8)
            if record["phase"] == "race":
                panel.axvspan(start, end, fill=False, hatch="///", linewidth=0)
        for name, style in (("sgdm:lr=0.01", "-"), ("sgd:lr=0.01", "--"), ("sgdm:lr=0.001", "-."), (case, "-")):
            if name in runs and seed in runs[name]:
                points = [(item["step"], item["train_loss"]) for item in runs[name][seed]["curve"]]
                own = name == case
                panel.plot(
                    *zip(*points, strict=True),
                    style,
                    color=RED if own else BLACK,
                    linewidth=2.5 if own else 1,
                    label=name if own else f"{name} alone",
                )
        panel.set_title(f"{case}: SGDM blue, SGD orange; pale: learning rate 0.001; hatched: race", fontsize=9)
        panel.set_ylabel("training loss")
        panel.legend(fontsize=8)
    panels.flat[-1].set_xlabel("step")
    save(figure, path)
    return True


def figure_10(experiments: Mapping[str, Runs], path: Path) -> bool:
    """The paper preset with another start, n_ini, τ and number of components."""
    chosen = {name: runs for name, runs in experiments.items() if any(item in runs for item in GROUPS["sensitivity"])}
    if not chosen:
        return False
    parts: dict[str, Sequence[tuple[str, str]]] = {
        "start": [("weighted", "iomt paper"), ("uniform", "iomt paper, uniform start")],
        "n_ini, at most a sixth of the cycles": [
            (str(count), f"iomt paper, n_ini {count}") for count in (5, 10, 20, 40)
        ],
        "τ": [(str(steps), f"iomt paper, τ {steps}") for steps in (5, 10, 25, 50)],
        "components": [(str(count), f"iomt paper, {count} components") for count in (1, 2, 4, 8)],
    }
    figure, panels = plt.subplots(
        len(chosen), len(parts), figsize=(12, 3 * len(chosen)), layout="constrained", squeeze=False
    )
    for row, (name, runs) in enumerate(chosen.items()):
        _draw_settings(panels[row], parts, runs)
        panels[row][0].set_ylabel(f"{name}\ntest accuracy, %", fontsize=8)
    save(figure, path)
    return True


def _draw_settings(panels: Any, parts: Mapping[str, Sequence[tuple[str, str]]], runs: Runs) -> None:
    for panel, (title, settings) in zip(panels, parts.items(), strict=True):
        for place, (_, method) in enumerate(settings):
            found = [100 * item for item in values(runs.get(method, {}), "test", "accuracy").values()]
            panel.plot([place] * len(found), found, "o", color=BLUE, alpha=0.6)
            if found:
                panel.plot([place - 0.25, place + 0.25], [statistics.mean(found)] * 2, color=BLUE, linewidth=2.5)
        panel.set_xticks(range(len(settings)), [item for item, _ in settings])
        panel.set_title(title, fontsize=10)
        panel.grid(axis="y", alpha=0.3)


def figure_11(experiments: Mapping[str, Runs], path: Path) -> bool:
    """The paper's learning rates against its wide space: the best single run of each space, and IOMT over it."""
    wide = [name for name in GROUPS["spaces"] if not name.startswith("iomt")]
    chosen = {name: runs for name, runs in experiments.items() if any(item in runs for item in wide)}
    if not chosen:
        return False
    bars = {
        "best single": (tuned_value(GROUPS["grid"]), tuned_value([*GROUPS["grid"], *wide]), BLUE),
        "paper preset": (tuned_value(["iomt paper"]), tuned_value(["iomt paper, wide"]), ORANGE),
        "default over the space": (tuned_value(["iomt grid"]), tuned_value(["iomt grid, wide"]), RED),
    }
    figure, panels = plt.subplots(1, len(chosen), figsize=(5.5 * len(chosen), 4), layout="constrained", squeeze=False)
    for panel, (name, runs) in zip(panels.flat, chosen.items(), strict=True):
        for place, (narrow, broad, colour) in enumerate(bars.values()):
            for side, get in ((-0.15, narrow), (0.15, broad)):
                found = get(runs)
                panel.plot([place + side] * len(found), found, "o" if side < 0 else "s", color=colour, alpha=0.6)
                if found:
                    mean = statistics.mean(found)
                    panel.plot([place + side - 0.1, place + side + 0.1], [mean, mean], color=colour, linewidth=2.5)
        panel.set_xticks(range(len(bars)), list(bars), fontsize=8)
        panel.set_title(f"{name}: learning rates alone (dots), wide space (squares)", fontsize=9)
        panel.set_ylabel("test accuracy, %")
        panel.grid(axis="y", alpha=0.3)
    save(figure, path)
    return True


def tuned_value(methods: list[str]) -> Callable[[Runs], list[float]]:
    """Test accuracies, in per cent, of the one that validation picks."""

    def get(runs: Runs) -> list[float]:
        name = tuned(methods, runs, "accuracy")
        found = values(runs[name], "test", "accuracy").values() if name is not None else ()
        return [100 * value for value in found if math.isfinite(value)]

    return get


PAPER_FIGURES: dict[str, Callable[[Mapping[str, Runs], Path], bool]] = {
    "figure7b": figure_7b,
    "figure8": figure_8,
    "figure9": figure_9,
    "figure10": figure_10,
    "figure11": figure_11,
}
