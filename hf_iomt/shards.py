"""Sharded parameters: forward passes on the side, and files in which each process keeps its own part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# Keys of the dictionary that stands for a sharded tensor.
_PART, _SHAPE, _STRIDE, _PLACEMENTS = "shard", "shape", "stride", "placements"


def reshard(model: nn.Module) -> None:
    """
    Free the whole parameters that FSDP2 keeps in its outermost module after a forward pass.

    It expects a backward pass to use them. Without one, the next forward pass would not see what was written into the
    sharded parameters meanwhile, and `model.parameters()` would give the wrong ones.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def pack(value: Any) -> Any:
    """A copy of nested lists and dictionaries with plain tensors only."""
    if isinstance(value, dict):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    if not hasattr(value, "to_local"):
        return value
    return {
        _PART: value.to_local(),
        _SHAPE: list(value.shape),
        _STRIDE: list(value.stride()),
        # None stands for a copy on every process.
        _PLACEMENTS: [placement.dim if placement.is_shard() else None for placement in value.placements],
    }


def unpack(value: Any, tensors: Iterable[torch.Tensor]) -> Any:
    """
    The inverse of `pack`.

    Args:
        value (`Any`): What `pack` returned, on any device.
        tensors (`Iterable[torch.Tensor]`): The model's parameters; sharded ones are on the mesh to use.
    """
    meshes = [tensor.device_mesh for tensor in tensors if hasattr(tensor, "device_mesh")]
    return _unpack(value, meshes[0]) if meshes else value


def _unpack(value: Any, mesh: Any) -> Any:
    from torch.distributed.tensor import DTensor, Replicate, Shard

    if isinstance(value, list):
        return [_unpack(item, mesh) for item in value]
    if not isinstance(value, dict):
        return value
    if _PART not in value:
        return {key: _unpack(item, mesh) for key, item in value.items()}
    return DTensor.from_local(
        value[_PART].to(mesh.device_type),
        mesh,
        [Replicate() if dimension is None else Shard(dimension) for dimension in value[_PLACEMENTS]],
        shape=torch.Size(value[_SHAPE]),
        stride=tuple(value[_STRIDE]),
    )
