"""Searches over optimizer and learning rate by many runs, of which the validation split picks one."""

from __future__ import annotations

import math
from typing import Any

from .experiment import Experiment
from .methods import Method, single
from .training import total_steps, train_once
from .tuning import build_task

# What is searched: the paper's families, and learning rates from the smallest to the largest of all grids.
_FAMILIES = ("adamw", "adam", "rmsprop", "adagrad", "sgdm", "sgd")
_RATES = (1e-5, 1.0)
# With the budget of one run: half of it for so many short trials, the other half for a run with the best.
_SHORT_TRIALS = 8


def quality(metrics: dict[str, Any], metric: str) -> float:
    """A metric of one evaluation, larger is better; −∞ where the model is broken."""
    value = metrics.get(metric)
    if value is None or not math.isfinite(value):
        return -math.inf
    return -float(value) if metric == "perplexity" else float(value)


def search(experiment: Experiment, method: Method, seed: int) -> dict[str, Any]:
    """Run a search; the result is that of the picked run, with the time of all."""
    if method.settings["search"] == "population":
        from .population import search_population

        return search_population(experiment, method.settings["budget"], seed)
    return _search_by_optuna(experiment, method.settings["budget"], seed)


def _search_by_optuna(experiment: Experiment, budget: int, seed: int) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samples = len(build_task(experiment, seed).train)  # type: ignore[arg-type]
    steps = total_steps(experiment, samples)
    short = max(1, steps // (2 * _SHORT_TRIALS))
    trials, trial_steps = (budget, steps) if budget > 1 else (_SHORT_TRIALS, short)
    runs: list[dict[str, Any]] = []

    def objective(trial: Any) -> float:
        family = trial.suggest_categorical("family", _FAMILIES)
        rate = trial.suggest_float("lr", *_RATES, log=True)
        runs.append(_run(experiment, f"{family}:lr={rate!r}", seed, trial_steps))
        # Optuna refuses infinities.
        return max(quality(runs[-1]["validation"], experiment.metric), -1e9)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    best = runs[study.best_trial.number]
    if budget == 1:
        runs.append(_run(experiment, best["candidate"], seed, steps - trials * trial_steps))
        best = runs[-1]
    return summed(best, runs)


def _run(experiment: Experiment, candidate: str, seed: int, steps: int) -> dict[str, Any]:
    return {
        **train_once(build_task(experiment, seed), experiment, single(candidate), seed, steps),
        "candidate": candidate,
    }


def summed(best: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of the picked run on the clock of all the runs, one after the other."""
    before = [run for run in runs if run is not best]
    wall = sum(run["seconds"]["total"] for run in before)
    processor = sum(run["processor_seconds"] for run in before)
    steps = sum(run["steps"] for run in before)
    return {
        **best,
        "steps": best["steps"] + steps,
        "seconds": {**best["seconds"], "total": best["seconds"]["total"] + wall, "selection": wall},
        "processor_seconds": best["processor_seconds"] + processor,
        "curve": [
            {
                **point,
                "step": point["step"] + steps,
                "seconds": point["seconds"] + wall,
                "processor_seconds": point["processor_seconds"] + processor,
            }
            for point in best["curve"]
        ],
        "trials": [
            {"candidate": run["candidate"], "steps": run["steps"], "validation": run["validation"]} for run in runs
        ],
    }
