"""How figures look, and the one place that loads matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .palette import GRID, INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@contextmanager
def figure_style() -> Iterator[None]:
    """
    The settings of matplotlib for the figures, whatever the user's own are.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "The figures of a report need matplotlib, which is not installed. Install the extra `plots`: "
            "pip install 'hf-iomt[plots]'."
        ) from error
    settings: dict[Any, Any] = {
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "axes.labelsize": 9.0,
        "axes.titlesize": 10.0,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": MUTED.light,
        "axes.labelcolor": INK.light,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "figure.facecolor": PAPER.light,
        "savefig.facecolor": "auto",
        "grid.color": GRID.light,
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 9.0,
        "text.color": INK.light,
        "xtick.color": MUTED.light,
        "ytick.color": MUTED.light,
        "xtick.labelcolor": INK.light,
        "ytick.labelcolor": INK.light,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.minor.visible": False,
        "ytick.minor.visible": False,
        # Names are no formulas, also where they have two dollar signs.
        "text.parse_math": False,
        # Text stays text: it can be found, read aloud and drawn in the reader's own font.
        "svg.fonttype": "none",
        # The same run gives the same file.
        "svg.hashsalt": "hf_iomt",
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def make_figure(width: float, height: float, transparent: bool = False) -> Figure:
    """An empty figure of this size in inches, independent of any window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if transparent:
        figure.set_facecolor("none")
    return figure


def write_nothing(axes: Axes, text: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.set_axis_off()
    lines = textwrap.fill(text, 40)
    note = axes.text(0.5, 0.5, lines, transform=axes.transAxes, ha="center", va="center", color=MUTED.light)
    # The panel has room for it; the layout need not make more.
    note.set_in_layout(False)
