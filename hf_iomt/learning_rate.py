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

from .candidate_list import candidate_text, highest_rate, kind_of_tuning, nominal_unit, resolve_candidates
from .generators import preserved_generators
from .gradient_noise import GradientNoise
from .json_files import write_json
from .optim import InterleavedOptimizer, Snapshot, has_only_relative_rates, has_relative_rates, trainable_tensors
from .probe import Probe
from .race import FINALISTS
from .range_test import RANGE_TEST_NAME, RangeTest, RangeTestPlan, plan_range_test, run_range_test
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

        @property
        def interleaved_optimizer(self) -> InterleavedOptimizer: ...

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

        Training of adapters or a head then goes on from the parameters with the lowest loss that the test has reached,
        as from a warm-up. Where all of a model trains it begins at the initial ones: large rates lower the loss there,
        too, and spoil features that it was pre-trained for.
        """
        if not has_relative_rates(candidate_text(self.args)):
            self.range_test = None
            return
        plan = self._plan_range_test(self.state.max_steps)
        self.range_test = None if plan is None else self._run_range_test(plan, optimizer)
        if self.range_test is not None:
            logger.info(
                "Range test: the learning rate is %g, after %d batches.",
                self.range_test.learning_rate,
                self.range_test.batches,
            )
            self.log({"iomt/range_test/learning_rate": self.range_test.learning_rate})
        elif plan is not None:
            logger.warning("The range test found no learning rate: the loss rises from the first step on.")
        self._apply_unit(optimizer)
        self.save_range_test(str(self.args.output_dir))

    def plan_range_test(self, max_steps: int) -> int:
        """
        How many batches the range test of a run of so many steps reads at most, each as large as that of a step. They
        come on top of the run's own steps. 0 where there is no test.
        """
        plan = self._plan_range_test(max_steps)
        return 0 if plan is None else plan.batches

    def steps_beside_range_test(self, budget: int) -> int:
        """The most steps of a run that come, with the batches of its range test, to no more than `budget`."""
        return next((steps for steps in range(budget, 0, -1) if steps + self.plan_range_test(steps) <= budget), 0)

    def race_steps(self, max_steps: int) -> int:
        """
        Steps of a finalist of the race; 0 where none is needed: a race of few candidates shows those that destroy the
        model, and a range test shows that, too, where they are rates of one family around what it finds.
        """
        optimizer = self.interleaved_optimizer
        tested = has_only_relative_rates(candidate_text(self.args)) and self.plan_range_test(max_steps) > 0
        few = len(optimizer.families) == 1 and len(optimizer.candidates) <= FINALISTS
        return 0 if tested and few else self.args.iomt_race_steps or 0

    def read_range_test(self, checkpoint: str, optimizer: InterleavedOptimizer) -> None:
        """Take the unit that the run of a checkpoint has found."""
        if has_relative_rates(candidate_text(self.args)):
            self.range_test = RangeTest.read(os.path.join(checkpoint, RANGE_TEST_NAME))
            self._apply_unit(optimizer)

    def save_range_test(self, folder: str) -> None:
        """Write what was found."""
        if self.range_test is not None and self.args.should_save:
            write_json(asdict(self.range_test), os.path.join(folder, RANGE_TEST_NAME))

    def _plan_range_test(self, max_steps: int) -> RangeTestPlan | None:
        if not has_relative_rates(candidate_text(self.args)):
            return None
        model = self.trained_module()
        return plan_range_test(nominal_unit(model), highest_rate(model), max_steps)

    def _apply_unit(self, optimizer: InterleavedOptimizer) -> None:
        model = self.trained_module()
        unit = None if self.range_test is None else self.range_test.learning_rate
        optimizer.replace_candidates(resolve_candidates(self.args, model, find_family(self.args, model), unit))

    def _run_range_test(self, plan: RangeTestPlan, optimizer: InterleavedOptimizer) -> RangeTest | None:
        began = time.perf_counter()
        args = self.args
        model = self.trained_module()
        if self.is_fsdp_enabled:
            reshard(model)
        tensors, goes_on = trainable_tensors(model), kind_of_tuning(model) != "full"
        batches = self._draw_batches(plan.batches)
        probe = Probe(self, _PROBE_SAMPLES)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Where training will begin, and nothing else: the test is over when they have been put back.
        begin = [Snapshot(tensors, storage=optimizer.storage)]

        def keep() -> None:
            if goes_on:
                begin.clear()
                begin.append(Snapshot(tensors, storage=optimizer.storage))

        try:
            with preserved_generators(args.seed), kept_metrics(self):
                signal = self._measure_signal(parameters, batches, plan.gradients)
                step = self._make_step(parameters, batches)
                found = run_range_test(plan, step, lambda: float(probe().mean()), keep, signal, self.state.max_steps)
        finally:
            begin[0].restore()
            self.model_wrapped.zero_grad()
        return None if found is None else replace(found, seconds=time.perf_counter() - began)

    def _draw_batches(self, count: int) -> Iterator[Group]:
        """Training batches as large as that of an optimizer step, without the samples of the probe."""
        args = self.args
        per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        while True:
            # From the start again where a stream is short.
            yield from draw_groups(self, per_step, per_step * count, skip=_PROBE_SAMPLES)

    def _measure_signal(self, parameters: list[nn.Parameter], batches: Iterator[Group], count: int) -> float | None:
        """Share of signal in the gradients at the present parameters."""
        noise = GradientNoise(parameters, lambda values: self.accelerator.reduce(values, "mean"))
        for _ in range(count):
            self._add_gradients(next(batches))
            noise.add()
            self.model_wrapped.zero_grad()
        return noise.signal()

    def _make_step(self, parameters: list[nn.Parameter], batches: Iterator[Group]) -> Callable[[float], None]:
        """A function that trains on the next batches with AdamW at a learning rate."""
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
        clip = self._gradient_scale * (self.args.max_grad_norm or float("inf"))

        def step(rate: float) -> None:
            self._add_gradients(next(batches))
            norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = rate
            if bool(torch.isfinite(norm)):
                optimizer.step()
            optimizer.zero_grad()

        return step

    @property
    def _gradient_scale(self) -> float:
        return _FP16_SCALE if self.args.fp16 else 1.0

    def _add_gradients(self, group: Group) -> None:
        """Gradients of the mean loss of the batches of a step."""
        total = sum(count for _, count in group)
        self.model_wrapped.train()
        for inputs, count in group:
            loss = mean_loss(self, inputs, **count_items(self, inputs))
            (loss * (self._gradient_scale * count / total)).backward()
