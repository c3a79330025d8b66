"""The race of a trainer, and the schedule of learning rates that begins after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from .race_plan import RacePlan, plan_race
from .validation import describe_schedule, try_schedule

if TYPE_CHECKING:
    from .learning_rate import LearningRateMixin
    from .training_args import IOMTTrainingArguments

    class _Base(LearningRateMixin, Trainer):
        """What the mixin finds in the class that it is mixed into."""

        callback_handler: Any

else:
    _Base = object


class RaceScheduleMixin(_Base):
    """
    Plans the race, and the schedule for the steps after it.

    Attributes:
        race_plan ([`RacePlan`], *optional*): The race of the run; `None` where there is none.
        steps_planned (`int`): Steps of the whole run.
    """

    args: IOMTTrainingArguments
    race_plan: RacePlan | None = None
    steps_planned: int = 0

    @property
    def steps_raced(self) -> int:
        """Steps of the whole race."""
        return self.race_plan.total_steps if self.race_plan is not None else 0

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """
        Build the scheduler for the steps after the race, which runs at the candidates' own learning rates.

        Raises:
            ValueError: The scheduler cannot be built with these `lr_scheduler_kwargs`, warm-up and number of steps.
        """
        self.steps_planned = num_training_steps
        self.race_plan = self._plan_race()
        steps = num_training_steps - self.steps_raced
        try:
            scheduler = super().create_scheduler(steps, optimizer)
            try_schedule(scheduler, steps)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ValueError(describe_schedule(self.args, steps) + f": {error}") from error
        return scheduler

    def plan_for(self, steps: int) -> None:
        """Plan the race of so many steps, where a `create_scheduler` of somebody else's has not."""
        if self.steps_planned != steps:
            self.steps_planned = steps
            self.race_plan = self._plan_race()

    def plan_again(self) -> None:
        """Plan for the candidates that the range test has left: Trainer asks for a scheduler before the test."""
        before = self.steps_raced
        self.race_plan = self._plan_race()
        if self.steps_raced == before or not self._created_lr_scheduler:
            return
        self.lr_scheduler = None
        self.callback_handler.lr_scheduler = self.create_scheduler(self.steps_planned)

    def _plan_race(self) -> RacePlan | None:
        return plan_race(self.entrants, self.race_steps(self.steps_planned), self.steps_planned)
