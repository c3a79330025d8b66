"""
Tables and figures from the JSON files of `benchmarks.run`, and from nothing else.

    python -m benchmarks.summarize

Writes `summary.md` and one PNG per task into the folder of results (needs the extra `plots`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

from .run import RESULTS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# A run whose predictions name one class this often has learned nothing; the labels of no task are so uneven.
_COLLAPSE = 0.99

_NAMES = {
    "iomt_auto": "IOMT, default",
    "iomt_grid": "IOMT, paper's grid as candidates",
    "iomt_paper": "IOMT, paper preset",
    "adamw_default": "AdamW, Trainer's default lr 5e-5",
}


def read_results(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Results by task and method, ordered by seed."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*/*/seed*.json")):
        result = json.loads(path.read_text())
        results.setdefault(result["task"], {}).setdefault(result["method"], []).append(result)
    return results


def accuracies(runs: list[dict[str, Any]]) -> list[float]:
    """Test accuracy of each run, in per cent."""
    return [100 * run["metrics"]["eval_accuracy"] for run in runs]


def label(method: str) -> str:
    """A method's name for a reader."""
    return _NAMES.get(method, method.removeprefix("single ").replace(":lr=", ", lr "))


def table(methods: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown table of one task: IOMT and the control first, then the single runs from best to worst."""
    grid = [name for name in methods if name.startswith("single ")]
    singles = sorted(grid, key=lambda name: -statistics.mean(accuracies(methods[name])))
    best = statistics.mean(accuracies(methods[singles[0]])) if singles else None
    lines = ["| method | test accuracy | seeds | to the best of the grid | collapsed runs |", "|---|---|---|---|---|"]
    for name in [*(item for item in _NAMES if item in methods), *singles]:
        values = accuracies(methods[name])
        mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        collapsed = sum(run["metrics"]["eval_largest_predicted_share"] > _COLLAPSE for run in methods[name])
        difference = f"{mean - best:+.2f}" if best is not None else ""
        seeds = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {label(name)} | {mean:.2f} ± {spread:.2f} | {seeds} | {difference} | {collapsed} |")
    return "\n".join(lines)


def draw(task: str, methods: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Test accuracies: every run a dot, means as bars, IOMT and the control above the single candidates."""
    grid = [name for name in methods if name.startswith("single ")]
    order = sorted(grid, key=lambda name: statistics.mean(accuracies(methods[name])))
    order += [name for name in reversed(_NAMES) if name in methods]
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(order) + 1.0), layout="constrained")
    for row, name in enumerate(order):
        values = accuracies(methods[name])
        # Blue and orange of the colour-blind-safe palette of Okabe and Ito.
        colour = "#D55E00" if name.startswith("iomt") else "#0072B2" if name.startswith("single") else "#555555"
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.6, markersize=5)
        axes.plot([statistics.mean(values)] * 2, [row - 0.35, row + 0.35], color=colour, linewidth=2.5)
    axes.set_yticks(range(len(order)), [label(name) for name in order])
    axes.set_xlabel("test accuracy, %  (dots: seeds, bars: means)")
    axes.set_title(task)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    parts = ["# Results", "", "Written by `python -m benchmarks.summarize`; do not edit.", ""]
    for task, methods in read_results(arguments.results).items():
        draw(task, methods, arguments.results / f"{task}.png")
        parts += [f"## {task}", "", table(methods), "", f"![{task}]({task}.png)", ""]
    (arguments.results / "summary.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
