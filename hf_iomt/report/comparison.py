"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .axes import legend_above, mark_beyond, plot_points, set_scale, split_points, use_per_cent, use_step_ticks
from .losses import evaluations, final_metrics, smooth, split_evaluations, thin_out, training_losses
from .palette import PAPER, Colour
from .panels import Colours
from .run import Run
from .shares import candidate_shares
from .style import write_nothing
from .times import time_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 800


def run_names(runs: Sequence[Run]) -> list[str]:
    """A different name for each run: its folder's, with as many of the folders above as it takes."""
    names = [run.name for run in runs]
    paths = [run.folder.resolve() for run in runs]
    for depth in range(2, 1 + max((len(path.parts) for path in paths), default=0)):
        if len(set(names)) == len(names):
            return names
        names = [
            str(Path(*path.parts[-depth:])) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    # The same folder twice.
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names, 1)]


def label_names(names: Sequence[str], most: int) -> list[str]:
    """Names for pictures: those that are longer than `most` letters have a number, and their end, in its place."""
    short = [
        name if len(name) <= most else f"{index}. …{name[len(name) - most + 4 :]}"
        for index, name in enumerate(names, 1)
    ]
    # matplotlib leaves labels out that begin with an underscore; before it stands a space of no width.
    return [f"\u200b{name}" if name.startswith("_") else name for name in short]


def metrics_table(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[str], list[list[float | int | str | None]]]:
    """
    One row for each run: steps, rollbacks, seconds, and the last value of every metric.

    Returns:
        Titles of the columns, and the rows; what a run has not is `None`.
    """
    metrics = list(dict.fromkeys(name for run in runs for name in evaluations(run)))
    titles = ["run", "steps", "cycles", "rolled back", "seconds", *(name.replace("_", " ") for name in metrics)]
    rows: list[list[float | int | str | None]] = []
    for run, name in zip(runs, names, strict=True):
        parts, last = time_parts(run), final_metrics(run)
        seconds = sum(parts.values()) if "training" in parts else None
        rows.append(
            [name, run.steps, len(run.cycles), len(run.undone), seconds, *(last.get(metric) for metric in metrics)]
        )
    return titles, rows


def draw_run_losses(
    axes: Axes, runs: Sequence[Run], names: Sequence[str], colours: Sequence[Colour], narrow: bool = False
) -> None:
    """Smoothed training losses of all runs as lines, and losses of evaluations as points."""
    labels = label_names(names, _legend_letters(narrow))
    curves = []
    for run in runs:
        losses = training_losses(run)
        smoothed = smooth([value for _, value in losses])
        curve = [(step, float(value)) for (step, _), value in zip(losses, smoothed, strict=True)]
        curves.append((curve, next(iter(split_evaluations(run)[0].values()), [])))
    values = [value for pair in curves for points in pair for _, value in points]
    if not values:
        write_nothing(axes, "No losses were logged.")
        return
    limits = set_scale(axes, values)
    for (curve, points), name, colour in zip(curves, labels, colours, strict=True):
        axes.plot(*split_points(thin_out(curve, _MOST_POINTS), limits), color=colour.light, linewidth=1.8, label=name)
        plot_points(
            axes,
            *split_points(points, limits),
            "D",
            color=colour.light,
            markersize=4.5,
            markeredgecolor=PAPER.light,
        )
    mark_beyond(axes, [points for pair in curves for points in pair], limits)
    axes.set_ylabel("loss")
    legend_above(axes, 1 if narrow else 3)
    use_step_ticks(axes, max(run.steps for run in runs), narrow)


def shared_metric(runs: Sequence[Run]) -> str | None:
    """The metric that most runs evaluated and that is no loss, the first of equals; `None` without one."""
    found = [list(split_evaluations(run)[1]) for run in runs]
    metrics = list(dict.fromkeys(name for own in found for name in own))
    return max(metrics, key=lambda name: sum(name in own for own in found), default=None)


def draw_run_metric(
    axes: Axes, runs: Sequence[Run], names: Sequence[str], colours: Sequence[Colour], narrow: bool = False
) -> None:
    """The metric that the runs share, over their steps."""
    labels = label_names(names, _legend_letters(narrow))
    metric = shared_metric(runs)
    series = [] if metric is None else [evaluations(run).get(metric, []) for run in runs]
    if metric is None or not any(series):
        write_nothing(axes, "No metrics were evaluated.")
        return
    limits = set_scale(axes, [value for points in series for _, value in points])
    for points, name, colour in zip(series, labels, colours, strict=True):
        if points:
            plot_points(
                axes,
                *split_points(points, limits),
                "D-",
                color=colour.light,
                linewidth=1.6,
                markersize=4,
                label=name,
            )
    mark_beyond(axes, series, limits)
    axes.set_ylabel(metric.replace("_", " "))
    legend_above(axes, 1 if narrow else 3)
    use_step_ticks(axes, max(run.steps for run in runs), narrow)


def draw_run_shares(
    axes: Axes, runs: Sequence[Run], names: Sequence[str], colours: Colours, narrow: bool = False
) -> None:
    """The share of the steps that each candidate made, a bar for each run."""
    for row, run in enumerate(runs):
        left = 0.0
        for item in candidate_shares(run):
            axes.barh(
                row,
                item.share,
                left=left,
                height=0.6,
                color=colours[item.candidate].light,
                edgecolor=PAPER.light,
                linewidth=0.6,
            )
            left += item.share
    axes.set_yticks(range(len(runs)), label_names(names, axis_letters(narrow)))
    axes.set_ylim(len(runs) - 0.5, -0.5)
    use_per_cent(axes, "x")
    axes.grid(False)


def axis_letters(narrow: bool) -> int:
    """How long names beside bars may be."""
    return 10 if narrow else 24


def _legend_letters(narrow: bool) -> int:
    return 34 if narrow else 40
