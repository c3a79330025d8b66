"""The part of a page that shows one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import captions
from .calibration import calibrate, predictions, why_none
from .losses import evaluations, split_evaluations, thin_out, training_losses
from .markup import Cell, details, escape, legend, paragraphs, table
from .names import capitalize, per_cent, short_names
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
from .pictures import Pictures
from .run import Run
from .shares import candidate_shares
from .summary import summarize_run
from .times import format_seconds, time_parts
from .transferability_parts import describe_transferability, transferability_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Names in a legend, and rows of a table of training losses.
_MOST_NAMES = 15
_MOST_ROWS = 100


class RunSection:
    """
    Writes the section of a run.

    Args:
        run ([`Run`]): The run.
        colours (`Mapping[str, Colour]`): The colour of each candidate.
        pictures ([`Pictures`]): Makes the figures.
        level (`int`, *optional*, defaults to 2): Level of its headings.
    """

    def __init__(self, run: Run, colours: Colours, pictures: Pictures, level: int = 2) -> None:
        self._run = run
        self._colours = colours
        self._pictures = pictures
        self._level = level
        self._shares = candidate_shares(run)
        self._names = short_names(run.candidates)

    def html(self) -> str:
        """The section without a heading of its own."""
        parts = [
            self._about(),
            f'<div class="summary">{paragraphs(summarize_run(self._run))}</div>',
            self._losses(),
            self._metrics(),
            self._shares_part(),
            self._rates(),
            self._calibration(),
            self._times(),
            self._transferability(),
            self._tables(),
        ]
        return "\n".join(part for part in parts if part)

    def _heading(self, text: str) -> str:
        return f"<h{self._level}>{escape(text)}</h{self._level}>"

    def _about(self) -> str:
        record = self._run.record
        if record is None:
            return f'<p class="about">{escape(self._run.folder)}</p>'
        model = record.get("model") or "a model made from a configuration"
        versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
        adapter = " with an adapter (PEFT)" if record.get("peft") else ""
        return f'<p class="about">{escape(record.get("trainer"))} on {escape(model)}{adapter}. {escape(versions)}.</p>'

    def _losses(self) -> str:
        run = self._run

        def draw(figure: Figure, narrow: bool) -> None:
            grid = figure.add_gridspec(2, 1, height_ratios=(3.4, 0.9) if narrow else (3.4, 0.6))
            draw_losses(figure.add_subplot(grid[0]), run, narrow, columns=2 if narrow else 7)
            draw_ribbon(figure.add_subplot(grid[1]), run, self._colours, narrow)

        picture = self._pictures.make(draw, self._describe_losses(), captions.LOSSES, 4.4, 4.5)
        rows: list[list[Cell]] = [[step, value] for step, value in thin_out(training_losses(run), _MOST_ROWS)]
        data = details("Training losses as a table", table(["step", "loss"], rows, "Training losses")) if rows else ""
        return self._heading("Loss and decisions") + self._legend() + picture + data

    def _describe_losses(self) -> str:
        run = self._run
        return (
            f"Loss over {run.steps:,} steps with a ribbon of the active candidate; {len(run.switches)} switches, "
            f"{len(run.undone)} cycles rolled back. The summary and the tables have the numbers."
        )

    def _legend(self) -> str:
        used = [row for row in self._shares if row.steps > 0]
        return legend([row.name for row in used], self._css([row.candidate for row in used]), _MOST_NAMES)

    def _css(self, candidates: Sequence[str]) -> list[str]:
        return [f"var(--c-{self._colours[name].light[1:]})" for name in candidates]

    def _metrics(self) -> str:
        found = evaluations(self._run)
        if not found:
            return ""
        picture = ""
        if split_evaluations(self._run)[1]:
            picture = self._pictures.make(
                lambda figure, narrow: draw_metrics(figure.add_subplot(), self._run, narrow),
                "Metrics of the evaluations over the optimizer steps.",
                captions.METRICS + (captions.METRICS_RACE if self._run.race else ""),
                2.4,
                2.4,
            )
        steps = sorted({step for points in found.values() for step, _ in points})
        values = {name: dict(points) for name, points in found.items()}
        rows: list[list[Cell]] = [[step, *(values[name].get(step) for name in found)] for step in steps]
        titles = ["step", *(name.replace("_", " ") for name in found)]
        data = table(titles, rows, "Evaluations")
        return (
            self._heading("Evaluations")
            + picture
            + (data if len(rows) < 8 else details("Evaluations as a table", data))
        )

    def _shares_part(self) -> str:
        picture = self._pictures.make(
            lambda figure, narrow: draw_shares(figure.add_subplot(), self._run, self._colours, narrow),
            "Share of the steps so far that each candidate has made, stacked.",
            captions.SHARES + (captions.SHARES_RACE if self._run.race else ""),
            2.7,
            2.7,
        )
        rows: list[list[Cell]] = [
            [row.name, row.steps, per_cent(row.share, 1), row.cycles, row.rolled_back, row.mean_score]
            for row in self._shares
        ]
        data = table(
            ["candidate", "steps", "share", "cycles", "rolled back", "mean score"],
            rows,
            "Candidates; steps with, cycles without the race" if self._run.race else "Candidates",
            self._css([row.candidate for row in self._shares]),
        )
        return self._heading("Who made the steps") + picture + data

    def _rates(self) -> str:
        picture = self._pictures.make(
            lambda figure, narrow: draw_rates(figure.add_subplot(), self._run, self._colours, narrow),
            "Learning rate at the start of each cycle on a logarithmic axis.",
            captions.RATES + (captions.RATES_RACE if self._run.race else ""),
            2.6,
            2.5,
        )
        return self._heading("Learning rate") + picture

    def _calibration(self) -> str:
        run, items = self._run, predictions(self._run)
        heading = self._heading("What the surrogate knew")
        if not items:
            return f"{heading}<p>No predictions: {escape(why_none(run))}.</p>"
        result = calibrate(items)
        picture = self._pictures.make(
            lambda figure, narrow: draw_calibration(figure.add_subplot(), run, self._colours, narrow),
            f"Predicted against realised scores of {result.count} cycles. {result.verdict}",
            captions.CALIBRATION,
            4.6,
            4.3,
            half=True,
        )
        rows: list[list[Cell]] = [
            [item.cycle, self._names[item.candidate], item.mean, item.std, item.score, "yes" if item.covered else "no"]
            for item in items
        ]
        data = table(["cycle", "candidate", "predicted", "σ", "score", "within 2σ"], rows, "Predictions and scores")
        return f"{heading}<p>{escape(result.verdict)}</p>{picture}{details('Predictions as a table', data)}"

    def _times(self) -> str:
        parts = time_parts(self._run)
        picture = self._pictures.make(
            lambda figure, narrow: draw_times(figure.add_subplot(), {self._run.name: parts}, narrow),
            "Time: " + ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in parts.items()) + ".",
            captions.TIMES,
            1.4,
            1.5,
            half=True,
        )
        total = sum(parts.values())
        rows: list[list[Cell]] = [
            [name, format_seconds(seconds), per_cent(seconds / total, 1) if total else None]
            for name, seconds in parts.items()
        ]
        return self._heading("Time") + picture + table(["part", "time", "share"], rows, "Time by part")

    def _transferability(self) -> str:
        heading, parts = self._heading("Transferability"), transferability_parts(self._run)
        text = "".join(f"<p>{escape(sentence)}</p>" for sentence in describe_transferability(self._run))
        if len(parts) < 2:
            return heading + text
        picture = self._pictures.make(
            lambda figure, narrow: draw_transferability(figure.add_subplot(), self._run, narrow),
            "Parts of the transferability weight: " + ", ".join(f"{part.title} {part.scaled:.2f}" for part in parts),
            captions.TRANSFERABILITY,
            0.7 + 0.4 * len(parts),
            0.8 + 0.42 * len(parts),
            half=True,
        )
        rows: list[list[Cell]] = [[part.title, part.value, part.scaled, part.weight] for part in parts]
        return heading + text + picture + table(["part", "value", "in [0, 1]", "weight"], rows, "Parts of ω_t")

    def _tables(self) -> str:
        rows: list[list[Cell]] = [
            [
                record["cycle"],
                f"{record['first_step']:,}–{record['last_step']:,}",
                record["phase"],
                self._names[record["candidate"]],
                float(record["learning_rate"]),
                record.get("score"),
                record.get("predicted_mean"),
                record.get("predicted_std"),
                "yes" if record.get("rolled_back") else "overfitting" if record.get("overfitted") else "",
                float(record.get("seconds", 0.0)),
            ]
            for record in self._run.history
        ]
        titles = [
            "cycle",
            "steps",
            "phase",
            "candidate",
            "learning rate",
            "score",
            "predicted",
            "σ",
            "undone",
            "seconds",
        ]
        content = details(
            "All cycles",
            table(
                titles,
                rows,
                "Cycles" + ("; in the race, undone means that the entrant did damage" if self._run.race else ""),
            ),
        )
        for title, key in (
            ("Settings of IOMT", "settings"),
            ("Trainer's arguments, where not the default", "arguments"),
        ):
            if values := (self._run.record or {}).get(key):
                pairs: list[list[Cell]] = [[name, str(value)] for name, value in values.items()]
                content += details(title, table(["name", "value"], pairs, capitalize(title)))
        return self._heading("Everything") + content
