"""Population-based training by Ray Tune: several runs at once, of which bad ones go on from copies of good ones."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from hf_iomt.json_files import write_json

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
    experiment, seed = config["experiment"], config["seed"]
    last: list[float] = [0.0, 0]
    task = build_task(experiment, seed)
    steps = total_steps(experiment, len(task.train))  # type: ignore[arg-type]

    def note() -> None:
        """Put down time and steps since the last time: of a member that is replaced they count too."""
        now = (trainer.clock()[1], trainer.state.global_step)
        with open(f"{config['folder']}/spent", "a") as file:
            file.write(f"{now[0] - last[0]} {now[1] - last[1]}\n")
        last[:] = now

    def report(checkpoint: Path) -> None:
        note()
        found = max(quality(trainer.curve[-1], experiment.metric), -1e9)
        tune.report({"quality": found}, checkpoint=tune.Checkpoint.from_directory(str(checkpoint)))

    with tempfile.TemporaryDirectory() as folder:
        callbacks = [_Generations(max(1, steps // _GENERATIONS), report), _RestoredRate(config["lr"])]
        method = single(f"adamw:lr={config['lr']!r},weight_decay=0")
        trainer = make_trainer(task, experiment, method, seed, folder, callbacks)
        restored = tune.get_checkpoint()
        if restored is None:
            trainer.train()
        else:
            with restored.as_directory() as path:
                last[1] = TrainerState.load_from_json(f"{path}/trainer_state.json").global_step
                trainer.train(resume_from_checkpoint=path)
        note()
        # Not by a report: after that Ray might train it once more, from a copy of another.
        result = {**measure(trainer, task), "candidate": f"adamw:lr={config['lr']:g}"}
        write_json(result, f"{config['folder']}/{tune.get_context().get_trial_id()}.json")


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
            scheduler = PopulationBasedTraining(
                time_attr="training_iteration",
                perturbation_interval=1,
                hyperparam_mutations={"lr": lambda: math.exp(draw.uniform(*bounds))},
            )
            tune.Tuner(
                tune.with_resources(_trainable, {"cpu": 1}),
                param_space={
                    "experiment": experiment,
                    "seed": seed,
                    "folder": folder,
                    "lr": tune.sample_from(lambda _: math.exp(draw.uniform(*bounds))),
                },
                tune_config=tune.TuneConfig(
                    metric="quality", mode="max", num_samples=size, scheduler=scheduler, reuse_actors=True
                ),
                run_config=tune.RunConfig(storage_path=folder, name="population", verbose=0),
            ).fit()
            results = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
            spent = [line.split() for line in (Path(folder) / "spent").read_text().splitlines()]
    finally:
        ray.shutdown()
    if not results:
        raise RuntimeError("No member of the population has come to its end.")
    best = max(results, key=lambda run: quality(run["validation"], experiment.metric))
    # What a user waits for: Ray's own time too. There is a model to use only at the end.
    wall = time.perf_counter() - begun
    processor, steps = sum(float(item[0]) for item in spent), sum(int(item[1]) for item in spent)
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
