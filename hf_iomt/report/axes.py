"""Scales, limits and ticks of the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .names import format_rate, per_cent
from .palette import ALARM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Values beyond the middle part by more than so many times its height are off the scale: a loss that exploded, or an
# evaluation before training, must not press all others flat.
_MIDDLE = (2.0, 95.0)
_BEYOND = 3.0
# From this quotient of largest and smallest on, an axis is logarithmic.
_LOGARITHMIC = 30.0

Limits = tuple[float, float]


def set_scale(axes: Axes, values: Sequence[float]) -> Limits:
    """
    Choose the scale and the limits of the y axis, so that the bulk of the values is seen.

    Args:
        axes (`Axes`): The axes.
        values (`Sequence[float]`): All that is drawn; what is not finite has no say.

    Returns:
        `tuple[float, float]`: The limits. What is beyond them is off the scale.
    """
    finite = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    if len(finite) == 0:
        axes.set_ylim(0, 1)
        return 0.0, 1.0
    low, high = np.percentile(finite, _MIDDLE)
    logarithmic = bool(finite.min() > 0 and high / max(low, finite.min()) > _LOGARITHMIC)
    if logarithmic:
        finite, low, high = np.log10(finite), np.log10(low), np.log10(high)
    reach = max(high - low, 1e-3 * max(abs(high), abs(low)), 1e-9)
    seen = finite[(finite >= low - _BEYOND * reach) & (finite <= high + _BEYOND * reach)]
    bottom, top = seen.min(), seen.max()
    # Around what does not change, so that its ticks are no noise of the fifth digit.
    constant = top == bottom and not logarithmic
    margin = max(0.05 * abs(top), reach) if constant else 0.06 * max(top - bottom, reach)
    bottom, top = bottom - margin, top + margin
    if logarithmic:
        bottom, top = 10**bottom, 10**top
        use_log_ticks(axes, bottom, top)
    axes.set_ylim(bottom, top)
    return float(bottom), float(top)


def use_log_ticks(axes: Axes, bottom: float, top: float) -> None:
    """Make the y axis logarithmic, with labels such as 1e-3 and at least two of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_yscale("log")
    decades = np.log10(top / bottom)
    subs = (
        (1.0,)
        if decades > 3.5
        else (1.0, 3.0)
        if decades > 1.7
        else (1.0, 2.0, 5.0)
        if decades > 0.7
        else tuple(np.arange(1.0, 10.0, 0.5))
    )
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_rate(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def use_step_ticks(axes: Axes, steps: int, narrow: bool, label: bool = True) -> None:
    """An x axis of optimizer steps from the first to the last."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0.5, steps + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 10, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if label:
        axes.set_xlabel("optimizer step")
    else:
        axes.tick_params(axis="x", labelbottom=False)


def use_per_cent(axes: Axes, axis: str = "y") -> None:
    """An axis of shares from 0 to 100 %."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    chosen = axes.yaxis if axis == "y" else axes.xaxis
    chosen.set_major_locator(MultipleLocator(0.25))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: per_cent(value)))
    (axes.set_ylim if axis == "y" else axes.set_xlim)(0, 1)


def legend_above(axes: Axes, columns: int, right: bool = False, more: Sequence[Any] = ()) -> None:
    """
    A legend over the axes, where it hides no data; none where nothing has a label.

    Args:
        axes (`Axes`): The axes.
        columns (`int`): Columns of the legend, at most.
        right (`bool`, *optional*): Whether it is flush right, beside a title.
        more (`Sequence[Artist]`, *optional*): Entries for what has no label in the axes.
    """
    handles = [*axes.get_legend_handles_labels()[0], *more]
    if handles:
        axes.legend(
            handles=handles,
            loc="lower right" if right else "lower left",
            bbox_to_anchor=(1 if right else 0, 1),
            ncols=min(columns, len(handles)),
            borderaxespad=0.3,
            columnspacing=1.4,
            handlelength=1.6,
            handletextpad=0.6,
        )


def plot_points(axes: Axes, steps: Sequence[float], values: Sequence[float], *style: str, **settings: Any) -> None:
    """Plot points that may lie on the edge of the axes and are whole there; none takes part in the layout."""
    (line,) = axes.plot(steps, values, *style, clip_on=False, **settings)
    line.set_in_layout(False)


def split_points(
    points: Sequence[tuple[int, float]], limits: Limits = (-math.inf, math.inf)
) -> tuple[list[int], list[float]]:
    """Steps and values, with a gap where a value is not on the scale."""
    bottom, top = limits
    return [step for step, _ in points], [value if bottom <= value <= top else math.nan for _, value in points]


def mark_beyond(axes: Axes, series: Iterable[Sequence[tuple[int, float]]], limits: Limits, label: str = "") -> None:
    """Triangles at the edges of the axes for the values that `split_points` leaves out; what is no number is above."""
    bottom, top = limits
    points = [point for own in series for point in own]
    above, below = (
        [step for step, value in points if not value <= top],
        [step for step, value in points if value < bottom],
    )
    for steps, edge, marker in ((above, 1.0, "^"), (below, 0.0, "v")):
        if steps:
            plot_points(
                axes,
                steps,
                [edge] * len(steps),
                marker,
                color=ALARM,
                markersize=5,
                transform=axes.get_xaxis_transform(),
                zorder=5,
                label=label,
            )
            label = ""
