"""The learning-rate range test: how large the learning rates of this model, data and batch size are at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

RANGE_TEST_NAME = "iomt_range_test.json"

# Batches whose gradients are compared at the start, see `GradientNoise`, and at least so many steps for each factor of
# ten. Where there is no room for the first there may be for the second, else there is no test.
_PLANS = ((8, 4), (4, 3))
_MOST_PER_DECADE = 6
# The lowest rate as a share of the one that is usual for what is trained.
_LOWEST = 0.3
# Of the steps of the run.
_SHARE = 0.15
# The loss is clearly worse than its minimum so far where it has risen by this share of the start's loss ...
_RISEN_START = 0.1
# ... and this share of what had been gained. The second time ends the test: the first may be a single bad step, and
# after that a model that has forgotten everything may be no worse than it was at the start.
_RISEN_GAIN = 0.1
_RISES = 2
# Something has been learned where the loss has fallen by this share of the start's.
_LEARNED = 0.05
# A loss that no longer moves by this share of itself, after its lowest, is that of a model which has forgotten
# everything: its embeddings are all the same, say. Whatever the rate, it does not rise.
_DEAD = 1e-4
# The least share of signal that is believed. It is also what counts on a plateau, where the test learns nothing: there
# a few gradients may agree for a reason that is gone after some steps, such as the bias of a new classifier.
_LEAST_SIGNAL = 0.04
# The best rate falls with the length of a run, by a factor of ten for a thousand times the steps.
_SHORT_RUN = 300
_HORIZON = -1 / 3
# Two runs of one task find rates that differ by a factor of two or more where so few steps teach little. So the usual
# rate counts as well, in the geometric mean: as much as what is found where nothing is learned, and the less the more
# is, by the share of the loss that is left.
_USUAL_WEIGHT = 0.5


@dataclass(frozen=True)
class RangeTest:
    """
    What a range test has found.

    Args:
        learning_rate (`float`): The learning rate for AdamW and its like; the unit `x` of candidate lists.
        rates (`list[float]`): The learning rates of the steps that were made, ascending.
        losses (`list[float | None]`): The probe's loss before the first step and after each; `None` where it was not
            finite. One more than `rates`; empty where the gradients were enough.
        seconds (`float`): How long it took.
        signal (`float`, *optional*): Share of signal in the gradients at the start, see `GradientNoise`.
        gradients (`int`, *optional*): Batches whose gradients were taken before the steps, or in place of them.
        strides (`list[float | None]`, *optional*): The candidates' strides, see `stride.measure_strides`; `None` for
            those that are not finite. Empty where none were measured.
    """

    learning_rate: float
    rates: list[float] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    signal: float | None = None
    gradients: int = 0
    strides: list[float | None] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """Batches that it has read, each as large as that of an optimizer step."""
        return self.gradients + len(self.rates) + bool(self.strides)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RangeTest | None:
        """What was written as JSON; `None` where there is no such file, or something else in it."""
        try:
            found = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
            return found if 0 < found.learning_rate <= 1 else None
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class RangeTestPlan:
    """
    What a range test reads, and what it begins with.

    Args:
        usual (`float`): A learning rate that is usual for what is trained.
        gradients (`int`): Batches whose gradients are taken first.
        rates (`list[float]`): Learning rates of the steps, ascending; none where the gradients are enough.
        strides (`bool`, *optional*): Whether the candidates' strides are measured afterwards, at one more batch.
    """

    usual: float
    gradients: int
    rates: list[float]
    strides: bool = False

    @property
    def batches(self) -> int:
        """Batches at most, each as large as that of an optimizer step."""
        return self.gradients + len(self.rates) + self.strides


def plan_range_test(
    usual: float, highest: float, steps: int, strides: bool = False, linear: bool = False
) -> RangeTestPlan | None:
    """
    Learning rates from 0.3 times the usual to the highest by equal factors: 6 to a factor of ten, and 8 gradients;
    fewer where a run has few steps.

    Args:
        usual (`float`): A learning rate that is usual for what is trained.
        highest (`float`): The highest rate that is worth a try.
        steps (`int`): Steps of the whole run. The test reads at most 15 % as many batches.
        strides (`bool`, *optional*): Whether the candidates' strides are measured afterwards.
        linear (`bool`, *optional*): Whether what trains is a linear head, for which gradients are enough, see
            [`PolyakStep`].

    Returns:
        The plan; `None` where there is no room for a test.
    """
    lowest = usual * _LOWEST
    decades = math.log10(highest / lowest)
    for gradients, least in _PLANS:
        room = _SHARE * steps - gradients - strides
        if linear and room >= 0:
            return RangeTestPlan(usual, gradients, [], strides)
        per_decade = min(room / decades, _MOST_PER_DECADE)
        if per_decade >= least:
            rates = np.geomspace(lowest, highest, int(per_decade * decades))
            return RangeTestPlan(usual, gradients, [float(rate) for rate in rates], strides)
    return None


def run_range_test(
    plan: RangeTestPlan,
    step: Callable[[float], None],
    probe: Callable[[], float],
    keep: Callable[[], None] = lambda: None,
    signal: float | None = None,
    steps: int = _SHORT_RUN,
) -> RangeTest | None:
    """
    Train at rising learning rates until the loss has clearly risen twice, or no longer moves.

    After Smith, *Cyclical Learning Rates for Training Neural Networks* (2017). The last rate that did no harm is about
    the largest that gradients without noise could take; what comes out is that rate times the share of signal in the
    gradients (McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018). For more than 300 steps it falls
    with their third root (Bjorck et al., *Scaling Optimal LR Across Token Horizons*, 2024). Where a few steps
    teach little, what is usual counts as well.

    Args:
        plan ([`RangeTestPlan`]): The rates.
        step (`Callable[[float], None]`): Makes a training step at a learning rate.
        probe (`Callable[[], float]`): Loss on fixed samples that `step` does not train on.
        keep (`Callable`, *optional*): Called where the loss is the lowest so far, and something has been learned: on a
            plateau a lower loss is chance, and what large rates do to a model there is not always good.
        signal (`float`, *optional*): What `GradientNoise` has found before.
        steps (`int`, *optional*): Steps of the run that follows.

    Returns:
        What was found, or `None` where the loss was not finite, or risen, from the first step on.
    """
    tried: list[float] = []
    losses = [probe()]
    if not math.isfinite(losses[0]):
        return None
    lowest = harmless = rises = 0
    for rate in plan.rates:
        step(rate)
        tried.append(rate)
        losses.append(probe())
        if _has_risen(losses[-1], losses[0], losses[lowest]) or _is_dead(losses, lowest):
            rises += 1
            if rises == _RISES:
                break
            continue
        harmless = len(tried)
        if losses[-1] < losses[lowest]:
            lowest = len(tried)
            if _has_learned(losses, lowest):
                keep()
    if harmless == 0:
        return None
    share = max(signal or 0.0, _LEAST_SIGNAL) if _has_learned(losses, lowest) else _LEAST_SIGNAL
    found = tried[harmless - 1] * min(share, 1.0)
    weight = _weight_of_usual(losses[0], losses[lowest])
    found = found ** (1 - weight) * plan.usual**weight
    finite = [loss if math.isfinite(loss) else None for loss in losses]
    return RangeTest(for_steps(found, steps), tried, finite, signal=signal, gradients=plan.gradients)


def for_steps(learning_rate: float, steps: int) -> float:
    """The learning rate for a run of so many steps, with two digits: beyond 300 it falls with their third root."""
    return float(f"{learning_rate * max(steps / _SHORT_RUN, 1.0) ** _HORIZON:.2g}")


def _has_learned(losses: list[float], lowest: int) -> bool:
    return losses[0] - losses[lowest] > _LEARNED * abs(losses[0])


def _has_risen(loss: float, start: float, lowest: float) -> bool:
    return not loss <= lowest + _RISEN_START * abs(start) + _RISEN_GAIN * (start - lowest)


def _is_dead(losses: list[float], lowest: int) -> bool:
    """Whether the last step has changed nothing, after some that have worsened the loss."""
    worse = losses[-1] > losses[lowest] + _RISEN_GAIN / 2 * (losses[0] - losses[lowest])
    return _has_learned(losses, lowest) and worse and abs(losses[-1] - losses[-2]) < _DEAD * abs(losses[-1])


def _weight_of_usual(start: float, lowest: float) -> float:
    left = min(max(lowest / start, 0.0), 1.0) if start > 0 else 1.0
    return _USUAL_WEIGHT * left
