"""Searches over optimizer and learning rate by many runs, of which the validation split picks one."""

from __future__ import annotations

import math
from typing import Any

from .experiment import Experiment
from .methods import Method, single
from .training import total_steps, train_once
from .tuning import build_task

# What is searched: the paper's families and AdamW, each from its smallest to its largest learning rate.
_SPACE = {
    **dict.fromkeys(("adamw", "adam", "rmsprop"), (1e-5, 1e-1)),
    **dict.fromkeys(("sgdm", "sgd"), (1e-3, 1.0)),
    "adagrad": (1e-3, 1e-1),
}
# Random draws before the sampler learns from them; its own default of 10 would be most of the budget.
_RANDOM_TRIALS = 4
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
        family = trial.suggest_categorical("family", list(_SPACE))
        low, high = _SPACE[family]
        rate = trial.suggest_float(f"lr of {family}", low, high, log=True)
        decay = ",weight_decay=0" if family == "adamw" else ""
        runs.append(_run(experiment, f"{family}:lr={rate!r}{decay}", seed, trial_steps))
        # Optuna refuses infinities.
        return max(quality(runs[-1]["validation"], experiment.metric), -1e9)

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    )
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
    """
    The result of the picked run on the clock of all the runs, one after the other.

    The curve is that of all of them: whoever searches may stop at any model that is good enough.
    """
    curve: list[dict[str, Any]] = []
    wall, processor, steps = 0.0, 0.0, 0
    for run in runs:
        before = {"step": steps, "seconds": wall, "processor_seconds": processor}
        curve += [{**point, **{name: point[name] + value for name, value in before.items()}} for point in run["curve"]]
        wall, processor = wall + run["seconds"]["total"], processor + run["processor_seconds"]
        steps += run["steps"]
    searching = wall - best["seconds"]["total"]
    return {
        **best,
        "steps": steps,
        "seconds": {**best["seconds"], "total": wall, "selection": searching},
        "processor_seconds": processor,
        "curve": curve,
        "trials": [
            {"candidate": run["candidate"], "steps": run["steps"], "validation": run["validation"]} for run in runs
        ],
    }
