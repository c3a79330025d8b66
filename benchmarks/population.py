"""Population-based training by Ray Tune: several runs at once, of which bad ones go on from copies of good ones."""

from __future__ import annotations

import logging
import math
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .experiment import Experiment
from .methods import single
from .search import quality
from .training import make_trainer, measure, total_steps
from .tuning import build_task

# How often the population is compared in a run.
_GENERATIONS = 5
_RATES = (1e-5, 1e-1)


class _RestoredRate(TrainerCallback):
    """Gives a copy the learning rate that it was told: Trainer's checkpoint brings that of the original."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scheduler, optimizer = kwargs["lr_scheduler"], kwargs["optimizer"]
        scheduler.base_lrs = [self._rate for _ in scheduler.base_lrs]
        for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = self._rate, self._rate * factor(scheduler.last_epoch)


class _Generations(TrainerCallback):
    """Reports to Ray with a checkpoint a few times in a run."""

    def __init__(self, every: int, report: Any) -> None:
        self._every, self._report = every, report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every == 0 and state.global_step < state.max_steps:
            control.should_save = control.should_evaluate = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._report(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _trainable(config: dict[str, Any]) -> None:
    """One member of the population, in a process of Ray's."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    experiment, seed, spent = config["experiment"], config["seed"], 0.0
    task = build_task(experiment, seed)
    steps = total_steps(experiment, len(task.train))  # type: ignore[arg-type]

    def note() -> None:
        """Put down the processor seconds since the last time: of a member that is replaced they count too."""
        nonlocal spent
        now = trainer.clock()[1]
        with open(config["spent"], "a") as file:
            file.write(f"{now - spent}\n")
        spent = now

    def report(checkpoint: Path) -> None:
        note()
        found = max(quality(trainer.curve[-1], experiment.metric), -1e9)
        tune.report({"quality": found, "result": ""}, checkpoint=tune.Checkpoint.from_directory(str(checkpoint)))

    with tempfile.TemporaryDirectory() as folder:
        callbacks = [_Generations(max(1, steps // _GENERATIONS), report), _RestoredRate(config["lr"])]
        method = single(f"adamw:lr={config['lr']!r},weight_decay=0")
        trainer = make_trainer(task, experiment, method, seed, folder, callbacks)
        restored = tune.get_checkpoint()
        if restored is None:
            trainer.train()
        else:
            with restored.as_directory() as path:
                trainer.train(resume_from_checkpoint=path)
        note()
        result = {**measure(trainer, task), "candidate": f"adamw:lr={config['lr']:g}"}
        found = max(quality(result["validation"], experiment.metric), -1e9)
        tune.report({"quality": found, "result": result})


def search_population(experiment: Experiment, size: int, seed: int) -> dict[str, Any]:
    """
    Train a population of AdamW runs with drawn learning rates, side by side.

    Args:
        experiment ([`~experiment.Experiment`]): How each is trained.
        size (`int`): Members of the population.
        seed (`int`): Seed of the draws, and of the initial weights and batches, which all share.
    """
    import ray
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining

    draw = random.Random(seed)
    bounds = [math.log(rate) for rate in _RATES]
    os.environ |= {"RAY_DEDUP_LOGS": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    begun = time.perf_counter()
    ray.init(num_cpus=size, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            spent = f"{folder}/spent"
            scheduler = PopulationBasedTraining(
                time_attr="training_iteration",
                perturbation_interval=1,
                hyperparam_mutations={"lr": lambda: math.exp(draw.uniform(*bounds))},
            )
            found = tune.Tuner(
                tune.with_resources(_trainable, {"cpu": 1}),
                param_space={
                    "experiment": experiment,
                    "seed": seed,
                    "spent": spent,
                    "lr": tune.sample_from(lambda _: math.exp(draw.uniform(*bounds))),
                },
                tune_config=tune.TuneConfig(
                    metric="quality", mode="max", num_samples=size, scheduler=scheduler, reuse_actors=True
                ),
                run_config=tune.RunConfig(storage_path=folder, name="population", verbose=0),
            ).fit()
            results = [
                member.metrics["result"]
                for member in (found[place] for place in range(len(found)))
                if member.metrics and member.metrics["result"]
            ]
            processor = sum(map(float, Path(spent).read_text().split())) if os.path.exists(spent) else 0.0
    finally:
        ray.shutdown()
    if not results:
        raise RuntimeError("No member of the population has come to its end.")
    best = max(results, key=lambda run: quality(run["validation"], experiment.metric))
    # What a user waits for: Ray's own time too. There is a model to use only at the end.
    wall, steps = time.perf_counter() - begun, sum(run["steps"] for run in results)
    return {
        **best,
        "steps": steps,
        "seconds": {**best["seconds"], "total": wall, "selection": wall - best["seconds"]["training"]},
        "processor_seconds": processor,
        "curve": [{"step": steps, "seconds": wall, "processor_seconds": processor, **best["validation"]}],
        "trials": [
            {"candidate": run["candidate"], "steps": run["steps"], "validation": run["validation"]} for run in results
        ],
    }
