"""Copies of what training changes: for racing, rollback and backtracking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .storage import IN_PLACE, Storage


def trainable_tensors(model: nn.Module) -> list[torch.Tensor]:
    """
    What training changes in a model: its trainable parameters, and the running statistics of its normalisation
    layers. Frozen weights are left out, so under LoRA this is small.
    """
    tensors: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            tensors.extend(module.buffers(recurse=False))
    return tensors


def local_part(tensor: Any) -> torch.Tensor:
    """What this process holds of a sharded tensor (`DTensor`), else the tensor; in any case the same memory."""
    part: torch.Tensor = tensor.detach()
    # Told without importing torch.distributed, which not every build has.
    return part.to_local() if hasattr(part, "to_local") else part


def count_broken(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    How many of some tensors have entries that are no finite numbers, as a scalar on the device of the first. Of
    sharded ones this process's part is looked at.
    """
    broken = [~local_part(tensor).isfinite().all() for tensor in tensors]
    return torch.stack([item.to(tensors[0].device, torch.float32) for item in broken]).sum()


class Snapshot:
    """
    Values of some tensors at one moment, of sharded ones this process's part.

    Args:
        tensors (`Sequence[torch.Tensor]`): The tensors, which `restore` writes into.
        values (`Sequence[torch.Tensor]`, *optional*): Values to keep, not copied; a copy of the present ones if left
            out.
        storage ([`Storage`], *optional*): Where to keep them; on their devices if left out.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor] | None = None,
        storage: Storage = IN_PLACE,
    ) -> None:
        self._tensors = tensors
        self._kept = storage.put(list(map(local_part, tensors) if values is None else values), copy=values is None)

    @classmethod
    def load(
        cls, tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor], storage: Storage = IN_PLACE
    ) -> Snapshot:
        """A snapshot with values that were saved, on the devices of the tensors."""
        return cls(tensors, [value.to(tensor.device) for tensor, value in zip(tensors, values, strict=True)], storage)

    @property
    def values(self) -> list[torch.Tensor]:
        """The values, where they are kept: they must not be changed."""
        return list(self)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._kept)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the values back, in place."""
        for tensor, value in zip(self._tensors, self, strict=True):
            local_part(tensor).copy_(value)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values with the present ones, a tensor at a time."""
        for number, tensor in enumerate(self._tensors):
            present = local_part(tensor).clone()
            local_part(tensor).copy_(self._kept.exchange(number, present))


class ParameterAverage:
    """
    Mean of some tensors over several moments. Integer tensors, such as counters, keep their first value.

    Args:
        tensors (`Sequence[torch.Tensor]`): The tensors to follow.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        self._sums: list[torch.Tensor] = []
        self.count = 0

    @torch.no_grad()
    def add(self, snapshot: Snapshot | None = None) -> None:
        """Add the present values, or those of a snapshot."""
        values = map(local_part, self._tensors) if snapshot is None else snapshot
        if self.count == 0:
            # Sums of many bfloat16 values would lose their last bits.
            self._sums = [
                value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
                if value.is_floating_point()
                else value.clone()
                for value in values
            ]
        else:
            for total, value in zip(self._sums, values, strict=True):
                if total.is_floating_point():
                    total.add_(value)
        self.count += 1

    def reset(self) -> None:
        """Forget what was added."""
        self._sums, self.count = [], 0

    def state_dict(self) -> dict[str, Any]:
        """What was added so far."""
        return {"sums": list(self._sums), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned, on the devices of the tensors."""
        self.count = state["count"]
        # Copied, because they are added to in place.
        tensors = self._tensors if self.count else []
        self._sums = [total.to(item.device, copy=True) for total, item in zip(state["sums"], tensors, strict=True)]

    @torch.no_grad()
    def restore(self) -> None:
        """
        Write the mean into the tensors, one at a time.

        Raises:
            ValueError: Nothing was added.
        """
        for tensor, mean in zip(self._tensors, self._means(), strict=True):
            local_part(tensor).copy_(mean)

    def _means(self) -> Iterator[torch.Tensor]:
        if self.count == 0:
            raise ValueError("There is nothing to average: call `add` first.")
        for total in self._sums:
            yield total / self.count if total.is_floating_point() else total.clone()
