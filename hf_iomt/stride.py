"""How far candidates move the parameters: one scale for the learning rates of all families."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from .optim import Candidate, InterleavedOptimizer, Snapshot, count_broken, local_part
from .precision import widen, widest

# Steps with one and the same gradient, of which the last is measured: momentum has built up by then.
_STEPS = 16
# Of the unit, see `choose_entrants`.
_LEAST = 0.1
_TRUSTED = 0.3
_MOST = 2.0
# So many candidates stay at least.
_FEWEST = 2
# Families whose steps are proportional to the learning rate: one candidate tells of the others.
_PROPORTIONAL = frozenset(
    ("sgd", "sgdm", "nag", "asgd", "adagrad", "rmsprop", "adam", "adamw", "adamax", "nadam", "nadamw", "radam")
)
# Families that begin as Adam, and whose own steps with one and the same gradient would tell something else: SWATS
# would switch at once.
_LIKE_ADAM = frozenset(("swats",))


@torch.no_grad()
def measure_strides(
    optimizer: InterleavedOptimizer,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
) -> list[float] | None:
    """
    The stride of each candidate at the present gradients, in the learning rate of AdamW.

    A candidate makes 16 steps from the present parameters, all with the gradients that these have now. Its stride is
    the root mean square of what the last one changes, over the coordinates that have gradients: for AdamW that is the
    learning rate, for SGD it is the learning rate times the gradient's root mean square, and with momentum 0.9 8.1
    times that. Where steps are proportional to the learning rate, one of the candidates that differ in nothing else is
    measured: one of middling rate, for tiny steps are lost in rounding, and huge ones overflow.

    Parameters and gradients are afterwards what they were, whatever happens, and no family has state.

    Args:
        optimizer ([`~optim.InterleavedOptimizer`]): Gives the candidates.
        reduce (`Callable[[torch.Tensor], torch.Tensor]`, *optional*): Mean over the processes.

    Returns:
        One number, which may be infinite, for each candidate; `None` where no gradient says anything.
    """
    parameters = [item for group in optimizer.param_groups for item in group["params"] if item.grad is not None]
    gradients = [item.grad for item in parameters]
    if not gradients or float(reduce(count_broken(gradients))) > 0:
        return None
    moving = float(reduce(_sum(gradients, lambda values: (values != 0).sum())))
    if moving == 0:
        return None
    start, kept = (Snapshot(items, storage=optimizer.storage) for items in (parameters, gradients))

    def measure(index: int) -> float:
        family = optimizer.candidates[index].family
        # It may have state of a training before.
        optimizer.reset_family(family)
        if family in _LIKE_ADAM:
            return optimizer.candidates[index].learning_rate
        optimizer.activate(index)
        try:
            for _ in range(_STEPS - 1):
                optimizer.step()
                # Some optimizers calculate in them.
                kept.restore()
            moved = [local_part(item).clone() for item in parameters]
            optimizer.step()
            for item, before in zip(parameters, moved, strict=True):
                before.sub_(local_part(item))
        finally:
            optimizer.reset_family(family)
            start.restore()
            kept.restore()
        total = float(reduce(_sum(moved, lambda values: widen(values).square().sum())))
        return math.sqrt(total / moving)

    active, used, last = optimizer.active_index, dict(optimizer.last_used), optimizer.last_learning_rate
    damping = optimizer.damping
    # Of a training before, perhaps: what is measured are the candidates' own rates.
    optimizer.ignore_schedule, optimizer.damping = True, 1.0
    strides = [0.0] * len(optimizer.candidates)
    try:
        for alike in _groups(optimizer.candidates):
            middle = len(alike) // 2
            found, rate = math.nan, 1.0
            for index in sorted(alike, key=lambda item: abs(alike.index(item) - middle)):
                found, rate = measure(index), optimizer.candidates[index].learning_rate
                if math.isfinite(found) and found > 0:
                    break
            for index in alike:
                stride = found / rate * optimizer.candidates[index].learning_rate
                strides[index] = stride if math.isfinite(stride) else math.inf
    finally:
        optimizer.ignore_schedule, optimizer.damping = False, damping
        optimizer.activate(active)
        optimizer.last_used, optimizer.last_learning_rate = used, last
    return strides


def _groups(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Indices of the candidates of which one tells of the others, each group in the order of the learning rates."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, candidate in enumerate(candidates):
        rate = ("lr",) if candidate.family in _PROPORTIONAL else ()
        rest = (candidate.family, *(item for item in candidate.hyperparameters if item[0] not in rate))
        groups.setdefault(rest, []).append(index)
    return [sorted(group, key=lambda index: candidates[index].learning_rate) for group in groups.values()]


def choose_entrants(strides: Sequence[float], unit: float) -> list[int]:
    """
    The candidates whose strides are worth a try: from a tenth of the unit to twice as much.

    Where fewer than two are, the two that are nearest to that. The first of them is the one that is trusted most: the
    first of all if its stride is at least 0.3 times the unit, else the one nearest to 0.77 times it, by factors, the
    middle of what the first may be.

    Args:
        strides (`Sequence[float]`): Strides of all candidates, see `measure_strides`.
        unit (`float`): The learning rate for AdamW that a range test has found.

    Returns:
        Indices of the candidates.
    """
    least, trusted, most = (math.log(factor * unit) for factor in (_LEAST, _TRUSTED, _MOST))
    places = [math.log(stride) if stride > 0 else -math.inf for stride in strides]
    outside = [max(least - place, place - most, 0.0) for place in places]
    count = max(outside.count(0.0), min(_FEWEST, len(strides)))
    staying = sorted(sorted(range(len(strides)), key=outside.__getitem__)[:count])
    if not trusted <= places[0] <= most:
        first = min(staying, key=lambda index: abs(places[index] - (trusted + most) / 2))
        staying.remove(first)
        staying.insert(0, first)
    return staying


def _sum(tensors: Sequence[torch.Tensor], measure: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The sum of a measure over what this process holds of some tensors."""
    device = tensors[0].device
    return torch.stack([measure(local_part(item)).to(device, widest(device)) for item in tensors]).sum()
