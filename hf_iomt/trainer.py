"""[`IOMTTrainer`]: Trainer that interleaves optimizers."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from torch import nn
from transformers import Trainer

from .assessment import Assessment
from .attempts import AttemptsMixin
from .backends import mean_over_processes, refuse_unsupported_backends, state_part
from .callbacks import add_callbacks
from .candidate_list import check_trainable, resolve_candidates, trains
from .checkpoint import describe, find_checkpoint, load_state, save_state
from .checkpoint_timing import CheckpointTimingMixin
from .cycle_plan import plan_cycles
from .interleaving import Interleaving
from .json_files import write_json
from .learning_rate import LearningRateMixin
from .memory import MemoryNeed, memory_need, report_memory
from .optim import InterleavedOptimizer, Place, Storage, trainable_tensors
from .overfitting import make_watch
from .probe import Probe
from .publishing import PublishingMixin
from .race_schedule import RaceScheduleMixin
from .run_record import RunRecordMixin
from .search import SearchMixin
from .selection import ParameterProjection, Selector, select_parameters
from .shards import reshard, unpack
from .step_loss import StepLossMixin
from .trainer_families import find_family, spare_embeddings
from .training_args import IOMTTrainingArguments
from .transferability import TRANSFERABILITY_NAME, Transferability
from .validation import check_train_dataset

logger = logging.getLogger(__name__)

# The race's probe is measured in this many groups, which show how uncertain its mean is.
_RACE_GROUPS = 4
# The samples that ω_t is measured on before training: at most this share of those that the run trains on, each of
# which costs three times as much, and no fewer than so many.
_ASSESSED_SHARE = 0.03
_LEAST_ASSESSED = 64

if TYPE_CHECKING:
    # A mixin has no base of its own; a type checker sees that of the trainers it is mixed into.
    _Base = Trainer
else:
    _Base = object


class IOMTTrainerMixin(
    RaceScheduleMixin,
    LearningRateMixin,
    AttemptsMixin,
    CheckpointTimingMixin,
    PublishingMixin,
    RunRecordMixin,
    SearchMixin,
    StepLossMixin,
    _Base,
):
    """
    Makes a Trainer interleave optimizers: `class MyTrainer(IOMTTrainerMixin, SomeTrainer)`.

    What it changes with respect to the trainer it is mixed into:

    - `create_optimizer` builds an [`~optim.InterleavedOptimizer`] over the trainable parameters, in Trainer's two
      weight-decay groups, instead of the optimizer that `args.optim` names;
    - `create_scheduler` leaves the steps of the race out, and the schedule begins after the race;
    - `training_step` hands the loss of each step to [`Interleaving`], which chooses the candidate that steps next;
    - `prediction_step` shows each batch to the assessment of transferability, while there is one;
    - checkpoints hold the state of the loop and what the assessment found, they are written between two steps, and
      `train` resumes from whole ones only;
    - the history and a record of the run are written beside Trainer's own state;
    - the model card tells how the optimizers were chosen, and a push to the Hub that fails loses nothing;
    - what a run that fails was trying out is undone at once;
    - `log` adds the decisions, and reports the learning rate that was really used;
    - a callback judges a cycle at its end.

    Everything else is inherited unchanged. `args` must be [`IOMTTrainingArguments`].

    Attributes:
        interleaving ([`Interleaving`], *optional*): The loop of Algorithm 1, from the start of training on.
        transferability ([`~transferability.Transferability`], *optional*): ω_t and its parts, from the start of
            training on; `None` where nothing depends on it.
        memory_need ([`~memory.MemoryNeed`], *optional*): What the run needs, from the start of training on.

    Raises:
        TypeError: `args` are not [`IOMTTrainingArguments`].
        ValueError: An optimizer or a scheduler is passed as well, or a distributed backend other than DDP and FSDP2 is
            configured.
    """

    args: IOMTTrainingArguments
    optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.args, IOMTTrainingArguments):
            raise TypeError(
                f"`args` must be IOMTTrainingArguments, but got {type(self.args).__name__}. Replace "
                "`TrainingArguments(...)` by `IOMTTrainingArguments(...)`: it takes the same arguments."
            )
        if self.optimizer is not None or self.optimizer_cls_and_kwargs is not None:
            raise ValueError(
                f"{type(self).__name__} chooses the optimizer itself: pass no optimizer, and say in `iomt_candidates` "
                "what it may choose from."
            )
        if self.lr_scheduler is not None:
            raise ValueError(
                f"{type(self).__name__} makes the optimizer itself, so a {type(self.lr_scheduler).__name__} that is "
                "passed belongs to another one, and would have no effect. Set it afterwards, as in "
                "`trainer.lr_scheduler = LambdaLR(trainer.create_optimizer(), ...)`."
            )
        refuse_unsupported_backends(self)
        self.interleaving: Interleaving | None = None
        self.transferability: Transferability | None = None
        self.memory_need: MemoryNeed | None = None
        self._assessment: Assessment | None = None
        self._restored: dict[str, Any] | None = None
        add_callbacks(self)

    @property
    def iomt_history(self) -> list[dict[str, Any]]:
        """One dictionary per cycle, see [`~selection.CycleRecord`]. Empty before training."""
        return self.interleaving.history if self.interleaving is not None else []

    @property
    def interleaved_optimizer(self) -> InterleavedOptimizer:
        """
        The optimizer without Accelerate's wrapper.

        Raises:
            TypeError: It is another one, or there is none yet.
        """
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(optimizer, InterleavedOptimizer):
            raise TypeError(
                "The optimizer must be the InterleavedOptimizer that `create_optimizer` makes, but got "
                f"{type(optimizer).__name__}. In a `create_optimizer` of your own call `super().create_optimizer()`, "
                "and say in `iomt_candidates` what it may choose from."
            )
        return optimizer

    def trained_module(self) -> nn.Module:
        """What is trained: the model. Trainers whose losses have parameters of their own return both as one."""
        return cast(nn.Module, self.model)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; of the checkpoints that a kill left behind only whole ones are resumed."""
        self._restored, self.range_test, self.steps_planned = None, None, 0
        check_train_dataset(self.train_dataset)
        return super().train(find_checkpoint(resume_from_checkpoint, str(self.args.output_dir)), *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """
        Build the [`~optim.InterleavedOptimizer`] over the trainable parameters.

        Raises:
            ValueError: Nothing is trainable, or a trainable parameter is float16.
        """
        target = self.trained_module() if model is None else model
        if self.optimizer is not None and not trains(self.optimizer, target):
            logger.info("Other parameters are trainable than before: beginning with a new optimizer.")
            self.optimizer = None
        if self.optimizer is None:
            check_trainable(target)
            find = find_family(self.args, target)
            self.optimizer_cls_and_kwargs = (
                InterleavedOptimizer,
                {
                    "candidates": resolve_candidates(self.args, target, find),
                    "idle_state": self.args.iomt_idle_state,
                    "find_family": find,
                    "storage": Storage(cast(Place, self.args.iomt_offload), self.args.output_dir),
                },
            )
            optimizer = super().create_optimizer(target)
            spare_embeddings(target, [find(candidate.family) for candidate in self.interleaved_optimizer.candidates])
            # The groups' weight decay cannot tell them apart where `args.weight_decay` is 0.
            names = set(self.get_decay_parameter_names(target))
            decayed = {id(parameter) for name, parameter in target.named_parameters() if name in names}
            for group in optimizer.param_groups:
                group["decay"] = any(id(parameter) in decayed for parameter in group["params"])
        return cast(torch.optim.Optimizer, self.optimizer)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Evaluate a batch as Trainer does, and show it to the assessment where there is one."""
        # Some trainers take labels out of the inputs.
        batch = dict(inputs) if isinstance(inputs, Mapping) else {}
        result: tuple[Any, Any, Any] = super().prediction_step(model, inputs, *args, **kwargs)
        if self._assessment is not None:
            self._assessment.observe(batch)
        return result

    def assess_transferability(self, samples: int | None = None) -> Transferability:
        """
        Measure how transferable the model is to the task, as it is now, with one pass over some samples (Eq. 6).

        Training calls it before the first step where `args.iomt_transferability` is `"auto"`; it can be called without
        training.

        Args:
            samples (`int`, *optional*): Samples to read at most; `args.iomt_transferability_samples` if left out.

        Raises:
            ValueError: There is no data of the split to read, or no metric `args.iomt_performance_metric`.
        """
        self._assessment = Assessment(self, samples or self.args.iomt_transferability_samples)
        try:
            with self.keeping_batch_size("Measuring ω_t", "reduce `per_device_eval_batch_size`"):
                return self._assessment.run()
        finally:
            self._assessment = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, with the decisions and the learning rate that was really used."""
        if self.interleaving is not None and "learning_rate" in logs:
            logs = {
                **logs,
                "learning_rate": self.interleaved_optimizer.last_learning_rate,
                **self.interleaving.metrics(),
            }
        super().log(logs, start_time)

    def begin_interleaving(self) -> None:
        """Set up the loop of Algorithm 1 for the run that begins; the callback calls it."""
        args, optimizer, max_steps = self.args, self.interleaved_optimizer, self.state.max_steps
        self.plan_for(max_steps)
        alone = len(optimizer.candidates) == 1
        restored, self._restored = self._restored, None
        if self.state.global_step > 0 and restored is None:
            logger.warning("The checkpoint holds weights only: the selection starts afresh, without a race.")
        # `auto_find_batch_size` may have made it smaller.
        per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        transferability = self._find_transferability(per_step)
        if restored is None:
            self.scale_candidates(optimizer)
        fresh = self.state.global_step == 0
        race = self.race_plan if fresh or (restored is not None and restored["race"] is not None) else None
        # A resumed run keeps the plan of the whole; one of weights alone plans for what is left.
        left = max_steps - (self.steps_raced if fresh or restored is not None else self.state.global_step)
        switch_steps, initial_cycles = plan_cycles(args, left, self.callback_handler.train_dataloader)
        logger.info(
            "Interleaving %d candidates over %d steps: a race of %d steps, then cycles of %d, the first %d drawn.",
            len(self.entrants),
            max_steps,
            race.total_steps if race is not None else 0,
            switch_steps,
            initial_cycles,
        )
        settings = args.interleaving_settings(switch_steps)
        if alone:
            # Nothing to choose: the run is Trainer's own, to the last bit.
            settings = replace(settings, score="losses", rollback=False)
        probe = Probe(self, args.iomt_probe_samples or max(8, per_step // 2))
        race_probe = None
        if race is not None:
            samples = args.iomt_probe_samples or race.probe_samples(max_steps * per_step)
            race_probe = Probe(self, samples, _RACE_GROUPS)
        model = self.trained_module()
        if self.is_fsdp_enabled:
            reshard(model)
        watch = make_watch(self, per_step, switch_steps)
        tested, watched = self.range_test is not None, watch is not None
        strides = self.range_test is not None and bool(self.range_test.strides)
        tensors = trainable_tensors(model)
        self.memory_need = memory_need(tensors, optimizer, settings, race, tested, strides, watched)
        report_memory(self.memory_need, optimizer.storage)
        named = dict(model.named_parameters())
        selected = select_parameters(named.items(), args.iomt_state_parameters)
        selector = Selector(
            [candidate.family for candidate in optimizer.candidates],
            [candidate.settings for candidate in optimizer.candidates],
            args.selector_settings(initial_cycles, transferability),
            seed=args.seed,
        )
        selector.restrict(self.entrants)
        selector.trusted = self.entrants[0]
        self.interleaving = Interleaving(
            optimizer,
            selector,
            trainable_tensors(model),
            ParameterProjection([(name, named[name]) for name in selected], args.seed),
            settings,
            probe=probe,
            race=race,
            race_probe=race_probe,
            overfitting=watch,
            reduce=partial(mean_over_processes, self),
            # The last digit may depend on the machine, and ranks must not differ.
            share=lambda choice: broadcast_object_list([choice])[0],
            scaler=self.accelerator.scaler,
            scheduler=self.lr_scheduler,
            first_step=self.state.global_step + 1,
        )
        self.begin_losses(None if alone else probe)
        if restored is None:
            self.interleaving.begin()
        else:
            self.interleaving.load_state_dict(restored)

    def _find_transferability(self, per_step: int) -> float:
        """ω_t: as it is set, as the checkpoint has it, or measured now; and what is known of it logged and written."""
        args, restored, resumed = self.args, self.transferability, self.state.global_step > 0
        if args.transferability_weight is not None:
            self.transferability = Transferability(args.transferability_weight)
        elif args.iomt_selection != "surrogate" or len(self.interleaved_optimizer.candidates) == 1:
            self.transferability = None
            return 0.0
        elif not resumed or restored is None or restored.split is None:
            if resumed:
                logger.warning("The checkpoint has no %s that was measured: doing so now.", TRANSFERABILITY_NAME)
            affordable = round(_ASSESSED_SHARE * self.state.max_steps * per_step)
            samples = min(args.iomt_transferability_samples, max(affordable, _LEAST_ASSESSED))
            self.transferability = self.assess_transferability(samples)
            self.log({f"iomt/transferability/{name}": part for name, part in self.transferability.parts.items()})
        assert self.transferability is not None
        logger.info("Transferability: %s", self.transferability)
        self._save_transferability(self._run_folder())
        return self.transferability.weight

    def _save_transferability(self, folder: str) -> None:
        if self.transferability is not None and self.args.should_save:
            write_json(asdict(self.transferability), os.path.join(folder, TRANSFERABILITY_NAME))

    def _description(self) -> dict[str, dict[str, str]]:
        shards = None if state_part(self) is None else self.accelerator.num_processes
        return describe(self.interleaved_optimizer.candidates, self.trained_module(), shards)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self._save_transferability(output_dir)
        self.save_range_test(output_dir)
        if self.interleaving is not None:
            # Ranks take part in it.
            state, part = self.interleaving.state_dict(), state_part(self)
            if self.args.should_save or part is not None:
                save_state(state, self._description(), output_dir, part)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Trainer's own state, which follows, says that the checkpoint is whole.
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.read_range_test(checkpoint, self.interleaved_optimizer)
            self._restored = load_state(checkpoint, self._description(), state_part(self))
            if self._restored is not None and self.is_fsdp_enabled:
                self._restored = unpack(self._restored, cast(nn.Module, self.model).parameters())
                self.interleaved_optimizer.make_slots(self._restored["families"])
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.transferability = Transferability.read(os.path.join(checkpoint, TRANSFERABILITY_NAME))


class IOMTTrainer(IOMTTrainerMixin, Trainer):
    """
    [`~transformers.Trainer`] that chooses optimizer and learning rate while it trains, see [`IOMTTrainerMixin`].

    It takes the arguments of [`~transformers.Trainer`], with [`IOMTTrainingArguments`] as `args`.

    Example:

    ```python
    args = IOMTTrainingArguments(output_dir="run", max_steps=1000)
    trainer = IOMTTrainer(model, args, train_dataset=train, eval_dataset=validation)
    trainer.train()
    trainer.iomt_history[-1]["candidate"]
    ```
    """


IOMTTrainer.__signature__ = inspect.signature(Trainer)  # type: ignore[attr-defined]
