"""The panels of a run, each drawn into axes that somebody else has placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import (
    legend_above,
    mark_beyond,
    plot_points,
    set_scale,
    split_points,
    use_log_ticks,
    use_per_cent,
    use_step_ticks,
)
from .calibration import predictions, why_none
from .losses import smooth, split_evaluations, thin_out, training_losses
from .palette import ALARM, INK, MUTED, PAPER, SHADE, Colour
from .run import Run
from .shares import cumulative_shares
from .style import write_nothing
from .times import PARTS
from .transferability_parts import transferability_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Colours = Mapping[str, Colour]

# Points of a curve that are drawn, at most: more than a screen has columns.
_MOST_POINTS = 1500
# Records of the shares so far, of the first ones and of all.
_MOST_ENDS = 120
# Series of evaluations in one panel.
_MOST_SERIES = 4
_MARKERS = ("D", "s", "o", "v")
# Grey, ink and hatched, so that they are not taken for optimizers.
TIME_COLOURS = {
    "training": Colour("#a9b2bc", "#6d7782"),
    "selection": Colour("#2b3138", "#dfe3e7"),
    "assessment": PAPER,
}


def draw_losses(axes: Axes, run: Run, narrow: bool = False, columns: int = 7, right: bool = False) -> None:
    """Training losses as they were logged and smoothed, and losses of evaluations."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    losses, evaluations = training_losses(run), split_evaluations(run)[0]
    if not losses and not evaluations:
        write_nothing(axes, "No losses were logged.")
        return
    series = dict(list(evaluations.items())[:_MOST_SERIES])
    drawn = (losses, *series.values())
    limits = set_scale(axes, [value for points in drawn for _, value in points])
    _shade_race(axes, run)
    if losses:
        few = len(losses) <= 30
        raw = thin_out(losses, _MOST_POINTS)
        style: dict[str, Any] = {"marker": "o", "markersize": 2.5} if few else {}
        axes.plot(
            *split_points(raw, limits), color=MUTED.light, linewidth=0.7, alpha=0.75, label="training, logged", **style
        )
        smoothed = [(step, value) for (step, _), value in zip(losses, smooth([y for _, y in losses]), strict=True)]
        axes.plot(*split_points(thin_out(smoothed, _MOST_POINTS)), color=INK.light, linewidth=2.0, label="smoothed")
    for (name, points), marker in zip(series.items(), _MARKERS, strict=False):
        label = "evaluation" if name == "loss" else f"evaluation {name.removesuffix('_loss').replace('_', ' ')}"
        edge: dict[str, Any] = {
            "markeredgecolor": INK.light,
            "markeredgewidth": 0.9,
            "markersize": 5 if len(points) < 60 else 3,
        }
        plot_points(
            axes,
            *split_points(points, limits),
            marker,
            linestyle="none",
            color="#f0e442",
            label=label,
            zorder=4,
            **edge,
        )
    mark_beyond(axes, drawn, limits, label="off the scale or not finite")
    marks: list[Any] = [Patch(color=SHADE.light, label="race")] if run.race else []
    marks.append(Line2D([], [], marker="|", linestyle="none", color=INK.light, label="switch"))
    if run.undone:
        marks.append(Line2D([], [], marker="x", linestyle="none", color=ALARM, label="rolled back"))
    legend_above(axes, columns, right, marks)
    axes.set_ylabel("loss")
    use_step_ticks(axes, run.steps, narrow, label=False)


def draw_ribbon(axes: Axes, run: Run, colours: Colours, narrow: bool = False) -> None:
    """The active candidate by its colour, ticks where it changed, and crosses over cycles that were rolled back."""
    spans: dict[str, list[tuple[float, float]]] = {}
    begin = run.history[0]
    for record, after in zip(run.history, [*run.history[1:], None], strict=True):
        if after is None or after["candidate"] != record["candidate"]:
            start = begin["first_step"] - 0.5
            spans.setdefault(record["candidate"], []).append((start, record["last_step"] + 0.5 - start))
            begin = after or begin
    for candidate, parts in spans.items():
        axes.broken_barh(parts, (0, 1), facecolors=colours[candidate].light, linewidth=0)
    switches = [step - 0.5 for step in run.switches]
    axes.vlines(switches, -0.55, -0.1, color=INK.light, linewidth=0.8 if len(switches) < 150 else 0.4)
    undone = [(record["first_step"] + record["last_step"]) / 2 for record in run.undone]
    if undone:
        size = 5.0 if len(undone) < 60 else 3.0
        plot_points(axes, undone, [1.45] * len(undone), "x", color=ALARM, markersize=size, markeredgewidth=1.2)
    axes.set_ylim(-0.6, 1.9 if undone else 1.05)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    use_step_ticks(axes, run.steps, narrow)


def draw_metrics(axes: Axes, run: Run, narrow: bool = False, right: bool = False) -> None:
    """Metrics of the evaluations that are no losses."""
    found = dict(list(split_evaluations(run)[1].items())[:_MOST_SERIES])
    if not found:
        write_nothing(axes, "No metrics were evaluated.")
        return
    limits = set_scale(axes, [value for points in found.values() for _, value in points])
    _shade_race(axes, run)
    for (name, points), marker, dashes in zip(found.items(), _MARKERS, ("-", "--", ":", "-."), strict=False):
        plot_points(
            axes,
            *split_points(points, limits),
            dashes,
            marker=marker,
            color=INK.light,
            linewidth=1.4,
            markersize=4,
            label=name.replace("_", " "),
        )
    mark_beyond(axes, found.values(), limits)
    if len(found) == 1:
        axes.set_ylabel(next(iter(found)).replace("_", " "))
    else:
        axes.set_ylabel("metric")
        legend_above(axes, 2 if narrow else 4, right)
    use_step_ticks(axes, run.steps, narrow)


def draw_shares(axes: Axes, run: Run, colours: Colours, narrow: bool = False) -> None:
    """The share of the steps so far that each candidate has made, one above the other."""
    ends, shares = cumulative_shares(run)
    # Later on a cycle changes little, and a screen has only so many columns.
    first = min(len(ends), _MOST_ENDS)
    shown = np.unique([*range(first), *np.linspace(first - 1, len(ends) - 1, _MOST_ENDS).round().astype(int)])
    # From the first step on, which the first record made alone.
    steps = np.concatenate([[0.5], ends[shown] + 0.5])
    rows = [np.concatenate([row[:1], row[shown]]) for row in shares.values()]
    axes.stackplot(steps, rows, colors=[colours[name].light for name in shares], linewidth=0.6, edgecolor=PAPER.light)
    use_per_cent(axes)
    axes.grid(False)
    axes.set_ylabel("share of steps so far")
    use_step_ticks(axes, run.steps, narrow)


def draw_rates(axes: Axes, run: Run, colours: Colours, narrow: bool = False) -> None:
    """The learning rate that each cycle began with, schedule included, on a logarithmic axis."""
    from matplotlib.collections import LineCollection

    records = [record for record in run.history if record["learning_rate"] > 0]
    if not records:
        write_nothing(axes, "All learning rates are 0.")
        return
    _shade_race(axes, run)
    segments = [
        [(item["first_step"] - 0.5, item["learning_rate"]), (item["last_step"] + 0.5, item["learning_rate"])]
        for item in records
    ]
    lines = [colours[item["candidate"]].light for item in records]
    axes.add_collection(LineCollection(segments, colors=lines, linewidths=4, capstyle="butt"))
    rates = [item["learning_rate"] for item in records]
    bottom, top = min(rates) / 1.6, max(rates) * 1.6
    use_log_ticks(axes, bottom, top)
    axes.set_ylim(bottom, top)
    axes.set_ylabel("learning rate")
    use_step_ticks(axes, run.steps, narrow)


def draw_calibration(axes: Axes, run: Run, colours: Colours, narrow: bool = False) -> None:
    """Predicted mean ± 2σ against the score that came; on the diagonal where both are equal."""
    from matplotlib.collections import LineCollection

    items = predictions(run)
    if not items:
        write_nothing(axes, f"No predictions: {why_none(run)}.")
        return
    # A score of -1 is a verdict, not a measurement: it would press all others together.
    measured = [item.score for item in items if not item.rolled_back] or [item.score for item in items]
    low, high = _limits(measured)
    means, reach = [item.mean for item in items], 2 * float(np.median([item.std for item in items]))
    left, right = _limits([min(means) - reach, max(means) + reach])
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.axline((0, 0), slope=1, color=MUTED.light, linewidth=1, dashes=(4, 3), label="as predicted")
    many = len(items) > 80
    # Points that look alike are one line: a picture of many cycles stays small.
    alike: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
    heights = [min(max(item.score, low), high) for item in items]
    for item, height in zip(items, heights, strict=True):
        marker = "o" if height == item.score else "v" if item.score < low else "^"
        alike.setdefault((item.candidate, marker, item.covered), []).append((item.mean, height))
    bars = [
        [(item.mean - 2 * item.std, height), (item.mean + 2 * item.std, height)]
        for item, height in zip(items, heights, strict=True)
    ]
    axes.add_collection(
        LineCollection(
            bars,
            colors=[colours[item.candidate].light for item in items],
            linewidths=0.7 if many else 1.1,
            alpha=0.35 if many else 0.6,
        ),
        autolim=False,
    )
    for (candidate, marker, covered), points in alike.items():
        plot_points(
            axes,
            [mean for mean, _ in points],
            [height for _, height in points],
            marker,
            color=colours[candidate].light if covered else "none",
            markeredgecolor=colours[candidate].light,
            markersize=3.5 if many else 5.5,
            zorder=3,
        )
    ink: dict[str, Any] = {"linestyle": "none", "color": INK.light, "markersize": 5}
    axes.plot([], [], "o", label="score within 2σ", **ink)
    axes.plot([], [], "o", label="beyond", markerfacecolor="none", **ink)
    if any(not low <= item.score <= high for item in items):
        axes.plot([], [], "v", label="off the scale, or rolled back", markerfacecolor="none", **ink)
    legend_above(axes, 2 if narrow else 4)
    axes.set_xlabel("predicted score, mean ± 2σ")
    axes.set_ylabel("score")
    _few_ticks(axes)


def draw_times(axes: Axes, rows: Mapping[str, Mapping[str, float]], narrow: bool = False) -> None:
    """
    What runs spent their time on, a bar for each.

    Args:
        axes (`Axes`): The axes.
        rows (`Mapping[str, Mapping[str, float]]`): What `time_parts` returned, by the name of the run.
        narrow (`bool`, *optional*): Whether there is little room.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    names, longest = list(rows), max((sum(row.values()) for row in rows.values()), default=0.0)
    unit, size = ("h", 3600.0) if longest >= 7200 else ("min", 60.0) if longest >= 120 else ("s", 1.0)
    left = np.zeros(len(names))
    for part in PARTS:
        widths = np.array([rows[name].get(part, 0.0) / size for name in names])
        axes.barh(
            range(len(names)),
            widths,
            left=left,
            height=0.6,
            label=part,
            color=TIME_COLOURS[part].light,
            edgecolor=INK.light,
            linewidth=0.6,
            hatch="////" if part == "assessment" else None,
        )
        left += widths
    axes.set_yticks(range(len(names)), names if len(names) > 1 else [""])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, max(float(left.max()), 1e-3) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {unit}"))
    axes.grid(False, axis="y")
    legend_above(axes, 3)


def draw_transferability(axes: Axes, run: Run, narrow: bool = False) -> None:
    """ω_t and what enters it, each between 0 and 1."""
    parts = transferability_parts(run)
    if not parts:
        write_nothing(axes, "ω_t is not known.")
        return
    for row, part in enumerate(parts):
        own = part.weight is None
        axes.barh(row, part.scaled, height=0.6, color=(INK if own else TIME_COLOURS["training"]).light)
        axes.text(part.scaled + 0.02, row, f"{part.scaled:.2f}", va="center", fontweight="bold" if own else "normal")
    titles = [
        part.title if part.weight is None or part.title.startswith("ω") else f"σ({part.title})" for part in parts
    ]
    axes.set_yticks(range(len(parts)), titles)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, 1.15)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(False, axis="y")


def _shade_race(axes: Axes, run: Run) -> None:
    if race := run.race:
        axes.axvspan(
            race[0]["first_step"] - 0.5, race[-1]["last_step"] + 0.5, color=SHADE.light, linewidth=0, zorder=0
        )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return low - margin, high + margin


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6))
