"""Tables of the deterministic functions, in Markdown."""

from __future__ import annotations

import math
import statistics
from itertools import combinations
from typing import Any

# Values that differ by less are taken for equal: all functions are least at 0, and start between 1 and thousands.
TOLERANCE = 1e-6

_LABELS = {
    "default": "IOMT, default",
    "default, random choice": "IOMT, default, random choice",
    "paper": "IOMT, paper preset",
}
_CLIPPING = {"free": "not clipped", "clipped": "clipped"}


def method_label(method: str) -> str:
    """A method's name for a reader."""
    return _LABELS.get(method, method)


def paired_values(result: dict[str, Any], method: str) -> tuple[list[float], list[float]]:
    """From each start the least value of the single runs and that of the interleaved run; infinite if it diverged."""
    runs = zip(*(_finite(values) for values in result["single"].values()), strict=True)
    return [min(values) for values in runs], _finite(result["interleaved"][method])


def compare(ours: list[float], theirs: list[float]) -> tuple[int, int, int]:
    """How often our value is below, equal to and above theirs."""
    below = sum(a < b - TOLERANCE for a, b in zip(ours, theirs, strict=True))
    above = sum(b < a - TOLERANCE for a, b in zip(ours, theirs, strict=True))
    return below, len(ours) - below - above, above


def summary(contents: dict[str, Any]) -> str:
    """All tables. `contents` has the JSONs by the names of the experiments."""
    return "\n".join(
        [
            "# Deterministic functions",
            "",
            "Written by `python -m benchmarks functions draw`; do not edit.",
            "",
            *_figure1(contents["figure1"]),
            *_figure4(contents["figure4"]),
            *_figure7a(contents["figure7a"]),
        ]
    )


def _figure1(content: dict[str, Any]) -> list[str]:
    settings = content["settings"]
    lines = [
        "## Figure 1: where optimizers go from one start",
        "",
        f"{settings['runs']} runs of {settings['steps']} steps for each optimizer and function; run n has the "
        "hyperparameters drawn with the seed n, the only thing that is random. Values at the end; all functions are "
        "least at 0.",
        "",
        "| function | optimizer | least | median | greatest | below 0.01 | diverged |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, families in content["results"].items():
        for family, result in families.items():
            values = _finite(result["values"])
            reached = sum(value < 0.01 for value in values)
            lost = sum(map(math.isinf, values))
            cells = [_cell(min(values)), _cell(statistics.median(values)), _cell(max(values)), str(reached), str(lost)]
            lines.append(f"| {name} | {family} | {' | '.join(cells)} |")
    return [*lines, "", "![paths](figure1.png)", ""]


def _figure4(content: dict[str, Any]) -> list[str]:
    moments = content["settings"]["moments"]
    families = list(next(iter(content["results"].values()))["candidates"])
    pairs = list(combinations(range(len(families)), 2))
    names = " | ".join(f"{families[a]}, {families[b]}" for a, b in pairs)
    lines = [
        "## Figure 4: directions from one start",
        "",
        "Angles in degrees between the ways from the start to where two optimizers are after so many steps, each at "
        f"the learning rate of the grid that is best after {moments[-1]} steps.",
        "",
        f"| function | steps | {names} | mean |",
        "|---|---" + "|---" * (len(pairs) + 1) + "|",
    ]
    rows = {kind: _angle_rows(content["results"], kind, pairs) for kind in ("displacements", "steps")}
    lines += rows["displacements"]
    lines += ["", "The same between their last steps alone:", "", *lines[4:6], *rows["steps"], ""]
    rates = [
        f"{name}: " + ", ".join(item.replace(":lr=", " ") for item in result["candidates"].values())
        for name, result in content["results"].items()
    ]
    return [*lines, "Learning rates: " + "; ".join(rates) + ".", "", "![directions](figure4.png)", ""]


def _angle_rows(results: dict[str, Any], kind: str, pairs: list[tuple[int, int]]) -> list[str]:
    rows = []
    for name, result in results.items():
        for moment, turned in result["after"].items():
            angles = [turned[kind]["angles"][a][b] for a, b in pairs]
            known = [value for value in angles if value is not None]
            cells = ["–" if value is None else f"{value:.0f}" for value in angles]
            mean = f"{statistics.mean(known):.0f}" if known else "–"
            rows.append(f"| {name} | {moment} | {' | '.join(cells)} | {mean} |")
    return rows


def _figure7a(content: dict[str, Any]) -> list[str]:
    results, settings = content["results"], content["settings"]
    starts = len(results["starts"])
    lines = [
        "## Figure 7(a): interleaved and single runs",
        "",
        f"{starts} random starts per function, {settings['steps']} steps, the 15 candidates of the paper's grid, "
        "constant learning rates. The interleaved run from start n has the seed n, and the steps of its race "
        "count. Compared are the values at the end; values that differ by less than 1e-6 are equal.",
        "",
        "How often the interleaved run ends below / equal to / above",
        "",
        "- the best of the 15 single runs from the same start, known in hindsight only;",
        "- the candidate whose median over the starts is least on this function, known in hindsight too;",
        "- the median of the 15 single runs from the same start: what a blind choice gives.",
        "",
        "The last column tells how many of the 15 single runs it ends below, on average.",
        "",
        "| gradients | function | method | best from this start | best candidate | median | single runs beaten |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, shown in _CLIPPING.items():
        totals: dict[str, list[tuple[tuple[int, int, int], ...]]] = {}
        for name in results["drawn"]:
            result = results[kind][name]
            for method in settings["methods"]:
                counts, beaten = _comparisons(result, method)
                totals.setdefault(method, []).append(counts)
                cells = " | ".join(map(_counts, counts))
                lines.append(f"| {shown} | {name} | {method_label(method)} | {cells} | {beaten:.1f} |")
        for method, parts in totals.items():
            sums = [tuple(map(sum, zip(*column, strict=True))) for column in zip(*parts, strict=True)]
            lines.append(f"| {shown} | **all** | {method_label(method)} | {' | '.join(map(_counts, sums))} | |")
    for kind, shown in _CLIPPING.items():
        lines += ["", f"Median and mean of the values at the end, gradients {shown}:", "", *_values(results[kind])]
    return [*lines, "", "![interleaved and single runs](figure7a.png)", ""]


def _comparisons(result: dict[str, Any], method: str) -> tuple[tuple[tuple[int, int, int], ...], float]:
    best, ours = paired_values(result, method)
    singles = [_finite(values) for values in result["single"].values()]
    favourite = min(singles, key=lambda values: (statistics.median(values), _mean(values)))
    middle = [statistics.median(values) for values in zip(*singles, strict=True)]
    beaten = sum(compare(ours, values)[0] for values in singles) / len(ours)
    return (compare(ours, best), compare(ours, favourite), compare(ours, middle)), beaten


def _values(problems: dict[str, Any]) -> list[str]:
    """Single runs by the mean of their ranks over the functions, the interleaved ones first."""
    first = next(iter(problems.values()))
    lines = ["| method | " + " | ".join(problems) + " |", "|---" * (len(problems) + 1) + "|"]
    rows = {method_label(method): ("interleaved", method) for method in first["interleaved"]}
    rows |= {item.replace(":lr=", ", lr "): ("single", item) for item in first["single"]}
    for label, (kind, item) in rows.items():
        cells = []
        for result in problems.values():
            values = _finite(result[kind][item])
            lost = sum(map(math.isinf, values))
            mean = _cell(_mean(values)) + (f", {lost} diverged" if lost else "")
            cells.append(f"{_cell(statistics.median(values))} ({mean})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    best = [paired_values(result, next(iter(first["interleaved"])))[0] for result in problems.values()]
    cells = [f"{_cell(statistics.median(values))} ({_cell(_mean(values))})" for values in best]
    return [*lines, f"| best of the 15 from each start | {' | '.join(cells)} |"]


def _counts(counts: tuple[int, ...]) -> str:
    return " / ".join(map(str, counts))


def _finite(values: list[float | None]) -> list[float]:
    """Values of a JSON, infinite where a run diverged."""
    return [math.inf if value is None else value for value in values]


def _mean(values: list[float]) -> float:
    """Mean over the runs that did not diverge."""
    known = [value for value in values if math.isfinite(value)]
    return statistics.mean(known) if known else math.inf


def _cell(value: float) -> str:
    return "diverged" if math.isinf(value) else "0" if abs(value) < 1e-12 else f"{value:.2g}"
