"""Finds the unit of learning rates before a trainer's first step, and leaves out candidates that are far from it."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import Trainer

from .backends import mean_over_processes
from .candidate_list import (
    candidate_text,
    highest_rate,
    kind_of_tuning,
    nominal_unit,
    resolve_candidates,
    trains_linear_head,
)
from .generators import preserved_generators
from .gradient_noise import GradientNoise
from .json_files import write_json
from .optim import InterleavedOptimizer, Snapshot, has_only_relative_rates, has_relative_rates, trainable_tensors
from .polyak import PolyakStep
from .probe import Probe
from .race_plan import FINALISTS
from .range_test import RANGE_TEST_NAME, RangeTest, RangeTestPlan, for_steps, plan_range_test, run_range_test
from .running_metrics import kept_metrics
from .samples import Group, count_items, draw_groups, mean_loss
from .shards import reshard
from .stride import choose_entrants, measure_strides
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

        @property
        def steps_planned(self) -> int: ...

        def plan_again(self) -> None: ...

        def _run_folder(self) -> str: ...

else:
    _Base = object


class LearningRateMixin(_Base):
    """
    Gives relative learning rates, such as those of `iomt_candidates="auto"`, their unit, and of many candidates leaves
    out those whose steps are far too large or small by it.

    Attributes:
        range_test ([`RangeTest`], *optional*): What the range test has found; `None` where there was none, because
            nothing depends on it or the run is too short.
    """

    args: IOMTTrainingArguments
    range_test: RangeTest | None = None

    @property
    def entrants(self) -> list[int]:
        """Indices of the candidates that are raced and interleaved, the one that is trusted most first."""
        test = self.range_test
        if test is None or not test.strides:
            return list(range(len(self.interleaved_optimizer.candidates)))
        return choose_entrants([math.inf if item is None else item for item in test.strides], test.learning_rate)

    def scale_candidates(self, optimizer: InterleavedOptimizer) -> None:
        """
        Run the range test where candidates depend on it, write their learning rates into the optimizer, and plan for
        those that stay.

        Training of adapters, or of parts of a frozen model, then goes on from the parameters with the lowest loss that
        the test has reached, as from a warm-up. Where all of a model trains it begins at the initial ones: large rates
        lower the loss there, too, and spoil features that it was pre-trained for. For a linear head some gradients are
        enough, see [`PolyakStep`].
        """
        self.range_test = None
        plan = self._range_test_planner()(self.state.max_steps)
        if plan is None:
            self._apply_unit(optimizer)
            return
        found = self.range_test = self._run_range_test(plan, optimizer)
        self._apply_unit(optimizer)
        if found is None:
            logger.warning("The range test found no learning rate: the loss is no positive number, or rises.")
        else:
            logger.info("Range test: the learning rate is %g, after %d batches.", found.learning_rate, found.batches)
            numbers = {"iomt/range_test/learning_rate": found.learning_rate}
            if plan.strides:
                began = time.perf_counter()
                strides = self._measure_strides(optimizer)
                self.range_test = replace(found, strides=strides, seconds=found.seconds + time.perf_counter() - began)
                numbers["iomt/range_test/left_out"] = float(self._log_left_out(optimizer))
            self.log(numbers)
        # Also where there is nothing to leave out: an attempt that failed may have left another plan.
        self.plan_again()
        self.save_range_test(self._run_folder())

    def plan_range_test(self, max_steps: int) -> int:
        """
        How many batches the range test of a run of so many steps reads at most, each as large as that of a step. They
        come on top of the run's own steps. 0 where there is no test.
        """
        plan = self._range_test_planner()(max_steps)
        return 0 if plan is None else plan.batches

    def steps_beside_range_test(self, budget: int) -> int:
        """The most steps of a run that come, with the batches of its range test, to no more than `budget`."""
        planner = self._range_test_planner()

        def taken(steps: int) -> int:
            plan = planner(steps)
            return steps if plan is None else steps + plan.batches

        return next((steps for steps in range(budget, 0, -1) if taken(steps) <= budget), 0)

    def race_steps(self, max_steps: int) -> int:
        """
        Steps of a finalist of the race; 0 where none is needed: a race of few candidates shows those that destroy the
        model, and a range test shows that, too, where they are rates of one family around what it finds, or are left
        of many by their strides.
        """
        optimizer = self.interleaved_optimizer
        tested = has_only_relative_rates(candidate_text(self.args)) and self.plan_range_test(max_steps) > 0
        around = tested and len(optimizer.families) == 1
        left = self.range_test is not None and bool(self.range_test.strides)
        few = len(self.entrants) <= FINALISTS
        return 0 if few and (around or left) else self.args.iomt_race_steps or 0

    def read_range_test(self, checkpoint: str, optimizer: InterleavedOptimizer) -> None:
        """Take what the run of a checkpoint has found, also where this run alone would not look for it."""
        found = RangeTest.read(os.path.join(checkpoint, RANGE_TEST_NAME))
        if found is not None and (found.strides or has_relative_rates(candidate_text(self.args))):
            self.range_test = found
            self._apply_unit(optimizer)
            self.plan_again()

    def save_range_test(self, folder: str) -> None:
        """Write what was found."""
        if self.range_test is not None and self.args.should_save:
            write_json(asdict(self.range_test), os.path.join(folder, RANGE_TEST_NAME))

    def _range_test_planner(self) -> Callable[[int], RangeTestPlan | None]:
        """A function that plans the range test of a run of so many steps."""
        model = self.trained_module()
        text, find = candidate_text(self.args), find_family(self.args, model)
        many = bool(self.args.iomt_race_steps) and len(resolve_candidates(self.args, model, find)) > FINALISTS
        usual, highest, linear = nominal_unit(model), highest_rate(model), trains_linear_head(model)
        needed = many or has_relative_rates(text)

        def plan(max_steps: int) -> RangeTestPlan | None:
            return plan_range_test(usual, highest, max_steps, many, linear) if needed else None

        return plan

    def _apply_unit(self, optimizer: InterleavedOptimizer) -> None:
        if has_relative_rates(candidate_text(self.args)):
            model = self.trained_module()
            unit = None if self.range_test is None else self.range_test.learning_rate
            optimizer.replace_candidates(resolve_candidates(self.args, model, find_family(self.args, model), unit))

    def _log_left_out(self, optimizer: InterleavedOptimizer) -> int:
        """Say which candidates stay out; gives their number."""
        staying, candidates = set(self.entrants), optimizer.candidates
        names = [candidate.name for index, candidate in enumerate(candidates) if index not in staying]
        if names:
            logger.info(
                "Left out %d of %d candidates, whose steps are far too large or small by it: %s.",
                len(names),
                len(candidates),
                "; ".join(names),
            )
        return len(names)

    def _run_range_test(self, plan: RangeTestPlan, optimizer: InterleavedOptimizer) -> RangeTest | None:
        began = time.perf_counter()
        args = self.args
        model = self.trained_module()
        if self.is_fsdp_enabled:
            reshard(model)
        tensors, goes_on = trainable_tensors(model), kind_of_tuning(model) != "full"
        batches = self._draw_batches(plan.batches)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Where training will begin, and nothing else: the test is over when they have been put back.
        begin = [Snapshot(tensors, storage=optimizer.storage)]

        def keep() -> None:
            if goes_on:
                begin.clear()
                begin.append(Snapshot(tensors, storage=optimizer.storage))

        try:
            with preserved_generators(args.seed), kept_metrics(self):
                if plan.rates:
                    probe = Probe(self, _PROBE_SAMPLES)
                    signal = self._measure_signal(parameters, batches, plan.gradients)
                    step = self._make_step(parameters, batches)
                    found = run_range_test(
                        plan, step, lambda: float(probe().mean()), keep, signal, self.state.max_steps
                    )
                else:
                    found = self._measure_step_length(parameters, batches, plan.gradients)
        finally:
            begin[0].restore()
            self.model_wrapped.zero_grad()
        return None if found is None else replace(found, seconds=time.perf_counter() - began)

    def _measure_strides(self, optimizer: InterleavedOptimizer) -> list[float | None]:
        """The candidates' strides at the gradient of a step; `None` for those that are not finite, or all of them."""
        tensors = trainable_tensors(self.trained_module())
        parameters = [item for item in tensors if isinstance(item, nn.Parameter)]
        statistics = Snapshot([item for item in tensors if not isinstance(item, nn.Parameter)])
        try:
            with preserved_generators(self.args.seed), kept_metrics(self):
                self._add_gradients(next(self._draw_batches(1)))
                self._clip(parameters)
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.div_(self._gradient_scale)
                strides = measure_strides(optimizer, partial(mean_over_processes, self))
        finally:
            statistics.restore()
            self.model_wrapped.zero_grad()
        return [stride if math.isfinite(stride) else None for stride in strides or []]

    def _draw_batches(self, count: int) -> Iterator[Group]:
        """Training batches as large as that of an optimizer step, without the samples of the probe."""
        args = self.args
        per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        return draw_groups(self, per_step, per_step * count, skip=_PROBE_SAMPLES)

    def _measure_signal(self, parameters: list[nn.Parameter], batches: Iterator[Group], count: int) -> float | None:
        """Share of signal in the gradients at the present parameters."""
        noise = GradientNoise(parameters, partial(mean_over_processes, self))
        for _ in range(count):
            self._add_gradients(next(batches))
            noise.add()
            self.model_wrapped.zero_grad()
        return noise.signal()

    def _measure_step_length(
        self, parameters: list[nn.Parameter], batches: Iterator[Group], count: int
    ) -> RangeTest | None:
        """What the gradients at the present parameters tell of the learning rate of a linear head."""
        polyak = PolyakStep(parameters, partial(mean_over_processes, self))
        for _ in range(count):
            polyak.add(self._add_gradients(next(batches)))
            self.model_wrapped.zero_grad()
        found = polyak.learning_rate
        return None if found is None else RangeTest(for_steps(found, self.state.max_steps), gradients=count)

    def _make_step(self, parameters: list[nn.Parameter], batches: Iterator[Group]) -> Callable[[float], None]:
        """A function that trains on the next batches with AdamW at a learning rate."""
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)

        def step(rate: float) -> None:
            self._add_gradients(next(batches))
            norm = self._clip(parameters)
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = rate
            if bool(torch.isfinite(norm)):
                optimizer.step()
            optimizer.zero_grad()

        return step

    def _clip(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        # As in Trainer, what is not above 0 clips nothing.
        limit = self.args.max_grad_norm if self.args.max_grad_norm > 0 else math.inf
        return torch.nn.utils.clip_grad_norm_(parameters, self._gradient_scale * limit)

    @property
    def _gradient_scale(self) -> float:
        return _FP16_SCALE if self.args.fp16 else 1.0

    def _add_gradients(self, group: Group) -> torch.Tensor:
        """Gradients of the mean loss of the batches of a step, which is returned, scaled as they are."""
        total = sum(count for _, count in group)
        self.model_wrapped.train()
        losses = []
        for inputs, count in group:
            loss = mean_loss(self, inputs, **count_items(self, inputs)) * (self._gradient_scale * count / total)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()
