"""One training run with one method, and what is measured of it."""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import get_family, parse_candidates
from hf_iomt.selection import ParameterProjection, select_parameters

from .experiment import Experiment
from .methods import Method
from .peers import PEERS
from .tuning import Task

# The accuracy on training data is that on so many of them.
_TRAIN_SAMPLES = 512
# Of a greedy schedule: multiples of the learning rate it begins with. It looks at a few evaluations only.
_GREEDY = {"patience": 1, "factor": 0.7, "warmup": 0, "reset_start": 0}

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


def _now() -> tuple[float, float]:
    """Wall and processor seconds; where a GPU does the work there is only the wall's clock, once it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return (time.perf_counter(),) * 2
    return time.perf_counter(), time.process_time()


class _Measured(_Base):
    """
    Keeps the clock, and the metrics at each evaluation.

    Evaluations are how an experiment watches a run, so the clock stands still meanwhile; everything else counts.
    """

    def __init__(self, *args: Any, steps_schedule: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps_schedule = steps_schedule
        self.curve: list[dict[str, Any]] = []
        self._paused = [0.0, 0.0]
        self._start = (0.0, 0.0)

    def clock(self) -> tuple[float, float]:
        """Wall and processor seconds of training so far."""
        wall, processor = (now - self._start[part] - self._paused[part] for part, now in enumerate(_now()))
        return wall, processor

    def steps_made(self) -> int:
        """Optimizer steps so far, with those of a range test."""
        found = getattr(self, "range_test", None)
        return int(self.state.global_step) + (found.batches if found is not None else 0)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._start = _now()
        return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        before = _now()
        wall, processor = self.clock()
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        self.curve.append(
            {"step": self.steps_made(), "seconds": wall, "processor_seconds": processor, **_kept(metrics)}
        )
        for part, now in enumerate(_now()):
            self._paused[part] += now - before[part]
        return metrics

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.steps_schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            period = max(1, math.ceil(num_training_steps / (self.steps_schedule["drops"] + 1)))
            stepped: Any = optimizer or self.optimizer
            schedule: Any = torch.optim.lr_scheduler.StepLR(stepped, period, gamma=self.steps_schedule["factor"])
            self.lr_scheduler = schedule
        return self.lr_scheduler


class _MeasuredTrainer(_Measured, Trainer):
    pass


class _MeasuredIOMTTrainer(_Measured, IOMTTrainer):
    pass


def make_trainer(
    task: Task, experiment: Experiment, method: Method, seed: int, folder: str, callbacks: list[Any] | None = None
) -> Any:
    """The trainer of a method that is neither a search nor unknown."""
    schedule, schedule_arguments = method.schedule or experiment.schedule, dict(method.schedule_arguments)
    parts: dict[str, Any] = {
        "model": task.model,
        "train_dataset": task.train,
        "eval_dataset": task.validation,
        "data_collator": task.collator,
        "compute_metrics": task.compute_metrics,
        "callbacks": callbacks or [],
    }
    if schedule == "steps":
        parts["steps_schedule"], schedule, schedule_arguments = schedule_arguments, "constant", {}
    total = total_steps(experiment, len(task.train))  # type: ignore[arg-type]
    shared: dict[str, Any] = {
        "output_dir": folder,
        "seed": seed,
        "max_steps": experiment.steps or -1,
        "num_train_epochs": experiment.epochs or 1,
        "per_device_train_batch_size": experiment.batch_size,
        "per_device_eval_batch_size": 64,
        "lr_scheduler_type": schedule,
        "save_strategy": "no",
        "eval_strategy": "steps",
        "eval_steps": max(1, total // experiment.evaluations),
        "logging_steps": max(1, total // experiment.evaluations),
        "report_to": "none",
        "disable_tqdm": True,
        # Items are given to the model as they are.
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": False,
        **dict(experiment.arguments),
    }
    if experiment.epochs:
        from hf_iomt import ConvergenceCallback

        parts["callbacks"].append(ConvergenceCallback())
    if method.kind == "iomt":
        iomt = IOMTTrainingArguments(**shared, lr_scheduler_kwargs=schedule_arguments, **method.settings)
        trainer = _MeasuredIOMTTrainer(args=iomt, **parts)
        # Everybody makes as many steps in all.
        if trainer.plan_range_test(total):
            iomt.max_steps = trainer.steps_beside_range_test(total)
        return trainer
    if method.kind == "single":
        (candidate,) = parse_candidates(method.settings["candidate"])
        family, rate = get_family(candidate.family), candidate.learning_rate
        parts["optimizer_cls_and_kwargs"] = (family.optimizer_class, family.arguments(candidate.settings))
        # Trainer's groups have a weight decay of their own.
        shared["weight_decay"] = candidate.settings.get("weight_decay", 0.0)
    else:
        rate = method.settings["learning_rate"]
        optimizer = PEERS[method.settings["optimizer"]]
        if isinstance(optimizer, str):
            shared["optim"] = optimizer
        else:
            parts["optimizers"] = (optimizer(task.model, rate), None)
    if method.best_checkpoint:
        shared |= {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": shared["eval_steps"]}
        lower_is_better = experiment.metric == "perplexity"
        shared |= {"metric_for_best_model": "loss" if lower_is_better else experiment.metric, "save_total_limit": 1}
        shared["greater_is_better"] = not lower_is_better
    if schedule == "greedy":
        schedule_arguments |= {**_GREEDY, "min_lr": rate / 100, "max_lr": rate * 10}
        shared["metric_for_best_model"] = "loss"
    arguments = TrainingArguments(**shared, learning_rate=rate, lr_scheduler_kwargs=schedule_arguments)
    return _MeasuredTrainer(args=arguments, **parts)


def total_steps(experiment: Experiment, samples: int) -> int:
    """Optimizer steps of a run that is not ended before."""
    return experiment.steps or experiment.epochs * max(1, -(-samples // experiment.batch_size))


def train_once(
    task: Task, experiment: Experiment, method: Method, seed: int, steps: int | None = None
) -> dict[str, Any]:
    """
    Train and evaluate.

    Args:
        task ([`~tuning.Task`]): Model and data; the model is trained.
        experiment ([`~experiment.Experiment`]): How to train.
        method ([`~methods.Method`]): With what.
        seed (`int`): Seed of the batches and of all draws.
        steps (`int`, *optional*): Other than the experiment's.

    Returns:
        `dict`: The curve over the evaluations, final metrics of the three splits, times, memory, decisions.
    """
    if steps is not None:
        experiment = replace(experiment, steps=steps, epochs=0)
    _reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(task, experiment, method, seed, folder)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return measure(trainer, task)


@functools.cache
def warm_up() -> None:
    """What a process does the first time, such as imports, is on the clock of no run."""
    from .methods import iomt
    from .tuning import build_task

    experiment = Experiment(
        "warm_up", "smoke", "digits", "small_cnn", "full", (), 8, 8, steps=8, train=64, evaluations=1
    )
    train_once(build_task(experiment, seed=0), experiment, iomt(), seed=0)


def measure(trainer: Any, task: Task) -> dict[str, Any]:
    """What a trainer that has just trained has come to."""
    wall, processor = trainer.clock()
    curve = trainer.curve
    peak = _peak()
    before = trainer.steps_made() - trainer.state.global_step
    losses = {entry["step"] + before: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    for point in curve:
        point["train_loss"] = _finite(losses.get(point["step"]))
    few = torch.utils.data.Subset(task.train, range(min(_TRAIN_SAMPLES, len(task.train))))  # type: ignore[arg-type]
    final = {
        split: _kept(Trainer.evaluate(trainer, data))
        for split, data in (("train", few), ("validation", task.validation), ("test", task.test))
    }
    if not curve or curve[-1]["step"] < trainer.steps_made():
        # A run that ends between two evaluations.
        ended = {"step": trainer.steps_made(), "seconds": wall, "processor_seconds": processor}
        curve.append({**ended, **final["validation"], "train_loss": None})
    history = getattr(trainer, "iomt_history", [])
    found = getattr(trainer, "transferability", None)
    tested = getattr(trainer, "range_test", None)
    assessment = sum(item.seconds for item in (found, tested) if item is not None)
    selection = sum(record["seconds"] for record in history)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return {
        "steps": trainer.steps_made(),
        "planned_steps": trainer.state.max_steps + before,
        "seconds": {
            "total": wall,
            "selection": selection,
            "assessment": assessment,
            "training": wall - selection - assessment,
        },
        "processor_seconds": processor,
        "peak_mib": peak,
        "curve": curve,
        **final,
        "history": [_brief(record) for record in history],
        "range_test": None if tested is None else vars(tested),
        "transferability": None if found is None else vars(found),
        "switched_at": getattr(optimizer, "switch_step", None),
        "state": _state(trainer.model),
    }


def _brief(record: dict[str, Any]) -> dict[str, Any]:
    """A cycle without what follows from the rest."""
    left_out = ("cycle", "family", "seconds")
    return {name: value for name, value in record.items() if name not in left_out and value not in (None, False)}


def _kept(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of the model, without their prefix and without speeds."""
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        short = name.removeprefix("eval_")
        if isinstance(value, (int, float)) and short in ("loss", "accuracy", "f1", "largest_predicted_share"):
            found[short] = _finite(value)
    loss = found.get("loss")
    if "accuracy" not in found:
        found["perplexity"] = None if loss is None else _finite(math.exp(min(loss, 700)))
    return found


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def _state(model: torch.nn.Module) -> list[float | None]:
    """A fixed random projection of the classifier and the last layers, which tells where a run has ended."""
    named = {name: item for name, item in model.named_parameters() if item.requires_grad}
    chosen = select_parameters(named.items(), None)
    projected = np.asarray(ParameterProjection([(name, named[name]) for name in chosen], seed=0)())
    return [_finite(float(value)) for value in projected[:32]]


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float | None:
    """Peak memory of the run in MiB: of the GPU, else resident, where the system tells."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
    return None if line is None else int(line.split()[1]) / 1024
