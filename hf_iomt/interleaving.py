"""The loop of Algorithm 1 around an optimizer: race, cycles, scores, rollback. The one place where the parts meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .optim import InterleavedOptimizer, ParameterAverage, Snapshot
from .race import Race, RacePlan
from .selection import Choice, CycleRecord, ParameterProjection, Selector, as_dictionaries, score
from .standing import Standing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InterleavingSettings:
    """Settings of the loop; [`IOMTTrainingArguments`] documents each under the same name with the prefix `iomt_`."""

    switch_steps: int = 25
    alpha: float = 0.1
    score: Literal["losses", "trend", "probe"] = "losses"
    rollback: bool = False
    patience: int = 0


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
        reduce (`Callable[[torch.Tensor], torch.Tensor]`, *optional*): Averages a tensor over the ranks.
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
        reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
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
        self._probe = probe
        self._race_probe = race_probe or probe
        self._plan = race
        self._reduce = reduce or (lambda losses: losses)
        self._scheduler = scheduler
        self._step = first_step
        self._race: Race | None = None
        self._running = False
        self._cycle_steps = 0
        self._losses: list[torch.Tensor] = []
        self._state = projection()
        self._tail = ParameterAverage(tensors)
        self._start: Snapshot | None = None
        self._rolled_back = False
        self._switched = False
        # Of losses as `_cycle_loss` gives them.
        self._standing = Standing()
        self._best: Snapshot | None = None

    @property
    def racing(self) -> bool:
        """Whether the race is still to be run or on."""
        return self._plan is not None

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary per cycle, see [`~selection.CycleRecord`]."""
        return as_dictionaries(self.records)

    def begin(self) -> None:
        """Measure the initial parameters and put the first entrant of the race on the track. Before the first step."""
        if self._plan is not None and self._race_probe is not None:
            self._race = self._make_race(self._plan)
            self._standing.initial = self._race.origin_loss
            self._record(Choice(self._race.current.candidate, "race"), seconds=0.0)
        elif self.settings.score == "probe":
            self._standing.initial = self._standing.accepted = self._probe_loss()
            self._keep_best(self._standing.initial)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, between two steps, in plain values and tensors."""
        return {
            "records": self.history,
            "step": self._step,
            "cycle_steps": self._cycle_steps,
            # Means over the ranks, because the file is the same for all.
            "losses": self._read_losses() if self._losses else [],
            "parameter_state": torch.from_numpy(self._state.copy()),
            "tail": self._tail.state_dict(),
            "start": None if self._start is None else self._start.values,
            "best": None if self._best is None else self._best.values,
            "flags": [self._running, self._rolled_back, self._switched],
            "standing": asdict(self._standing),
            "race": None if self._race is None else self._race.state_dict(),
            "selector": self.selector.state_dict(),
            "last_used": dict(self.optimizer.last_used),
            "last_learning_rate": self.optimizer.last_learning_rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, instead of `begin`, where `state_dict` was called; model, optimizer and scheduler must be there."""
        self.records = [CycleRecord(**record) for record in state["records"]]
        self._step, self._cycle_steps = state["step"], state["cycle_steps"]
        self._losses = list(torch.tensor(state["losses"], dtype=torch.float64, device=self._tensors[0].device))
        self._state = state["parameter_state"].numpy()
        self._tail.load_state_dict(state["tail"])
        self._start, self._best = (
            None if state[name] is None else Snapshot.load(self._tensors, state[name], self.optimizer.storage)
            for name in ("start", "best")
        )
        self._running, self._rolled_back, self._switched = state["flags"]
        self._standing = Standing(**state["standing"])
        self.selector.load_state_dict(state["selector"])
        self.optimizer.last_used = dict(state["last_used"])
        self.optimizer.last_learning_rate = state["last_learning_rate"]
        race = state["race"]
        self._plan = None if race is None else RacePlan(**{name: tuple(item) for name, item in race["plan"].items()})
        self._race = None if self._plan is None else self._make_race(self._plan, race)

    def after_backward(self, loss: torch.Tensor) -> None:
        """
        Take the loss of this step, and where a cycle has ended score it and choose the candidate that steps next.

        Args:
            loss (`torch.Tensor`, a scalar on any device): Mean training loss of the step, measured before the update.
        """
        if self._race is not None:
            return
        if self._running and self._cycle_steps < self.settings.switch_steps:
            self._losses.append(loss)
            return
        began = time.perf_counter()
        if self._running:
            self._losses.append(loss)
            self._score()
        self._state = self._projection()
        choice = self.selector.choose(self._state)
        self._switched = choice.candidate != self.optimizer.active_index
        self.optimizer.activate(choice.candidate)
        self._running, self._cycle_steps, self._rolled_back = True, 0, False
        # The old one goes first, so that there are never two.
        self._losses, self._start = [loss], None
        if self.settings.rollback:
            self._start = self._snapshot()
        self._record(choice, time.perf_counter() - began)

    def after_step(self) -> None:
        """Count a step that was made; at the end of a cycle judge it, and undo it where it did damage."""
        self.records[-1].last_step = self._step
        self._step += 1
        self._cycle_steps += 1
        if self._race is not None:
            self._after_race_step(self._race)
            return
        # The second half of a cycle: its first half still shows what the cycle before did.
        if self.settings.score == "probe" and self._cycle_steps > self.settings.switch_steps // 2:
            self._tail.add()
        if self._cycle_steps == self.settings.switch_steps:
            self._judge()

    def finish(self) -> None:
        """End the last cycle, or a race that training stopped in, and leave the model in its best known state."""
        if self._race is not None:
            self._race.after_stop()
            self._settle(self._race)
        elif self._running and 0 < self._cycle_steps < self.settings.switch_steps and self._probe is not None:
            # The losses do not show yet what its last step did; the probe does.
            self._undo(confirm=True)
        if self.records and self.records[-1].first_step == self._step:
            # Training stopped before the first step of the cycle.
            self.records.pop()
        self._running = False

    def metrics(self) -> dict[str, float]:
        """The present decision as numbers, for loggers."""
        if not self.records:
            return {}
        scored = next((record for record in reversed(self.records) if record.score is not None), None)
        record = self.records[-1]
        values = {
            "iomt/candidate": float(self.optimizer.active_index),
            "iomt/learning_rate": self.optimizer.last_learning_rate,
            "iomt/switch": float(self._switched),
            "iomt/selection_seconds": sum(item.seconds for item in self.records),
            "iomt/score": None if scored is None else scored.score,
            "iomt/predicted_score": record.predicted_mean,
        }
        return {name: value for name, value in values.items() if value is not None}

    def _probe_loss(self) -> float:
        assert self._probe is not None
        return float(self._probe().mean())

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
                seconds=seconds,
            )
        )

    def _score(self) -> None:
        """Eq. 2 of the cycle that has ended, for the selector and the history."""
        if self._rolled_back:
            result = -1.0
        elif self.settings.score == "losses":
            # The one moment of a cycle that waits for the device.
            result = score(self._read_losses(), self.settings.alpha)
        else:
            result = score([self._standing.accepted, self._standing.cycle_end], self.settings.alpha)
        if not self._rolled_back:
            self._standing.accepted = self._standing.cycle_end
        self.records[-1].score = result
        self.selector.observe(self.optimizer.active_index, self._state, result)

    def _read_losses(self) -> list[float]:
        losses: list[float] = self._reduce(torch.stack([item.double() for item in self._losses])).tolist()
        return losses

    def _cycle_loss(self) -> float:
        """
        One loss for the cycle that has ended.

        With scores by the probe, the probe at the mean of the parameters over the second half of the cycle: the last
        iterate flatters small learning rates, which lower the noise at once. Else the mean of the training losses over
        that half, which is as sure as a probe of as many samples, and costs nothing.
        """
        if self.settings.score != "probe":
            return self._standing.end_of(self._read_losses())
        last = self._snapshot()
        self._tail.restore()
        self._tail.reset()
        loss = self._probe_loss()
        last.restore()
        return loss

    def _judge(self) -> None:
        """Measure the end of a cycle; roll back where it is broken, backtrack where it has been bad for long."""
        if self.settings.score == "losses" and not self.settings.rollback:
            return
        began, standing = time.perf_counter(), self._standing
        loss = standing.cycle_end = self._cycle_loss()
        if self.settings.rollback:
            at_best, patience = standing.charitable_end, self.settings.patience
            degraded = standing.is_broken(at_best, standing.best, 0.5)
            standing.degraded_cycles = standing.degraded_cycles + 1 if degraded else 0
            if standing.is_broken(at_best, standing.best):
                self._undo(confirm=self.settings.score != "probe")
            elif patience and standing.degraded_cycles >= patience and self._best is not None:
                logger.info("No cycle of the last %d came near the best loss: going back to it.", patience)
                self._roll_back(self._best, {candidate.family for candidate in self.optimizer.candidates})
                standing.accepted, standing.degraded_cycles = standing.best, 0
            else:
                self._keep_best(loss)
        self.records[-1].seconds += time.perf_counter() - began

    def _undo(self, confirm: bool) -> None:
        """
        Undo the cycle; to confirm, only where the probe, if there is one, is clearly worse at its end than at its
        start.

        Training losses alone may mislead: a sampler that groups by length makes them rise and fall by itself.
        """
        if not self.settings.rollback or self._start is None:
            return
        if confirm and self._probe is not None:
            end, end_loss = self._snapshot(), self._probe_loss()
            self._start.restore()
            if not self._standing.is_broken(end_loss, self._probe_loss()):
                end.restore()
                return
        self._roll_back(self._start, [self.optimizer.active.family])

    def _roll_back(self, snapshot: Snapshot, families: Sequence[str] | set[str]) -> None:
        snapshot.restore()
        # Their moments belong to parameters that are no more.
        for family in families:
            self.optimizer.reset_family(family)
        self._rolled_back = self.records[-1].rolled_back = True
        self.records[-1].score = -1.0
        logger.info("Rolled back the cycle of %s.", self.records[-1].candidate)

    def _keep_best(self, loss: float) -> None:
        if loss < self._standing.best:
            self._standing.best = loss
            if self.settings.rollback and self.settings.patience:
                self._best = None
                self._best = self._snapshot()

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._tensors, storage=self.optimizer.storage)

    def _make_race(self, plan: RacePlan, state: Mapping[str, Any] | None = None) -> Race:
        assert self._race_probe is not None
        optimizer, is_broken = self.optimizer, self._standing.is_broken
        return Race(plan, optimizer, self._tensors, self._race_probe, is_broken, self._scheduler, state)

    def _after_race_step(self, race: Race) -> None:
        began = time.perf_counter()
        branch = race.after_step()
        if branch is None:
            return
        record = self.records[-1]
        record.score = score([race.origin_loss, branch.loss], self.settings.alpha)
        record.rolled_back = not branch.alive
        record.seconds += time.perf_counter() - began
        if race.finished:
            self._settle(race)
        else:
            self._record(Choice(race.current.candidate, "race"), seconds=0.0)

    def _settle(self, race: Race) -> None:
        """Go on from the race's result; the finalists are what is interleaved from now on."""
        # Where every entrant did damage, all candidates stay, and rollback keeps watch.
        finalists = race.finalists
        race.settle()
        if self.settings.score == "probe":
            self._standing.accepted = self._probe_loss()
            self._keep_best(self._standing.accepted)
        if finalists:
            self.selector.restrict([branch.candidate for branch in finalists])
        for branch in finalists:
            result = score([race.origin_loss, branch.loss], self.settings.alpha)
            self.selector.observe(branch.candidate, self._state, result)
        self._race = self._plan = None
        logger.info(
            "The race is over after %d steps; going on with %s.",
            self._step - 1,
            "; ".join(self.optimizer.candidates[branch.candidate].name for branch in finalists),
        )
