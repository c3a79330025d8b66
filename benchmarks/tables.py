"""Tables of the comparison, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from .contenders import CONTENDERS, DEFAULT, FAMILIES, SINGLES, UNLEARNED, Contender
from .methods import GROUPS
from .protocol import (
    SCALE,
    Runs,
    find_target,
    mean_paired_difference,
    median_time,
    metric_of,
    paired_difference,
    tuned,
    values,
)
from .search import quality


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def spread(numbers: Mapping[int, float], metric: str) -> str:
    """Mean ± standard deviation over the seeds."""
    scaled = [SCALE[metric] * number for number in numbers.values()]
    if not all(map(math.isfinite, scaled)):
        return "diverged"
    deviation = f" ± {statistics.stdev(scaled):.2f}" if len(scaled) > 1 else ""
    return f"{statistics.mean(scaled):.2f}{deviation}"


def difference(ones: Mapping[int, float], others: Mapping[int, float], metric: str) -> str:
    """How much larger `ones` are, with the interval; all signs such that + is better."""
    return _with_interval(paired_difference(ones, others), metric)


def _with_interval(found: tuple[float, float, float] | None, metric: str) -> str:
    if found is None:
        return "–"
    sign = -1.0 if metric == "perplexity" else 1.0
    mean, *ends = (sign * SCALE[metric] * number for number in found)
    low, high = sorted(ends) if all(map(math.isfinite, ends)) else (math.nan, math.nan)
    if math.isnan(mean):
        return "diverged"
    return f"{mean:+.2f}" if math.isnan(low) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def comparison(runs: Runs) -> str:
    """Every contender on one experiment: what was picked, test metric, and default IOMT's lead over it."""
    metric = metric_of(runs)
    default = values(runs.get(DEFAULT.methods[0], {}), "test", metric)
    target = experiment_target(runs)
    rows = []
    for contender in CONTENDERS:
        name = contender.pick(runs)
        if name is None:
            continue
        found = values(runs[name], "test", metric)
        lead = "" if contender is DEFAULT else difference(default, found, metric)
        seconds = statistics.median(run["processor_seconds"] for run in runs[name].values())
        reached = math.inf if target is None else median_time(runs[name], target, metric)
        rows.append(
            [
                contender.title,
                _picked(contender, name, runs),
                str(len(found)),
                spread(found, metric),
                lead,
                f"{seconds:.1f}",
                f"{reached:.1f}" if math.isfinite(reached) else "∞",
            ]
        )
    header = ["method", "picked", "seeds", f"test {metric}", "default IOMT − it (+ is better)", "seconds", "to target"]
    return markdown(header, rows)


def _picked(contender: Contender, name: str, runs: Runs) -> str:
    """The setting, out of how many where not all of them were run, and whether SWATS has switched."""
    notes = [name] if len(contender.methods) > 1 else []
    count = sum(method in runs for method in contender.methods)
    if count < len(contender.methods):
        notes.append(f"of {count} settings")
    if name.startswith("swats"):
        switched = sum(run["switched_at"] is not None for run in runs[name].values())
        notes.append(f"switched in {switched} of {len(runs[name])} runs")
    return ", ".join(notes)


def experiment_target(runs: Runs) -> float | None:
    """The target on the validation split, from the best tuned single method."""
    metric = metric_of(runs)
    best = tuned(SINGLES, runs, metric)
    return None if best is None else find_target(runs[best], metric)


def leads(experiments: Mapping[str, Runs]) -> str:
    """
    Default IOMT's lead over each contender, one column for each experiment.

    Before them come means over those of accuracy: where all settings of the contender were run, the same without those
    where nothing is learned, and where only some were run, which are marked by a ° among the experiments.
    """
    names = [name for name, runs in experiments.items() if DEFAULT.methods[0] in runs]
    rows = []
    for contender in CONTENDERS[1:]:
        cells = [_lead(experiments[name], contender) for name in names]
        if any(cell != "–" for cell in cells):
            complete = [name for name in names if contender.is_complete(experiments[name])]
            groups = (
                complete,
                [name for name in complete if name not in UNLEARNED],
                [name for name in names if name not in complete],
            )
            means = [_mean_lead([experiments[name] for name in group], contender) for group in groups]
            rows.append([contender.title, *means, *cells])
    heads = ["accuracy, mean (experiments)", "of these, where something is learned", "with some of its settings only"]
    return markdown(["default IOMT against", *heads, *names], rows)


def _mean_lead(experiments: Sequence[Runs], contender: Contender) -> str:
    found = []
    for runs in (runs for runs in experiments if metric_of(runs) == "accuracy"):
        name = contender.pick(runs)
        if name is not None:
            ours, theirs = (values(runs[item], "test", "accuracy") for item in (DEFAULT.methods[0], name))
            found.append((ours, theirs))
    return f"{_with_interval(mean_paired_difference(found), 'accuracy')} ({len(found)})" if found else "–"


def _lead(runs: Runs, contender: Contender) -> str:
    metric = metric_of(runs)
    name = contender.pick(runs)
    if name is None:
        return "–"
    ours, theirs = (values(runs[item], "test", metric) for item in (DEFAULT.methods[0], name))
    return difference(ours, theirs, metric) + ("" if contender.is_complete(runs) else "°")


def switching(experiments: Mapping[str, Runs]) -> str:
    """
    The surrogate's lead in accuracy over other ways to switch, in the mean over the experiments, and what that mean is
    without the experiment that counts most in it; and on how many the surrogate is ahead, level and behind.
    """
    rows = []
    for title, surrogate, alone in (
        ("nothing set", "iomt default", "iomt range test, alone"),
        ("the paper's 15 candidates", "iomt grid", "iomt grid, commit"),
        ("paper preset", "iomt paper", ""),
    ):
        for way, other in (
            ("random", f"{surrogate}, random"),
            ("cyclical", f"{surrogate}, cyclical"),
            ("the first after the race, alone", alone),
        ):
            found = {
                name: (values(runs[surrogate], "test", "accuracy"), values(runs[other], "test", "accuracy"))
                for name, runs in experiments.items()
                if metric_of(runs) == "accuracy" and surrogate in runs and other in runs
            }
            if found:
                rows.append([title, way, str(len(found)), *_leads_over_experiments(found)])
    heads = ["candidates", "against", "experiments", "accuracy", "without the one that counts most", "+ / = / -"]
    return markdown(heads, rows) if rows else "No results."


def _leads_over_experiments(found: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]]) -> list[str]:
    means = {name: paired_difference(*pair) for name, pair in found.items()}
    leads = {name: mean[0] for name, mean in means.items() if mean is not None and math.isfinite(mean[0])}
    whole = _with_interval(mean_paired_difference(list(found.values())), "accuracy")
    signs = [sum(lead > 0 for lead in leads.values()), sum(lead == 0 for lead in leads.values())]
    counts = " / ".join(map(str, [*signs, len(leads) - sum(signs)]))
    largest = max(leads, key=lambda name: abs(leads[name]), default=None)
    rest = [pair for name, pair in found.items() if name != largest]
    return [whole, f"{largest}: {_with_interval(mean_paired_difference(rest), 'accuracy')}" if rest else "–", counts]


def hindsight(experiments: Mapping[str, Runs]) -> str:
    """
    How far rows are ahead of the one of the paper's 15 candidates with the best mean test metric over the seeds.

    It is the largest of 15 noisy numbers, and nobody can know it before. What the test metric of the other seeds
    tells of it stands in the last row.
    """
    complete = {name: runs for name, runs in experiments.items() if all(method in runs for method in GROUPS["grid"])}
    best = {name: max(_mean_quality(runs, method) for method in GROUPS["grid"]) for name, runs in complete.items()}
    found: dict[str, dict[str, float]] = {}
    for name, runs in complete.items():
        for contender in CONTENDERS:
            if (picked := contender.pick(runs)) is not None:
                found.setdefault(contender.title, {})[name] = _mean_quality(runs, picked)
    found["best of the 15 by the test metric of the other seeds"] = {
        name: _quality_elsewhere(runs) for name, runs in complete.items()
    }
    rows = []
    for title, qualities in found.items():
        leads = {
            name: SCALE[metric_of(complete[name])] * (quality - best[name]) for name, quality in qualities.items()
        }
        accuracy = [lead for name, lead in leads.items() if metric_of(complete[name]) == "accuracy"]
        mean = f"{statistics.fmean(accuracy):+.2f} ({len(accuracy)})" if accuracy else "–"
        rows.append([title, mean, *(f"{leads[name]:+.2f}" if name in leads else "–" for name in complete)])
    return markdown(["against the best in hindsight", "accuracy, mean (experiments)", *complete], rows)


def _mean_quality(runs: Runs, method: str, seeds: Sequence[int] | None = None) -> float:
    metric = metric_of(runs)
    return statistics.fmean(
        quality(run["test"], metric) for seed, run in runs[method].items() if seeds is None or seed in seeds
    )


def _quality_elsewhere(runs: Runs) -> float:
    """Mean quality over the seeds of the candidate that is best on the other seeds."""
    seeds = sorted(set.intersection(*(set(runs[method]) for method in GROUPS["grid"])))
    found = []
    for seed in seeds:
        others = [item for item in seeds if item != seed] or seeds
        picked = max(GROUPS["grid"], key=lambda method: _mean_quality(runs, method, others))
        found.append(_mean_quality(runs, picked, [seed]))
    return statistics.fmean(found)


def times_to_target(experiments: Mapping[str, Runs], contenders: Sequence[Contender]) -> dict[str, dict[str, float]]:
    """Median processor seconds to the target of each experiment, by contender and experiment."""
    times: dict[str, dict[str, float]] = {}
    for experiment, runs in experiments.items():
        target = experiment_target(runs)
        for contender in contenders:
            name = contender.pick(runs)
            if name is not None and target is not None:
                found = median_time(runs[name], target, metric_of(runs))
                times.setdefault(contender.title, {})[experiment] = found
    return times


def time_ratios(times: Mapping[str, Mapping[str, float]]) -> str:
    """Time to the target over that of default IOMT; below 1 is faster than IOMT."""
    default = times.get(DEFAULT.title, {})
    names = list(default)

    def cell(found: Mapping[str, float], name: str) -> str:
        if name not in found:
            return "–"
        if not math.isfinite(found[name]):
            return "∞" if math.isfinite(default[name]) else "both ∞"
        return f"{found[name] / default[name]:.2f}" if math.isfinite(default[name]) else "0 (IOMT ∞)"

    rows = [
        [title, *(cell(found, name) for name in names)] for title, found in times.items() if title != DEFAULT.title
    ]
    return markdown(["time to target / that of default IOMT", *names], rows)


def learning_rates(runs: Runs) -> str:
    """The whole curve over the learning rate of each family, test metric; the picked one in bold."""
    metric = metric_of(runs)
    rates = sorted({_rate(name) for methods in FAMILIES.values() for name in methods if name in runs})
    rows = []
    for family, methods in FAMILIES.items():
        picked = tuned(methods, runs, metric)
        cells: dict[float, str] = {}
        for name in (name for name in methods if name in runs):
            text = spread(values(runs[name], "test", metric), metric)
            cells[_rate(name)] = f"**{text}**" if name == picked else text
        if cells:
            rows.append([family, *(cells.get(rate, "") for rate in rates)])
    return markdown([f"test {metric}", *(f"{rate:g}" for rate in rates)], rows)


def _rate(name: str) -> float:
    return float(name.partition("lr=")[2].partition(",")[0])


def rows_of(
    titles: Mapping[str, Sequence[str]],
    experiments: Mapping[str, Runs],
    columns: Mapping[str, Callable[[Runs, str], str]],
) -> str:
    """
    A table with a row for each title, whose methods are tuned by validation, and columns for each experiment.

    Args:
        titles (`Mapping`): Methods of each row.
        experiments (`Mapping`): Runs by experiment.
        columns (`Mapping`): Heading, and what stands below it for the runs of an experiment and the picked method.
    """
    heads = [f"{name}: {column}" for name in experiments for column in columns]
    rows = []
    for title, methods in titles.items():
        row = [title]
        for runs in experiments.values():
            name = tuned(list(methods), runs, metric_of(runs))
            row += [make(runs, name) if name is not None else "–" for make in columns.values()]
        if set(row[1:]) - {"–"}:
            rows.append(row)
    return markdown(["method", *heads], rows)
