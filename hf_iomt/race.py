"""The racing start: successive halving of the candidates from one and the same initial state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .optim import InterleavedOptimizer, Kept, ParameterAverage, Snapshot
from .race_log import log_entrants, log_rung
from .race_plan import FINALISTS, RacePlan

# An entrant is idle, see `Race`, where its loss has not fallen by this many standard errors of the change ...
_SIGNIFICANT = 2.0
# ... and that standard error, which tells how much its predictions moved, is among the smallest third.
_IDLE_SHARE = 1 / 3


@dataclass
class Branch:
    """
    One entrant: its own parameters and optimizer state, both from the common origin.

    While it is training, the model and its optimizer hold them; once it is out of the race, nobody does.
    """

    candidate: int
    snapshot: Snapshot
    family_state: Kept | None = None
    steps: int = 0
    loss: float = math.inf
    change: float = 0.0
    error: float = 0.0
    alive: bool = True


class Race:
    """
    Runs a [`RacePlan`] step by step.

    Every entrant trains from the origin with its own optimizer state, at its own learning rate whatever the schedule,
    so that warm-up does not blind the race. At the end of a rung it is judged by the worse of the probe at its last
    parameters and at their mean over the rung: the mean shows learning rates that are too large as well as the last
    parameters show those that destroy.

    Places in the next rung go to the lowest losses. Entrants that did damage are out, and idle ones come last: those
    whose predictions have hardly changed, and not for the better. For in the first steps an entrant that does nothing
    looks better than one that has begun to learn.

    The first candidate of the list is the one that the user trusts most: it has a place among the finalists unless it
    does damage, and training goes on from its branch. Early losses favour large learning rates, which may
    be the wrong ones in the end.

    Args:
        plan ([`RacePlan`]): Who races for how long.
        optimizer ([`InterleavedOptimizer`]): Makes the steps.
        tensors (`Sequence[torch.Tensor]`): What training changes.
        probe (`Callable[[], NDArray]`): Losses of shape (groups,) on fixed samples at the present parameters.
        is_broken (`Callable[[float, float], bool]`): Whether a probe loss is clearly worse than the origin's.
        scheduler (`LRScheduler`, *optional*): A scheduler that goes on stepping meanwhile. It is put back to where it
            was when the race ends: the race must not use up the largest learning rates of the schedule.
        state (`Mapping[str, Any]`, *optional*): What `state_dict` returned, to go on with a race that was on.
    """

    def __init__(
        self,
        plan: RacePlan,
        optimizer: InterleavedOptimizer,
        tensors: Sequence[torch.Tensor],
        probe: Callable[[], NDArray[np.float64]],
        is_broken: Callable[[float, float], bool],
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self._optimizer = optimizer
        self._tensors = tensors
        self._probe = probe
        self._is_broken = is_broken
        self._scheduler = scheduler
        self._average = ParameterAverage(tensors)
        optimizer.ignore_schedule = True
        if state is not None:
            self._load_state_dict(state)
            return
        self._schedule = copy.deepcopy(scheduler.state_dict()) if scheduler is not None else {}
        self._multipliers = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            # Schedulers that act on metrics do not note where they began.
            group.setdefault("initial_lr", group["lr"])
        self._origin = Snapshot(tensors, storage=optimizer.storage)
        self._origin_losses = probe()
        self.branches = [Branch(candidate, self._origin) for candidate in plan.entrants]
        self._field = list(self.branches)
        log_entrants(plan, optimizer.candidates)
        self._rung = 0
        self._position = 0
        self._enter(self._field[0])

    @property
    def origin_loss(self) -> float:
        """Mean loss of the probe at the origin."""
        return float(self._origin_losses.mean())

    @property
    def origin_spread(self) -> float:
        """Standard deviation of the probe's groups at the origin."""
        return float(self._origin_losses.std()) if np.isfinite(self._origin_losses).all() else 0.0

    @property
    def current(self) -> Branch:
        """The entrant that is training."""
        return self._field[self._position]

    @property
    def finished(self) -> bool:
        """Whether all rungs are over."""
        return self._rung == len(self.plan.rungs)

    @property
    def finalists(self) -> list[Branch]:
        """The best entrants, the best first: those that finished the rungs so far and did no damage."""
        return self._promote(FINALISTS)

    def state_dict(self) -> dict[str, Any]:
        """Where the race stands, in plain values and tensors. The model and its optimizer hold the rest."""
        branches = []
        for branch in self.branches:
            values = vars(branch).copy()
            values["snapshot"] = None if branch.snapshot is self._origin else branch.snapshot.values
            values["family_state"] = None if branch.family_state is None else branch.family_state.read()
            branches.append(values)
        return {
            "plan": {name: list(value) for name, value in vars(self.plan).items()},
            "schedule": self._schedule,
            "multipliers": self._multipliers,
            "average": self._average.state_dict(),
            "origin": self._origin.values,
            "origin_losses": torch.from_numpy(self._origin_losses.copy()),
            "branches": branches,
            "field": [next(i for i, item in enumerate(self.branches) if item is branch) for branch in self._field],
            "rung": self._rung,
            "position": self._position,
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._schedule, self._multipliers = state["schedule"], list(state["multipliers"])
        self._average.load_state_dict(state["average"])
        self._origin = Snapshot.load(self._tensors, state["origin"], self._optimizer.storage)
        self._origin_losses = state["origin_losses"].numpy()
        self.branches = [self._load_branch(values) for values in state["branches"]]
        self._field = [self.branches[index] for index in state["field"]]
        self._rung, self._position = state["rung"], state["position"]

    def _load_branch(self, values: Mapping[str, Any]) -> Branch:
        optimizer = self._optimizer
        branch = Branch(**{**values, "snapshot": self._origin, "family_state": None})
        if values["snapshot"] is not None:
            branch.snapshot = Snapshot.load(self._tensors, values["snapshot"], optimizer.storage)
        if values["family_state"] is not None:
            family = optimizer.candidates[branch.candidate].family
            branch.family_state = optimizer.storage.put(optimizer.place_family(family, values["family_state"]))
        return branch

    def after_step(self, lost: bool = False) -> Branch | None:
        """
        Count a step, and where the entrant's rung is over judge it and put the next one on the track.

        Args:
            lost (`bool`, *optional*): The entrant has diverged: it is out at once.

        Returns:
            The entrant whose rung ended with this step, if one did.
        """
        branch = self.current
        if lost:
            branch.loss, branch.alive = math.inf, False
            self._optimizer.reset_family(self._optimizer.active.family)
        else:
            branch.steps += 1
            self._average.add()
            if branch.steps < self.plan.rungs[self._rung]:
                return None
            self._leave(branch)
        self._position += 1
        if self._position == len(self._field):
            before, self._field = self._field, self._promote(self.plan.kept[self._rung])
            log_rung(self.plan, self._rung, before, self._field, self._optimizer.candidates)
            self._position = 0
            # What is out of the race need not be kept in memory.
            for item in self.branches:
                if item not in self._field:
                    self._drop(item)
            self._rung += 1
            if not self._field:
                self._rung = len(self.plan.rungs)
        if not self.finished:
            self._enter(self._field[self._position])
        return branch

    def after_stop(self) -> None:
        """Judge the entrant that is training although its rung is not over, because training stops here."""
        if self.finished:
            return
        if self._average.count > 0:
            self._leave(self.current)
        else:
            self._keep(self.current)

    def settle(self, judge: bool = True) -> None:
        """
        End the race: go on from the first finalist, or from the mean of the finalists where the probe prefers it.

        Finalists' families keep their optimizer state; all others start afresh. Without a judgement everything goes
        back to the origin.
        """
        self._optimizer.ignore_schedule = False
        if self._scheduler is not None:
            self._scheduler.load_state_dict(self._schedule)
            for group, multiplier in zip(self._optimizer.param_groups, self._multipliers, strict=True):
                group["lr"] = multiplier
        finalists = self.finalists if judge else []
        for family in {candidate.family for candidate in self._optimizer.candidates}:
            self._optimizer.reset_family(family)
        # Before the parameters: an optimizer with an iterate of its own changes them when another takes over.
        for branch in reversed(finalists):
            self._take_over(branch)
        if not finalists:
            self._origin.restore()
            return
        finalists[0].snapshot.restore()
        loss = float(self._probe().mean())
        for count in range(len(finalists), 1, -1):
            average = ParameterAverage(self._tensors)
            for branch in finalists[:count]:
                average.add(branch.snapshot)
            average.restore()
            average.reset()
            if float(self._probe().mean()) <= loss:
                return
        finalists[0].snapshot.restore()

    def _enter(self, branch: Branch) -> None:
        self._take_over(branch)
        branch.snapshot.restore()
        self._drop(branch)
        self._average.reset()

    def _take_over(self, branch: Branch) -> None:
        optimizer = self._optimizer
        optimizer.activate(branch.candidate)
        state = None if branch.family_state is None else branch.family_state.take()
        branch.family_state = None
        optimizer.restore_family(optimizer.active.family, state)
        if state is not None:
            # Another candidate of the family may have stepped since, with other slots.
            optimizer.last_used[optimizer.active.family] = branch.candidate

    def _keep(self, branch: Branch) -> None:
        storage = self._optimizer.storage
        branch.snapshot = Snapshot(self._tensors, storage=storage)
        state = self._optimizer.release_family(self._optimizer.active.family)
        branch.family_state = None if state is None else storage.put(state)

    def _drop(self, branch: Branch) -> None:
        branch.snapshot, branch.family_state = self._origin, None

    def _leave(self, branch: Branch) -> None:
        self._keep(branch)
        self._average.restore()
        self._average.reset()
        losses = self._probe()
        branch.snapshot.restore()
        last = self._probe()
        losses = last if last.mean() > losses.mean() else losses
        branch.loss = float(losses.mean())
        branch.alive = not self._is_broken(branch.loss, self.origin_loss)
        if branch.alive and math.isfinite(self.origin_loss):
            changes = losses - self._origin_losses
            branch.change = float(changes.mean())
            branch.error = float(changes.std() / math.sqrt(len(changes)))
        else:
            self._drop(branch)

    def _promote(self, places: int) -> list[Branch]:
        entrants = [branch for branch in self._field if branch.alive]
        errors = sorted(branch.error for branch in entrants)
        least = errors[int(len(errors) * _IDLE_SHARE)] if errors else 0.0
        idle = {
            branch.candidate: branch.error < least and branch.change > -_SIGNIFICANT * branch.error
            for branch in entrants
        }
        first = self.plan.entrants[0]

        def order(branch: Branch) -> tuple[bool, bool, float]:
            return branch.candidate != first, idle[branch.candidate], branch.loss

        return sorted(entrants, key=order)[:places]
