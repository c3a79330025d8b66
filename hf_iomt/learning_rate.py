"""Finds the unit of a trainer's relative learning rates before its first step."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import Trainer

from .candidate_list import candidate_text, nominal_unit, resolve_candidates
from .generators import preserved_generators
from .json_files import write_json
from .optim import InterleavedOptimizer, Snapshot, has_relative_rates, trainable_tensors
from .probe import Probe
from .range_test import RANGE_TEST_NAME, RangeTest, plan_rates, run_range_test
from .running_metrics import kept_metrics
from .samples import Group, count_items, draw_groups, mean_loss
from .shards import reshard
from .trainer_families import find_family

logger = logging.getLogger(__name__)

_PROBE_SAMPLES = 32
# Of losses in fp16, whose gradients would vanish otherwise; AdamW does not depend on it.
_FP16_SCALE = 1024.0

if TYPE_CHECKING:
    from .training_args import IOMTTrainingArguments

    class _Base(Trainer):
        """What the mixin finds in the class that it is mixed into."""

        def trained_module(self) -> nn.Module: ...

else:
    _Base = object


class LearningRateMixin(_Base):
    """
    Gives relative learning rates, such as those of `iomt_candidates="auto"`, their unit.

    Attributes:
        range_test ([`RangeTest`], *optional*): What the range test has found; `None` where there was none, because no
            rate is relative or the run is too short.
    """

    args: IOMTTrainingArguments
    range_test: RangeTest | None = None

    def scale_candidates(self, optimizer: InterleavedOptimizer) -> None:
        """
        Run the range test where candidates depend on it, and write their learning rates into the optimizer.

        Training then goes on from the parameters with the lowest loss that the test has reached, as from a warm-up.
        """
        if not has_relative_rates(candidate_text(self.args)):
            self.range_test = None
            return
        rates = self.plan_range_test(self.state.max_steps)
        self.range_test = self._run_range_test(rates, optimizer) if rates else None
        if self.range_test is not None:
            logger.info(
                "Range test: the learning rate for AdamW is %g, after %d steps.",
                self.range_test.learning_rate,
                len(self.range_test.rates),
            )
            self.log({"iomt/range_test/learning_rate": self.range_test.learning_rate})
        elif rates:
            logger.warning("The range test found no learning rate: the loss rises from the first step on.")
        self._apply_unit(optimizer)
        self.save_range_test(str(self.args.output_dir))

    def plan_range_test(self, max_steps: int) -> list[float]:
        """
        The learning rates of the range test that a run of so many steps begins with, a step each; they come on top of
        the run's own steps. Empty where there is none.
        """
        if not has_relative_rates(candidate_text(self.args)):
            return []
        return plan_rates(nominal_unit(self.trained_module()), max_steps)

    def read_range_test(self, checkpoint: str, optimizer: InterleavedOptimizer) -> None:
        """Take the unit that the run of a checkpoint has found."""
        if has_relative_rates(candidate_text(self.args)):
            self.range_test = RangeTest.read(os.path.join(checkpoint, RANGE_TEST_NAME))
            self._apply_unit(optimizer)

    def save_range_test(self, folder: str) -> None:
        """Write what was found."""
        if self.range_test is not None and self.args.should_save:
            write_json(asdict(self.range_test), os.path.join(folder, RANGE_TEST_NAME))

    def _apply_unit(self, optimizer: InterleavedOptimizer) -> None:
        model = self.trained_module()
        unit = None if self.range_test is None else self.range_test.learning_rate
        optimizer.replace_candidates(resolve_candidates(self.args, model, find_family(self.args, model), unit))

    def _run_range_test(self, rates: list[float], optimizer: InterleavedOptimizer) -> RangeTest | None:
        began = time.perf_counter()
        args = self.args
        if self.is_fsdp_enabled:
            reshard(self.trained_module())
        tensors = trainable_tensors(self.trained_module())
        per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        batches = draw_groups(self, per_step, per_step * len(rates), skip=_PROBE_SAMPLES)
        probe = Probe(self, _PROBE_SAMPLES)
        # The best parameters so far, and nothing else: the test is over when they have been put back.
        best = [Snapshot(tensors, storage=optimizer.storage)]

        def keep() -> None:
            best.clear()
            best.append(Snapshot(tensors, storage=optimizer.storage))

        try:
            with preserved_generators(args.seed), kept_metrics(self):
                found = run_range_test(rates, self._make_step(batches), lambda: float(probe().mean()), keep)
        finally:
            best[0].restore()
            self.model_wrapped.zero_grad()
        return None if found is None else replace(found, seconds=time.perf_counter() - began)

    def _make_step(self, batches: Iterator[Group]) -> Callable[[float], None]:
        """A function that trains on the next batches with AdamW at a learning rate."""
        model = self.model_wrapped
        parameters = [parameter for parameter in self.trained_module().parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
        scale = _FP16_SCALE if self.args.fp16 else 1.0

        def step(rate: float) -> None:
            group = next(batches)
            total = sum(count for _, count in group)
            model.train()
            for inputs, count in group:
                loss = mean_loss(self, inputs, **count_items(self, inputs))
                (loss * (scale * count / total)).backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, scale * (self.args.max_grad_norm or float("inf")))
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = rate
            if bool(torch.isfinite(norm)):
                optimizer.step()
            optimizer.zero_grad()

        return step
