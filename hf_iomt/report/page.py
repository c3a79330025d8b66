"""A page of one or more runs in one file, which needs nothing else to be read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from . import captions
from .comparison import (
    axis_letters,
    draw_run_losses,
    draw_run_metric,
    draw_run_shares,
    label_names,
    metrics_table,
    run_names,
    shared_metric,
)
from .markup import escape, legend, table
from .names import count, short_names
from .palette import Colour, candidate_colours, run_colours
from .panels import TIME_COLOURS, draw_times
from .pictures import Pictures
from .run import Run, read_run
from .run_section import RunSection
from .shares import candidate_shares
from .svg import colour_variables
from .times import time_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_NAME = "iomt_report.html"
_MOST_NAMES = 15


def write_report(folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> Path:
    """
    Write a page about runs: a summary, figures and tables of each, and where there are several a comparison.

    Args:
        folders (`Sequence[str | os.PathLike]`): Folders of runs, see `read_run`; at least one.
        output (`str` or `os.PathLike`): The folder to write `iomt_report.html` into, or a file whose name ends on
            `.html`.

    Returns:
        `Path`: The page.

    Raises:
        FileNotFoundError: A folder has no history.
        ImportError: matplotlib is not installed.
        ValueError: No folder is given, or a history cannot be read.
    """
    if not folders:
        raise ValueError("There is no run to report on: give at least one folder.")
    page = make_page([read_run(folder) for folder in folders])
    target = Path(output)
    target = target if target.suffix == ".html" else target / REPORT_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def make_page(runs: Sequence[Run]) -> str:
    """The page as text."""
    names, hues = run_names(runs), run_colours(len(runs))
    candidates = list(dict.fromkeys(name for run in runs for name in run.candidates))
    colours = candidate_colours(candidates)
    shown = {**colours, **{f"run {index}": hue for index, hue in enumerate(hues)}, **TIME_COLOURS}
    variables = colour_variables(shown)
    pictures = Pictures(variables)
    if len(runs) == 1:
        title = f"Training report: {names[0]}"
        body = f"<header><h1>{escape(title)}</h1></header><main>{RunSection(runs[0], colours, pictures).html()}</main>"
    else:
        title = f"Training report: {count(len(runs), 'run')}"
        body = _compare(title, runs, names, hues, colours, pictures)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="hf-iomt {__version__}">\n'
        # Without one, browsers ask the server for it.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style(variables)}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _compare(
    title: str,
    runs: Sequence[Run],
    names: Sequence[str],
    hues: Sequence[Colour],
    colours: Mapping[str, Colour],
    pictures: Pictures,
) -> str:
    css = [f"var(--c-{hue.light[1:]})" for hue in hues]
    titles, rows = metrics_table(runs, names)
    steps = f"{len(runs)} runs over up to {max(run.steps for run in runs):,} steps"
    parts = [
        "<h2>Comparison</h2>",
        table(titles, rows, "Runs, with the last value of each metric", css),
        "<h3>Loss</h3>",
        pictures.make(
            lambda figure, narrow: draw_run_losses(figure.add_subplot(), runs, names, hues, narrow),
            f"Smoothed training losses and losses of evaluations of {steps}.",
            captions.RUN_LOSSES,
            3.8,
            4.0 + 0.2 * len(runs),
        ),
    ]
    if (metric := shared_metric(runs)) is not None:
        parts += [
            f"<h3>Evaluation: {escape(metric.replace('_', ' '))}</h3>",
            pictures.make(
                lambda figure, narrow: draw_run_metric(figure.add_subplot(), runs, names, hues, narrow),
                f"{metric} of {steps}.",
                captions.RUN_METRIC,
                3.0,
                3.2 + 0.2 * len(runs),
            ),
        ]
    used = list(dict.fromkeys(row.candidate for run in runs for row in candidate_shares(run) if row.steps > 0))
    short = short_names(list(colours))
    bars = 0.6 + 0.42 * len(runs)

    def draw_time(figure: Figure, narrow: bool) -> None:
        # Names of folders can be longer than a telephone is wide; the order is that of the table.
        labels = label_names(names, axis_letters(narrow))
        rows = {name: time_parts(run) for name, run in zip(labels, runs, strict=True)}
        draw_times(figure.add_subplot(), rows, narrow)

    parts += [
        "<h3>Who made the steps</h3>",
        legend([short[name] for name in used], [f"var(--c-{colours[name].light[1:]})" for name in used], _MOST_NAMES),
        pictures.make(
            lambda figure, narrow: draw_run_shares(figure.add_subplot(), runs, names, colours, narrow),
            f"Share of the steps of each candidate in each of {steps}.",
            captions.RUN_SHARES,
            bars,
            bars,
        ),
        "<h3>Time</h3>",
        pictures.make(
            draw_time,
            f"Time of training, selection and assessment of {steps}.",
            captions.TIMES,
            bars + 0.3,
            bars + 0.3,
        ),
    ]
    links = "".join(f'<li><a href="#run-{index}">{escape(name)}</a></li>' for index, name in enumerate(names))
    header = f'<header><h1>{escape(title)}</h1><nav aria-label="Runs"><ul>{links}</ul></nav></header>'
    sections = [
        f'<section id="run-{index}"><h2>{escape(name)}</h2>'
        f"{RunSection(run, colours, pictures, level=3).html()}</section>"
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    return f"{header}<main>{''.join(parts)}{''.join(sections)}</main>"


def _style(variables: Mapping[str, Colour]) -> str:
    light = "; ".join(f"--{name}: {colour.light}" for name, colour in variables.items())
    dark = "; ".join(f"--{name}: {colour.dark}" for name, colour in variables.items())
    sheet = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{sheet}"
    )
