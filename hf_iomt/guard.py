"""The guard over the cycles: measures how each ended, undoes what did damage, and keeps the best parameters."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .interleaving_settings import InterleavingSettings
from .optim import InterleavedOptimizer, ParameterAverage, Snapshot, count_broken
from .precision import widen
from .standing import Standing


class Guard:
    """
    Judges cycles, by a probe or by the training losses, and rolls back those that did damage.

    Args:
        optimizer ([`InterleavedOptimizer`]): Its families forget their moments where parameters are put back.
        tensors (`Sequence[torch.Tensor]`): What training changes.
        settings ([`InterleavingSettings`]): Whether cycles are undone at all and after how many the best parameters
            come back; with scores by the probe it measures the cycles, else their training losses do.
        reduce (`Callable[[torch.Tensor], torch.Tensor]`): Averages a tensor over the ranks.
        probe (`Callable[[], NDArray]`, *optional*): Losses of shape (groups,) on fixed training samples.

    Attributes:
        standing ([`Standing`]): Losses to compare with.
        rolled_back (`bool`): Whether the cycle that has ended was undone.
        reason (`str`): Why, in words.
    """

    def __init__(
        self,
        optimizer: InterleavedOptimizer,
        tensors: Sequence[torch.Tensor],
        settings: InterleavingSettings,
        reduce: Callable[[torch.Tensor], torch.Tensor],
        probe: Callable[[], NDArray[np.float64]] | None = None,
    ) -> None:
        self.standing = Standing()
        self.rolled_back = False
        self.reason = ""
        self._restarted = False
        self._optimizer = optimizer
        self._tensors = tensors
        self._rollback = settings.rollback
        self._patience = settings.patience
        self._by_probe = settings.score == "probe"
        self._reduce = reduce
        self._probe = probe
        self._tail = ParameterAverage(tensors)
        self._start: Snapshot | None = None
        self._best: Snapshot | None = None

    def state_dict(self) -> dict[str, Any]:
        """What the judgement of later cycles depends on, in plain values and tensors."""
        return {
            "tail": self._tail.state_dict(),
            "start": None if self._start is None else self._start.values,
            "best": None if self._best is None else self._best.values,
            "rolled_back": self.rolled_back,
            "restarted": self._restarted,
            "standing": asdict(self.standing),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._tail.load_state_dict(state["tail"])
        self._start, self._best = (
            None if state[name] is None else Snapshot.load(self._tensors, state[name], self._optimizer.storage)
            for name in ("start", "best")
        )
        self.rolled_back, self._restarted = state["rolled_back"], state["restarted"]
        # A race holds on to it.
        vars(self.standing).update(state["standing"])

    def measure(self, first: bool = False) -> None:
        """Measure where training stands before a cycle, where cycles are measured by the probe."""
        if self._by_probe:
            self.standing.accepted = self._probe_loss()
            if first:
                self.standing.initial = self.standing.accepted
            self._keep_best(self.standing.accepted)

    def begin_cycle(self) -> None:
        """Remember the parameters that a cycle starts from."""
        self.rolled_back = self._restarted = False
        self._tail.reset()
        # First, so that there are never two.
        self._start = None
        if self._rollback:
            self._start = self._snapshot()

    def add_to_tail(self) -> None:
        """Take in a step of the second half of a cycle; the first half still shows the cycle before."""
        if self._by_probe:
            self._tail.add()

    def judge(self, losses: Callable[[], list[float]]) -> bool:
        """
        Measure the end of a cycle; roll back where it is broken, backtrack where it has been bad for long.

        Args:
            losses (`Callable`): Gives the cycle's training losses, averaged over ranks.

        Returns:
            Whether parameters were put back.
        """
        standing = self.standing
        # Training losses do not show the last step, nor parameters that the loss does not depend on.
        broken = self._rollback and self._has_broken_parameters()
        standing.cycle_end = math.inf if broken else self._measure_cycle(losses)
        if not self._rollback:
            return False
        at_best, patience = standing.charitable_end, self._patience
        degraded = standing.is_broken(at_best, standing.best, 0.5)
        standing.degraded_cycles = standing.degraded_cycles + 1 if degraded else 0
        if standing.is_broken(at_best, standing.best):
            ended = "it ended with " + _worse(standing.cycle_end, min(standing.best, standing.initial))
            self.reason = "it left parameters that are not finite" if broken else ended
            return self.undo(confirm=not self._by_probe and not broken)
        if patience and standing.degraded_cycles >= patience and self._best is not None:
            self.reason = (
                f"no cycle of the last {patience} came near the best loss, {standing.best:.4g}; going back to its "
                "parameters"
            )
            self._put_back(self._best, {candidate.family for candidate in self._optimizer.candidates})
            standing.accepted, standing.degraded_cycles = standing.best, 0
            return True
        return False

    def look_back(self, loss: torch.Tensor) -> bool:
        """Undo a cycle whose last step did damage: the loss of the step that follows is the first to show it."""
        if not self._rollback or self._by_probe or self.rolled_back or self._restarted:
            return False
        value = float(self._reduce(widen(loss)))
        # One loss may be large by itself: without a probe to confirm it only what is no number counts.
        sure = self._probe is not None or not math.isfinite(value)
        self.reason = "the step after it had " + _worse(value, min(self.standing.best, self.standing.initial))
        return sure and self.standing.is_broken(value, self.standing.best) and self.undo(confirm=True)

    def accept(self) -> None:
        """Take the end of a cycle, unless it was undone, for where training stands."""
        if self._restarted:
            self.standing.forget()
            self.measure()
        elif not self.rolled_back:
            self.standing.accepted = self.standing.cycle_end
            self._keep_best(self.standing.cycle_end)

    def restart(self) -> None:
        """Somebody else has put other parameters in place of those that the cycle led to: there is nothing to undo."""
        self._restarted, self._start, self._best = True, None, None

    def release(self) -> None:
        """Let go of the copies of the parameters: nothing is undone any more."""
        self._start = self._best = None
        self._tail.reset()

    def judge_unfinished(self) -> bool:
        """Undo a cycle that training stops in, or after, where the probe, which must be there for it, shows damage."""
        if self.rolled_back or self._probe is None:
            return False
        broken = self._has_broken_parameters()
        self.reason = "it left parameters that are not finite" if broken else "the probe was clearly worse at its end"
        return self.undo(confirm=not broken)

    def undo(self, confirm: bool) -> bool:
        """
        Undo the cycle; to confirm, only where the probe, if there is one, is clearly worse at its end than at its
        start.

        Training losses alone may mislead: a sampler that groups by length makes them rise and fall by itself.
        """
        if not self._rollback or self._start is None:
            return False
        if confirm and self._probe is not None:
            end_loss = self._probe_loss()
            # An exchange, because a copy of the end would take memory.
            self._start.swap()
            try:
                start_loss = self._probe_loss()
            finally:
                self._start.swap()
            if not self.standing.has_lost(start_loss, end_loss):
                return False
        self._put_back(self._start, [self._optimizer.active.family])
        return True

    def _has_broken_parameters(self) -> bool:
        return bool(self._reduce(count_broken(self._tensors)) > 0)

    def _probe_loss(self) -> float:
        assert self._probe is not None
        return float(self._probe().mean())

    def _measure_cycle(self, losses: Callable[[], list[float]]) -> float:
        """
        One loss for the cycle that has ended.

        By the probe, it is that at the mean of the parameters over the second half of the cycle: the last iterate
        flatters small learning rates, which lower the noise at once. Else the mean of the training losses over that
        half, which is as sure as a probe of as many samples, and costs nothing.
        """
        if not self._by_probe:
            return self._mean_of_second_half(losses())
        if self._tail.count == 0:
            # The cycle was lost before its second half.
            return math.inf
        last = self._snapshot()
        self._tail.restore()
        self._tail.reset()
        loss = self._probe_loss()
        last.restore()
        return loss

    def _mean_of_second_half(self, losses: list[float]) -> float:
        if not all(map(math.isfinite, losses)):
            return math.inf
        middle = len(losses) // 2
        start, tail = statistics.fmean(losses[: middle + 1]), losses[middle:]
        standing = self.standing
        if math.isinf(standing.initial):
            standing.initial, standing.spread = start, statistics.pstdev(losses[: middle + 1])
        standing.accepted = start if math.isinf(standing.accepted) else standing.accepted
        standing.cycle_error = statistics.pstdev(tail) / math.sqrt(len(tail))
        return statistics.fmean(tail)

    def _put_back(self, snapshot: Snapshot, families: Iterable[str]) -> None:
        snapshot.restore()
        # Their moments belong to parameters that are no more.
        for family in families:
            self._optimizer.reset_family(family)
        self.rolled_back = True

    def _keep_best(self, loss: float) -> None:
        if loss < self.standing.best:
            self.standing.best = loss
            if self._rollback and self._patience:
                self._best = None
                self._best = self._snapshot()

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._tensors, storage=self._optimizer.storage)


def _worse(loss: float, best: float) -> str:
    return f"a loss of {loss:.4g}" + (f", where the best was {best:.4g}" if math.isfinite(best) else "")
