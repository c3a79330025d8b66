"""The pass over a few samples that gives the transferability weight ω_t of Eq. 6, in Trainer's own evaluation loop."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped]
from torch import nn
from torch.utils.data import Subset

from .attributes import replaced
from .generators import preserved_generators
from .modes import kept_modes
from .running_metrics import kept_metrics
from .samples import gives_batches, is_stream, read
from .source_head import CheckpointHead
from .transferability import (
    DISTRIBUTION_METRICS,
    Collector,
    ForwardRecorder,
    Transferability,
    choose_metric,
    inner_model,
    map_metric,
    transferability_weight,
)

if TYPE_CHECKING:
    from .trainer import IOMTTrainerMixin

logger = logging.getLogger(__name__)

# Tokens of a sequence that are drawn, at most.
_TOKENS = 64


class Assessment:
    """
    Evaluates a model once before it is tuned, and takes from the same forward passes what all metrics need.

    It runs Trainer's evaluation loop as a prediction, without the event and the logs of an evaluation: precision,
    devices, collator and `compute_metrics` are those of every evaluation, batches no larger than in training. The
    global generators and the modes of the modules are afterwards what they were.

    Args:
        trainer ([`IOMTTrainerMixin`]): The trainer. Its `prediction_step` calls `observe`.
        samples (`int`): How many samples to read at most.
    """

    def __init__(self, trainer: IOMTTrainerMixin, samples: int) -> None:
        self._trainer = trainer
        self._args = trainer.args
        self._samples = samples
        self._collector: Collector | None = None
        self._read = 0
        # Why nothing can be collected, or `compute_metrics` gave nothing.
        self._obstacle: str | None = None
        self._metrics_obstacle: str | None = None

    def run(self) -> Transferability:
        """
        Make the pass and weigh what it found, equally on all processes.

        A part that cannot be had is left out with its reason, since ω_t is advice and no run should end for it.

        Raises:
            ValueError: There is no data to read, or no metric of the name `iomt_performance_metric`.
        """
        began, asked = time.perf_counter(), self._args.iomt_performance_metric
        sources = (self._trainer.compute_metrics, getattr(self._trainer, "evaluator", None))
        if asked not in (None, "loss", "eval_loss") and not any(source is not None for source in sources):
            raise ValueError(
                f"`iomt_performance_metric={asked!r}` needs `compute_metrics`, which returns it. Pass both."
            )
        metrics: dict[str, float] = {}
        try:
            metrics = self._evaluate()
        except Exception as error:
            # Other processes would wait for one that goes on alone.
            if asked is not None or self._trainer.accelerator.num_processes > 1 or isinstance(error, _NoDataError):
                raise
            self._obstacle = f"the evaluation failed: {type(error).__name__}: {error}"
            logger.warning("Not all of the transferability is known: the evaluation failed.", exc_info=True)
        left_out: dict[str, str] = {}
        performance, name = self._performance(metrics, left_out)
        found = self._distribution(left_out) if self._trainer.accelerator.is_main_process else {}
        result = Transferability(
            weight=transferability_weight(performance, list(found.values()), self._args.iomt_beta),
            performance=performance,
            performance_metric=name,
            **found,
            task=self._collector.task if self._collector is not None else None,
            split=self._args.iomt_transferability_split,
            samples=self._read,
            seconds=time.perf_counter() - began,
            left_out=left_out,
        )
        # The last digit may depend on the machine, and ranks must not differ.
        shared: Transferability = broadcast_object_list([result])[0]
        return shared

    def observe(self, inputs: Mapping[str, Any]) -> None:
        """Take the batch that was just evaluated."""
        if self._collector is None:
            return
        # PEFT may hide from Trainer what the labels are called.
        names = self._trainer.label_names or ["labels"]
        with self._trainer.accelerator.autocast():
            self._collector.add(inputs, [inputs.get(name) for name in names])

    def _data(self) -> Any:
        """The samples to read: random ones, or the first of a stream."""
        split, loader = self._args.iomt_transferability_split, None
        if split == "train":
            # A trainer may make its own data loader.
            loader = self._trainer.callback_handler.train_dataloader
            data: Any = self._trainer.train_dataset
            if data is None and not gives_batches(loader):
                data = loader.dataset
        else:
            data = self._trainer.eval_dataset
        if isinstance(data, dict):
            data = next(iter(data.values()), None)
        if data is None and split == "eval":
            raise _NoDataError(
                "`iomt_transferability_split='eval'` needs `eval_dataset`, but there is none. Pass one, or set "
                "`iomt_transferability_split` to 'train', or `iomt_transferability` to 'off' or a number."
            )
        if data is None:
            raise ValueError("there is no `train_dataset`")
        if loader is None and is_stream(data):
            loader = self._trainer.get_test_dataloader(data)
        return take_samples(data, self._samples, self._args.seed, loader)

    def _evaluate(self) -> dict[str, float]:
        """Run the evaluation loop; gives what `evaluate` would return, without times."""
        trainer, args, data = self._trainer, self._args, self._data()
        model = trainer.model
        assert model is not None
        compute, asked = trainer.compute_metrics, args.iomt_performance_metric
        if compute is not None and asked is None:
            self._metrics_obstacle = self._find_metrics_obstacle(model)
            compute = compute if self._metrics_obstacle is None else None
        handler, limit = trainer.callback_handler, max(self._samples, args.iomt_transferability_samples)
        batch_size = min(args.per_device_eval_batch_size, trainer._train_batch_size // max(1, args.n_gpu))
        with (
            preserved_generators(args.seed),
            kept_modes(model),
            ForwardRecorder(model) as recorder,
            replaced(args, "per_device_eval_batch_size", batch_size),
            replaced(args, "dataloader_drop_last", False),
            replaced(args, "dataloader_persistent_workers", False),
            replaced(trainer, "compute_metrics", self._guarded(compute)),
            replaced(handler, "eval_dataloader", handler.eval_dataloader),
            # Those of sentence-transformers read data of their own, mostly held-out data, and write files.
            replaced(trainer, "evaluator", getattr(trainer, "evaluator", None) if asked is not None else None),
            kept_metrics(trainer),
        ):
            self._collector = Collector(
                recorder,
                lambda: CheckpointHead(recorder.model),
                self._gather,
                # More tokens cost no more passes, but memory: a distribution over the vocabulary each.
                tokens=min(math.ceil(limit / max(len(data), 1)), _TOKENS),
                limit=limit,
                seed=args.seed,
            )
            if args.n_gpu > 1:
                # Its replicas run the hooks in parallel, each with a part of the batch.
                self._collector.obstacle = "the model runs under DataParallel; DDP has no such limit"
            metrics: dict[str, float] = {}
            try:
                output = trainer.evaluation_loop(
                    trainer.get_test_dataloader(data),
                    "Transferability",
                    prediction_loss_only=True if compute is None else None,
                    metric_key_prefix="eval",
                )
                metrics, self._read = dict(output.metrics or {}), int(output.num_samples or 0)
            finally:
                # Closes the progress bar.
                trainer.control = handler.on_predict(args, trainer.state, trainer.control, metrics)
        return metrics

    def _find_metrics_obstacle(self, model: nn.Module) -> str | None:
        """Why `compute_metrics` is not used unless it is asked for: what it costs beyond one pass."""
        if getattr(self._args, "predict_with_generate", False):
            return "it would need to generate text"
        head = getattr(inner_model(model), "get_output_embeddings", lambda: None)()
        if head is not None and self._trainer.preprocess_logits_for_metrics is None:
            return "it would need the logits of every token"
        return None

    def _gather(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collect over all processes what all of them have; they must ask for the same."""
        accelerator = self._trainer.accelerator
        if accelerator.num_processes > 1:
            counts = Counter(gather_object(list(tensors)))
            tensors = {name: item for name, item in tensors.items() if counts[name] == accelerator.num_processes}
        gathered: dict[str, torch.Tensor] = accelerator.gather_for_metrics(tensors) if tensors else {}
        return gathered

    def _guarded(self, compute: Any) -> Any:
        """`compute_metrics`, which may be made for the whole evaluation set and not for a part of other data."""
        if compute is None or self._args.iomt_performance_metric is not None:
            return compute

        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return compute(*args, **kwargs)
            except Exception as error:
                self._metrics_obstacle = f"`compute_metrics` failed: {type(error).__name__}: {error}"
                return {}

        return guarded

    def _performance(self, metrics: dict[str, float], left_out: dict[str, str]) -> tuple[float | None, str | None]:
        """ω_p and its name, by the user's metrics, else by the logits; the reasons go to `left_out`."""
        args = self._args
        chosen = choose_metric(metrics, args.iomt_performance_metric, args.metric_for_best_model)
        if self._metrics_obstacle is not None:
            left_out["compute_metrics"] = self._metrics_obstacle
        try:
            if chosen is not None and math.isfinite(metrics[chosen]):
                name = chosen.removeprefix("eval_")
                best = (args.metric_for_best_model or "").removeprefix("eval_") == name
                return map_metric(chosen, metrics[chosen], args.greater_is_better if best else None), name
            name, value = self._collected().performance()
            return value, name
        except ValueError as error:
            left_out["performance"] = str(error)
            return None, None

    def _distribution(self, left_out: dict[str, str]) -> dict[str, float]:
        """The metrics ω_d that apply; the reasons of the others go to `left_out`."""
        found: dict[str, float] = {}
        for name in self._args.iomt_distribution_metrics:
            try:
                found[name] = DISTRIBUTION_METRICS[name](self._collected().sample())
            except ValueError as error:
                left_out[name] = str(error)
        return found

    def _collected(self) -> Collector:
        if self._obstacle is not None or self._collector is None:
            raise ValueError(self._obstacle or "there were no samples")
        return self._collector


def take_samples(data: Any, count: int, seed: int, loader: Any = None) -> Any:
    """
    A random part of a data set, or the first rows of a stream; the same on every process.

    Args:
        data (`Dataset` or `IterableDataset`): The data.
        count (`int`): How many rows to take; fewer where there are fewer.
        seed (`int`): Seed of the draw.
        loader (`DataLoader`, *optional*): Has workers if a stream is to be read in one.
    """
    if is_stream(data):
        return list(itertools.islice(read(data, loader, seed), count))
    if len(data) <= count:
        return data
    rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:count]).tolist()
    return data.select(rows) if isinstance(data, datasets.Dataset) else Subset(data, rows)


class _NoDataError(ValueError):
    """The user asked for data that is not there."""
