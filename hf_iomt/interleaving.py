"""The loop of Algorithm 1 around an optimizer: race, cycles, scores, rollback. The one place where the parts meet."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .cycle_log import log_end, log_rollback, log_switch
from .guard import Guard
from .interleaving_settings import InterleavingSettings
from .optim import InterleavedOptimizer
from .overfitting import OverfittingWatch
from .overflow import OverflowWatch
from .precision import widen, widest
from .race import Race
from .race_plan import RacePlan
from .selection import Choice, CycleRecord, ParameterProjection, Selector, as_dictionaries, as_metrics, score
from .step_shares import share_metrics

logger = logging.getLogger(__name__)

# What later steps depend on and `optimizer.state_dict` does not hold.
_OF_OPTIMIZER = ("last_learning_rate", "damping", "rising")


class Interleaving:
    """
    Interleaves the candidates of an optimizer while somebody else runs the training loop.

    The loop calls `after_backward` with the loss of every optimizer step, between `backward` and `optimizer.step()`,
    and `after_step` once the step is made. Nothing else is needed, so it serves a plain PyTorch loop as well:

    ```python
    interleaving.begin()
    for batch in batches:
        loss = compute_loss(batch)
        loss.backward()
        interleaving.after_backward(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        interleaving.after_step()
    interleaving.finish()
    ```

    The loss of a batch is measured before the update on that batch, so the first loss of a cycle is l_τ of the cycle
    before, and it is known before the candidate that follows must be chosen: τ + 1 losses for Eq. 2 without an extra
    forward pass.

    Args:
        optimizer ([`InterleavedOptimizer`]): The optimizer of the loop.
        selector ([`~selection.Selector`]): Chooses among `optimizer.candidates`.
        tensors (`Sequence[torch.Tensor]`): What training changes: the trainable parameters and running statistics.
        projection ([`~selection.ParameterProjection`]): Gives the parameter state.
        settings ([`InterleavingSettings`]): How to score and when to roll back.
        probe (`Callable[[], NDArray]`, *optional*): Losses of shape (groups,) on fixed training samples. Needed for
            scores by the probe and for a race.
        race ([`RacePlan`], *optional*): Race to begin with.
        race_probe (`Callable[[], NDArray]`, *optional*): The probe of the race, usually of more samples.
        overfitting ([`OverfittingWatch`], *optional*): Looks at held-out samples at the ends of cycles.
        reduce (`Callable[[torch.Tensor], torch.Tensor]`, *optional*): Averages a tensor over the ranks.
        share (`Callable[[Choice], Choice]`, *optional*): Gives the main process's choice to all ranks.
        scaler (`GradScaler`, *optional*): The loop's gradient scaler, with fp16.
        scheduler (`LRScheduler`, *optional*): The loop's scheduler; put back to its start when the race is over.
        first_step (`int`, *optional*, defaults to 1): Number of the first step, for the history.

    Raises:
        ValueError: A probe is needed and missing.
    """

    def __init__(
        self,
        optimizer: InterleavedOptimizer,
        selector: Selector,
        tensors: Sequence[torch.Tensor],
        projection: ParameterProjection,
        settings: InterleavingSettings,
        probe: Callable[[], NDArray[np.float64]] | None = None,
        race: RacePlan | None = None,
        race_probe: Callable[[], NDArray[np.float64]] | None = None,
        overfitting: OverfittingWatch | None = None,
        reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
        share: Callable[[Choice], Choice] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        first_step: int = 1,
    ) -> None:
        if probe is None and (settings.score == "probe" or (race is not None and race_probe is None)):
            raise ValueError("A race and scores by the probe need a `probe`: give one, or turn them off.")
        self.optimizer = optimizer
        self.selector = selector
        self.settings = settings
        self.records: list[CycleRecord] = []
        self._tensors = tensors
        self._projection = projection
        self._race_probe = race_probe or probe
        self._plan = race
        self._reduce = reduce or (lambda losses: losses)
        self._share = share or (lambda choice: choice)
        self._scheduler = scheduler
        self._step = first_step
        self._race: Race | None = None
        self._running = self._switched = False
        self._cycle_steps = 0
        self._losses: list[torch.Tensor] = []
        self._state = projection()
        # Time of measuring the initial parameters, until there is a record to note it in.
        self._first_seconds = 0.0
        # At least half of a cycle is at the full learning rate.
        optimizer.takeover_steps = min(settings.takeover_steps, settings.switch_steps // 2)
        self._guard = Guard(optimizer, tensors, settings, self._reduce, probe)
        self._overfitting = overfitting
        self._overflow = OverflowWatch(tensors, self._reduce, scaler)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary per cycle, see [`~selection.CycleRecord`]."""
        return as_dictionaries(self.records)

    def begin(self) -> None:
        """Measure the initial parameters and put the first entrant of the race on the track. Before the first step."""
        began, self.optimizer.damping, self.optimizer.rising = self._now(), 1.0, 0
        if self._plan is not None and self._race_probe is not None:
            self._race = self._make_race(self._plan)
            standing = self._guard.standing
            standing.initial, standing.spread = self._race.origin_loss, self._race.origin_spread
            self._record(Choice(self._race.current.candidate, "race"), self._now() - began)
        else:
            self._guard.measure(first=True)
            self._first_seconds = self._now() - began
        self._overflow.begin()

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, between two steps, in plain values and tensors."""
        return {
            "records": self.history,
            "step": self._step,
            "cycle_steps": self._cycle_steps,
            # Means over the ranks, because the file is the same for all.
            "losses": self._read_losses() if self._losses else [],
            "parameter_state": torch.from_numpy(self._state.copy()),
            "flags": [self._running, self._switched],
            "guard": self._guard.state_dict(),
            "overflow": self._overflow.state_dict(),
            "overfitting": None if self._overfitting is None else self._overfitting.state_dict(),
            "race": None if self._race is None else self._race.state_dict(),
            "selector": self.selector.state_dict(),
            "last_used": dict(self.optimizer.last_used),
            "families": self.optimizer.families_in_use(),
            **{name: getattr(self.optimizer, name) for name in _OF_OPTIMIZER},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, instead of `begin`, where `state_dict` was called; model, optimizer and scheduler must be there."""
        self.records = [CycleRecord(**record) for record in state["records"]]
        self._step, self._cycle_steps = state["step"], state["cycle_steps"]
        device = self._tensors[0].device
        self._losses = list(torch.tensor(state["losses"], dtype=widest(device), device=device))
        self._state = state["parameter_state"].numpy()
        self._running, self._switched = state["flags"]
        self._guard.load_state_dict(state["guard"])
        self._overflow.load_state_dict(state["overflow"])
        self.selector.load_state_dict(state["selector"])
        self.optimizer.last_used = dict(state["last_used"])
        for name in _OF_OPTIMIZER:
            setattr(self.optimizer, name, state[name])
        # The settings may be others than when the state was saved.
        self.optimizer.rising = min(self.optimizer.rising, self.optimizer.takeover_steps)
        if self._overfitting is not None and state["overfitting"] is not None:
            self._overfitting.load_state_dict(state["overfitting"])
        race = state["race"]
        if race is not None:
            plan = RacePlan(**{name: tuple(item) for name, item in race["plan"].items()})
            self._race = self._make_race(plan, race)

    def after_backward(self, loss: torch.Tensor) -> None:
        """
        Take the loss of this step, and where a cycle has ended score it and choose the candidate that steps next.

        Args:
            loss (`torch.Tensor`, a scalar on any device): Mean training loss of the step, measured before the update.
        """
        if self._race is not None:
            return
        ended = self._cycle_steps >= self.settings.switch_steps
        # A loss that overflowed says nothing about the cycle: the next one does.
        if self._running and (not ended or self._overflow.expects(loss)):
            self._losses.append(loss)
            return
        began = self._now()
        if self._running:
            loss = self._look_back(loss)
            self._losses.append(loss)
            self._score()
        self._state = self._projection()
        choice = self._share(self.selector.choose(self._state))
        self._switched = choice.candidate != self.optimizer.active_index
        if self._switched:
            chosen = self.optimizer.candidates[choice.candidate].name
            log_switch(self._step, self.optimizer.active.name, chosen, choice)
        self.optimizer.activate(choice.candidate)
        self._running, self._cycle_steps = True, 0
        self._losses = [loss]
        self._guard.begin_cycle()
        self._overflow.begin()
        self._record(choice, self._now() - began)

    def after_step(self, skipped: bool = False) -> None:
        """
        Count a step; at the end of a cycle judge it, and undo it where it did damage.

        Args:
            skipped (`bool`, *optional*): Whether the gradient scaler left the step out because gradients overflowed.
                It does not count then, unless it is the candidate that has diverged: that ends its cycle.
        """
        self.records[-1].last_step = self._step
        self._step += 1
        lost = self._overflow.after_step(skipped)
        if skipped and not lost:
            if self._race is None:
                self._losses.pop()
            return
        if self._race is not None:
            self._after_race_step(self._race, lost)
            return
        self._cycle_steps += 1
        if lost:
            self._cycle_steps = max(self._cycle_steps, self.settings.switch_steps)
            self._losses[-1] = torch.full_like(self._losses[-1], math.inf)
        elif self._cycle_steps > self.settings.switch_steps // 2:
            self._guard.add_to_tail()
        measured = self.settings.score != "losses" or self.settings.rollback
        if measured and (self._cycle_steps == self.settings.switch_steps or lost):
            began = self._now()
            self._mark(self._guard.judge(self._read_losses))
            self.records[-1].seconds += self._now() - began
        if self._cycle_steps == self.settings.switch_steps and not lost:
            self._look_at_held_out()

    def finish(self, judge: bool = True) -> None:
        """End the last cycle or the race, and leave the model in its best known state, unjudged as it was before."""
        began, ending = self._now(), self._running or self._race is not None
        if self._race is not None and judge:
            self._race.after_stop()
            self._settle(self._race)
        elif self._race is not None:
            self._race.settle(judge=False)
            self._race = None
        elif self._running and self._cycle_steps > 0:
            # The losses do not show yet what its last step did; the probe does.
            self._mark(self._guard.judge_unfinished() if judge else self._guard.undo(confirm=False))
        if self.records and self.records[-1].first_step == self._step:
            # Training stopped before the first step of the cycle.
            began -= self.records.pop().seconds
        self._running = False
        if ending and self.records:
            self.records[-1].seconds += self._now() - began
            if judge:
                log_end(self._step - 1, self.records)

    def release(self) -> None:
        """
        Let go of the copies of the parameters, once nothing is to be saved any more: a checkpoint of the last step
        holds those that a longer run may go back to.
        """
        self._guard.release()
        if self._overfitting is not None:
            self._overfitting.release()

    def metrics(self) -> dict[str, float]:
        """The present decision as numbers, for loggers."""
        active, learning_rate = self.optimizer.active_index, self.optimizer.last_learning_rate
        return {
            **as_metrics(self.records, active, learning_rate, self._switched),
            **share_metrics(self.records, self.optimizer.candidates, self._step - 1),
        }

    def _now(self) -> float:
        """The time when the device has done what it was asked for, which belongs to what came before."""
        device = self._tensors[0].device
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    def _record(self, choice: Choice, seconds: float) -> None:
        candidate = self.optimizer.candidates[choice.candidate]
        self.records.append(
            CycleRecord(
                cycle=len(self.records),
                first_step=self._step,
                last_step=self._step,
                candidate=candidate.name,
                family=candidate.family,
                learning_rate=self.optimizer.learning_rate,
                phase=choice.phase,
                predicted_mean=choice.predicted_mean,
                predicted_std=choice.predicted_std,
                gain=choice.gain,
                seconds=seconds + self._first_seconds,
            )
        )
        self._first_seconds = 0.0

    def _look_at_held_out(self) -> None:
        """Where a cycle has ended and stands, see whether the model overfits."""
        watch, step, record = self._overfitting, self._step - 1, self.records[-1]
        if watch is None or self._guard.rolled_back or not watch.is_due(step):
            return
        began = self._now()
        record.held_out_loss, record.overfitted = watch.check(step, self._read_losses())
        if record.overfitted:
            self._guard.restart()
        record.seconds += self._now() - began

    def _score(self) -> None:
        """Eq. 2 of the cycle that has ended, for the selector and the history."""
        standing = self._guard.standing
        if self._guard.rolled_back:
            result = -1.0
        elif self.settings.score == "losses":
            # The one moment of a cycle that waits for the device. The last loss after overfitting is of other weights.
            losses = self._read_losses()
            losses = losses[:-1] if self.records[-1].overfitted else losses
            # What a cycle of one step did is not known then.
            result = score(losses, self.settings.alpha) if len(losses) > 1 else 0.0
        else:
            result = score([standing.accepted, standing.cycle_end], self.settings.alpha)
        self._guard.accept()
        self.records[-1].score = result
        self.selector.observe(self.optimizer.active_index, self._state, result)

    def _look_back(self, loss: torch.Tensor) -> torch.Tensor:
        """Undo a cycle whose last step did damage, as this loss is the first to show; gives the loss to go on from."""
        undone = self._guard.look_back(loss)
        self._mark(undone)
        if not undone:
            return loss
        # Gradients of parameters that are no more. Zeros, because a scaler of losses looks for some.
        self.optimizer.zero_grad(set_to_none=False)
        return self._losses[0]

    def _read_losses(self) -> list[float]:
        # Those of a checkpoint may lie elsewhere than those that followed.
        device = self._losses[-1].device
        losses: list[float] = self._reduce(torch.stack([widen(item.to(device)) for item in self._losses])).tolist()
        return losses

    def _mark(self, rolled_back: bool) -> None:
        """Write into the history whether the cycle was undone."""
        if rolled_back:
            self.records[-1].rolled_back, self.records[-1].score = True, -1.0
            log_rollback(self._step - 1, self.records[-1], self._guard.reason)

    def _make_race(self, plan: RacePlan, state: Mapping[str, Any] | None = None) -> Race:
        assert self._race_probe is not None
        optimizer, is_broken = self.optimizer, self._guard.standing.is_broken
        return Race(plan, optimizer, self._tensors, self._race_probe, is_broken, self._scheduler, state)

    def _after_race_step(self, race: Race, lost: bool) -> None:
        began = self._now()
        if (branch := race.after_step(lost)) is None:
            return
        self._overflow.begin()
        record = self.records[-1]
        record.score = score([race.origin_loss, branch.loss], self.settings.alpha)
        record.rolled_back = not branch.alive
        if race.finished:
            self._settle(race)
        record.seconds += self._now() - began
        if not race.finished:
            self._record(Choice(race.current.candidate, "race"), seconds=0.0)

    def _settle(self, race: Race) -> None:
        """Go on from the race's result; the finalists are what is interleaved from now on."""
        # Where every entrant did damage, all candidates stay, and rollback keeps watch.
        finalists = race.finalists
        race.settle()
        self._guard.measure()
        self.selector.restrict([branch.candidate for branch in finalists] or self.selector.contenders)
        for branch in finalists:
            result = score([race.origin_loss, branch.loss], self.settings.alpha)
            self.selector.observe(branch.candidate, self._state, result)
        self._race = None
        names = "; ".join(self.optimizer.candidates[branch.candidate].name for branch in finalists)
        none = "all candidates from where it began, because every entrant did damage"
        logger.info("The race is over after %d steps; going on with %s.", self._step - 1, names or none)
