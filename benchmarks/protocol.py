"""How methods are compared: tuned by validation, tested once; paired over seeds; time to a fixed target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .search import quality

Run = Mapping[str, Any]
# Runs of one experiment by method and seed.
Runs = Mapping[str, Mapping[int, Run]]

# What numbers are shown in: per cent, but for perplexity.
SCALE = {"accuracy": 100.0, "f1": 100.0, "perplexity": 1.0}
_RESAMPLES = 10_000
# Ratios of times up to which a performance profile is drawn, as AlgoPerf's.
PROFILE_RATIOS = np.linspace(1.0, 4.0, 61)


def group(results: Iterable[Run]) -> dict[str, dict[str, dict[int, Run]]]:
    """Results by experiment, method and seed."""
    grouped: dict[str, dict[str, dict[int, Run]]] = {}
    for run in results:
        grouped.setdefault(run["experiment"], {}).setdefault(run["method"], {})[run["seed"]] = run
    return grouped


def configuration(runs: Runs) -> dict[str, Any]:
    """What all runs of an experiment have in common."""
    found: dict[str, Any] = next(iter(next(iter(runs.values())).values()))["configuration"]
    return found


def metric_of(runs: Runs) -> str:
    """What the methods of an experiment are compared by."""
    return str(configuration(runs)["metric"])


def values(runs: Mapping[int, Run], split: str, metric: str) -> dict[int, float]:
    """The metric of each seed, NaN where a model was broken."""
    found = {seed: run[split].get(metric) for seed, run in runs.items()}
    return {seed: math.nan if value is None else float(value) for seed, value in found.items()}


def tuned(methods: Sequence[str], runs: Runs, metric: str) -> str | None:
    """
    The method that is best on the validation split, in the mean over its seeds.

    Of methods with fewer seeds than others only those with the most are candidates.
    """
    present = [name for name in methods if name in runs]
    if not present:
        return None
    most = max(len(runs[name]) for name in present)
    return max(
        (name for name in present if len(runs[name]) == most),
        key=lambda name: statistics.mean(max(quality(run["validation"], metric), -1e9) for run in runs[name].values()),
    )


def paired_difference(
    ones: Mapping[int, float], others: Mapping[int, float], seed: int = 0
) -> tuple[float, float, float] | None:
    """
    Mean of `ones − others` over the seeds that both have, and its 95 % interval by the bootstrap.

    What is drawn deviates from the mean by √(n / (n - 1)) times as much as the n differences do, so that the variance
    of a drawn mean is without bias. Still, of normal differences such an interval covers the mean in 82 % of the cases
    with three seeds, in 88 % with five, and in 94 % where it is over 19 experiments of five.

    With fewer than three seeds there is no interval: both ends are NaN. Where a run has diverged all three are.
    """
    return mean_paired_difference([(ones, others)], seed)


def mean_paired_difference(
    pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]], seed: int = 0
) -> tuple[float, float, float] | None:
    """
    The same in the mean over several experiments, which may have different seeds: those of each are drawn by
    themselves, and every experiment counts as much.
    """
    parts = [
        np.array([ones[item] - others[item] for item in sorted(set(ones) & set(others))]) for ones, others in pairs
    ]
    if not parts or not all(map(len, parts)):
        return None
    if not all(np.isfinite(part).all() for part in parts):
        return math.nan, math.nan, math.nan
    mean = float(np.mean([part.mean() for part in parts]))
    if min(map(len, parts)) < 3:
        return mean, math.nan, math.nan
    generator = np.random.default_rng(seed)
    wider = [part.mean() + (part - part.mean()) * math.sqrt(len(part) / (len(part) - 1)) for part in parts]
    draws = [generator.choice(part, (_RESAMPLES, len(part))).mean(axis=1) for part in wider]
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return mean, float(low), float(high)


def find_target(runs: Mapping[int, Run], metric: str) -> float:
    """The target of an experiment: the median final quality, on the validation split, of the best tuned method."""
    return statistics.median(quality(run["validation"], metric) for run in runs.values())


def time_to_target(run: Run, target: float, metric: str, clock: str = "processor_seconds") -> float:
    """
    Time, or with `clock="step"` steps, to the first evaluation that reaches the target; ∞ where none does.

    Everything that the method does counts. Processor seconds depend less than others on what else a machine does.
    """
    for point in run["curve"]:
        if quality(point, metric) >= target:
            return float(point[clock])
    return math.inf


def median_time(runs: Mapping[int, Run], target: float, metric: str, clock: str = "processor_seconds") -> float:
    """Median over the seeds."""
    return statistics.median(time_to_target(run, target, metric, clock) for run in runs.values())


def performance_profile(times: Mapping[str, Mapping[str, float]]) -> dict[str, np.ndarray[Any, Any]]:
    """
    Share of the tasks on which a method is at most so many times slower than the fastest.

    Args:
        times (`Mapping[str, Mapping[str, float]]`): Time to the target by method and task; ∞ for a miss.

    Returns:
        `dict`: For each method the shares at `PROFILE_RATIOS`, over the tasks that it was run on.
    """
    tasks = sorted({task for found in times.values() for task in found})
    fastest = {
        task: min((found[task] for found in times.values() if task in found), default=math.inf) for task in tasks
    }
    profile = {}
    for name, found in times.items():
        ratios = [
            found[task] / fastest[task] if math.isfinite(found[task]) and fastest[task] > 0 else math.inf
            for task in found
        ]
        profile[name] = np.array([np.mean([ratio <= most for ratio in ratios]) for most in PROFILE_RATIOS])
    return profile
