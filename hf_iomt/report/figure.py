"""One picture of a run, or of several, as a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .comparison import (
    axis_letters,
    draw_run_losses,
    draw_run_metric,
    draw_run_shares,
    label_names,
    run_names,
    shared_metric,
)
from .losses import split_evaluations
from .names import count, short_names
from .palette import MUTED, candidate_colours, run_colours
from .panels import (
    Colours,
    draw_calibration,
    draw_losses,
    draw_metrics,
    draw_rates,
    draw_ribbon,
    draw_shares,
    draw_times,
    draw_transferability,
)
from .run import Run
from .shares import candidate_shares
from .style import figure_style, make_figure
from .times import time_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".svg", ".pdf")
_WIDTH = 11.0
# Candidates in a legend, at most.
_MOST_NAMES = 16


def draw_run(run: Run, path: str | os.PathLike[str]) -> None:
    """
    Draw all panels of a run into one picture.

    Args:
        run ([`Run`]): The run.
        path (`str` or `os.PathLike`): Where to write it: `.png`, `.svg` or `.pdf`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The file has another suffix.
    """
    colours = candidate_colours(run.candidates)
    has_metrics = bool(split_evaluations(run)[1])
    heights = [3.0, 0.5, *([1.6] if has_metrics else []), 1.8, 1.8, 1.5, 1.7]
    with figure_style():
        figure = make_figure(_WIDTH, sum(heights) + 2.4)
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(1.15, 1))
        losses, ribbon, *rows = [figure.add_subplot(grid[row, :]) for row in range(len(heights) - 2)]
        draw_losses(losses, run, right=True)
        losses.set_title(f"{run.name}: loss")
        draw_ribbon(ribbon, run, colours)
        if has_metrics:
            metrics = rows.pop(0)
            draw_metrics(metrics, run, right=True)
            metrics.set_title("Evaluation")
        shares, rates = rows
        draw_shares(shares, run, colours)
        shares.set_title("Who made the steps")
        draw_rates(rates, run, colours)
        rates.set_title("Learning rate at the start of each cycle")
        # A legend above needs room for a title over it.
        calibration = figure.add_subplot(grid[-2:, 0])
        draw_calibration(calibration, run, colours, narrow=True)
        calibration.set_title("What the surrogate predicted, and what came", pad=36)
        times, transferability = (figure.add_subplot(grid[row, 1]) for row in (-2, -1))
        draw_times(times, {run.name: time_parts(run)}, narrow=True)
        times.set_title("Time", pad=22)
        draw_transferability(transferability, run)
        transferability.set_title("Transferability")
        used = [row.candidate for row in candidate_shares(run) if row.steps > 0]
        _add_legend(figure, used, colours, short_names(run.candidates))
        _write(figure, path)


def draw_comparison(runs: Sequence[Run], path: str | os.PathLike[str]) -> None:
    """
    Draw several runs into one picture.

    Args:
        runs (`Sequence[Run]`): The runs, in the order of the legend.
        path (`str` or `os.PathLike`): Where to write it: `.png`, `.svg` or `.pdf`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The file has another suffix.
    """
    names, hues = run_names(runs), run_colours(len(runs))
    candidates = list(dict.fromkeys(name for run in runs for name in run.candidates))
    colours, bars = candidate_colours(candidates), 0.7 + 0.35 * len(runs)
    has_metric = shared_metric(runs) is not None
    heights = [3.0, *([2.2] if has_metric else []), bars, bars]
    with figure_style():
        figure = make_figure(_WIDTH, sum(heights) + 2.8)
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        losses, *rows = [figure.add_subplot(grid[row]) for row in range(len(heights))]
        draw_run_losses(losses, runs, names, hues)
        if has_metric:
            draw_run_metric(rows.pop(0), runs, names, hues)
        shares, times = rows
        draw_run_shares(shares, runs, names, colours)
        shares.set_title("Who made the steps")
        labels = label_names(names, axis_letters(narrow=False))
        draw_times(times, {name: time_parts(run) for name, run in zip(labels, runs, strict=True)})
        used = list(dict.fromkeys(row.candidate for run in runs for row in candidate_shares(run) if row.steps > 0))
        _add_legend(figure, used, colours, short_names(candidates))
        _write(figure, path)


def _add_legend(figure: Figure, used: Sequence[str], colours: Colours, names: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colours[name].light, label=names[name]) for name in used[:_MOST_NAMES]]
    if len(used) > _MOST_NAMES:
        rest = count(len(used) - _MOST_NAMES, "more candidate")
        handles.append(Line2D([], [], linestyle="none", label=f"and {rest}", color=MUTED.light))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, title="Candidates", alignment="left")


def _write(figure: Figure, path: str | os.PathLike[str]) -> None:
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"A figure is written as {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}, but got {target.name!r}. "
            "Choose one of these suffixes."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # No date, so that the same run gives the same file.
    metadata = (
        {}
        if target.suffix.lower() == ".png"
        else {"Date" if target.suffix.lower() == ".svg" else "CreationDate": None}
    )
    figure.savefig(target, dpi=150, metadata=metadata)
