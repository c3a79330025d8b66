"""The parameter state v: a few numbers that describe the trainable parameters at the start of a cycle."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.random_projection import SparseRandomProjection

Array = NDArray[np.float64]
Compression = Literal["pca", "rp", "umap", "none"]

# Components kept per tensor before the states visited so far are compressed together.
_PER_TENSOR = 8
_LAST_MATRICES = 6


def select_parameters(parameters: Iterable[tuple[str, torch.Tensor]], pattern: str | None = None) -> list[str]:
    """
    Choose which tensors the state describes.

    Without a pattern these are the LoRA matrices A and B where there are any, else the classifier with the last
    hidden layers: the last six trainable matrices, in the model's order.

    Args:
        parameters (`Iterable[tuple[str, torch.Tensor]]`): Names and tensors, in the model's order.
        pattern (`str`, *optional*): Regular expression that a name must contain.

    Raises:
        ValueError: The pattern matches no trainable parameter.
    """
    trainable = [(name, tensor) for name, tensor in parameters if tensor.requires_grad]
    if pattern is not None:
        selected = [name for name, _ in trainable if re.search(pattern, name)]
        if not selected:
            raise ValueError(
                f"No trainable parameter matches `iomt_state_parameters={pattern!r}`. "
                f"Their names look like {', '.join(name for name, _ in trainable[:3])}."
            )
        return selected
    adapters = [name for name, _ in trainable if re.search(r"lora_[AB]|lora_embedding_[AB]", name)]
    if adapters:
        return adapters
    matrices = [name for name, tensor in trainable if tensor.dim() > 1] or [name for name, _ in trainable]
    return matrices[-_LAST_MATRICES:]


class ParameterProjection:
    """
    A fixed sparse random projection of each selected tensor.

    It is linear, so the parts of a sharded tensor (`DTensor`) are projected where they are and summed: all processes
    get the projection of the whole.

    Args:
        parameters (`Sequence[tuple[str, torch.Tensor]]`): Names and tensors; the tensors are read at each call.
        seed (`int`): Seed of the projection. Each tensor's matrix depends on the seed and the tensor's name alone.
    """

    def __init__(self, parameters: Sequence[tuple[str, torch.Tensor]], seed: int) -> None:
        self._tensors: list[Any] = [tensor for _, tensor in parameters]
        self._entries = [
            _local_entries(tensor, *_sparse_projection(tensor.numel(), seed ^ zlib.crc32(name.encode())))
            for name, tensor in parameters
        ]

    @torch.no_grad()
    def __call__(self) -> Array:
        """Project the present values. Returns an array of shape (8 · number of tensors,), finite."""
        if not self._tensors:
            return np.zeros(0)
        parts = []
        tensors: list[Any] = [tensor.to_local() if _is_sharded(tensor) else tensor for tensor in self._tensors]
        for number, (tensor, (rows, columns, values)) in enumerate(zip(tensors, self._entries, strict=True)):
            if rows.device != tensor.device:
                rows, columns, values = (entry.to(tensor.device) for entry in (rows, columns, values))
                self._entries[number] = (rows, columns, values)
            picked = tensor.detach().reshape(-1)[columns].float() * values
            parts.append(torch.zeros(_PER_TENSOR, device=tensor.device).index_add_(0, rows, picked))
        projected = torch.stack([part.to(parts[0].device) for part in parts])
        sharded = [number for number, tensor in enumerate(self._tensors) if _is_sharded(tensor)]
        if sharded:
            whole = _sum_over_shards(projected[sharded], self._tensors[sharded[0]])
            # Shards may wait in the CPU's memory, while processes communicate from their devices.
            projected[sharded] = whole.to(projected.device)
        projected = projected.reshape(-1)
        return np.nan_to_num(projected.cpu().numpy().astype(np.float64), posinf=0.0, neginf=0.0)


def _sparse_projection(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row numbers, column numbers and values of an 8 × size matrix after Li et al., density 1/√size."""
    if size == 0:
        # The empty shard of a tensor that other ranks hold.
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing, torch.zeros(0)
    # An empty sparse matrix tells scikit-learn the shape without allocating `size` numbers.
    projection = SparseRandomProjection(min(_PER_TENSOR, size), random_state=seed % 2**32)
    # scikit-learn returns a dense matrix where the density is 1.
    matrix = coo_matrix(projection.fit(csr_matrix((1, size))).components_)
    return (
        torch.as_tensor(matrix.row.astype(np.int64)),
        torch.as_tensor(matrix.col.astype(np.int64)),
        torch.as_tensor(matrix.data.astype(np.float32)),
    )


def _is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a `DTensor`, told without importing torch.distributed where nothing is distributed."""
    return hasattr(tensor, "to_local")


def _local_entries(
    tensor: Any, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The entries whose columns are in this process's part of the tensor, with columns counted within the part."""
    if not _is_sharded(tensor):
        return rows, columns, values
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local, here = torch.zeros_like(columns), torch.ones_like(columns, dtype=torch.bool)
    for place, size, first in zip(torch.unravel_index(columns, tensor.shape), shape, offset, strict=True):
        here &= (place >= first) & (place < first + size)
        local = local * size + place - first
    return rows[here], local[here], values[here]


def _sum_over_shards(parts: torch.Tensor, tensor: Any) -> torch.Tensor:
    """The sum of the processes' parts, over the dimensions of the mesh that the tensor is sharded on."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    placements = [Partial() if placement.is_shard() else Replicate() for placement in tensor.placements]
    return DTensor.from_local(parts, tensor.device_mesh, placements).full_tensor()


def compress(states: Array, compression: Compression, components: int, seed: int = 0) -> Array:
    """
    Compress the states visited so far, together, to a few numbers each.

    - `pca`: the principal components of the states. Signs are fixed by scikit-learn's rule on the loadings, and all
      observations are compressed anew each time, so a component that turns over turns for all of them.
    - `rp`: a fixed dense random projection, without regard to the states.
    - `umap`: UMAP (needs the extra `umap`).
    - `none`: no parameter state; the surrogate sees the hyperparameters alone.

    Args:
        states (`Array` of shape (n, d)): Projected states.
        compression (`str`): One of the above.
        components (`int`): Numbers kept per state.
        seed (`int`, *optional*): Seed of `rp` and `umap`.

    Returns:
        `Array` of shape (n, k) with k ≤ components, the widest column of standard deviation 1.
    """
    count, dimensions = states.shape
    if compression == "none" or count < 2 or dimensions == 0:
        return np.zeros((count, 0))
    centred = states - states.mean(axis=0)
    if np.abs(centred).max() <= 1e-12 * np.abs(states).max():
        # Equal up to rounding: nothing to tell them apart by.
        return np.zeros((count, min(components, count, dimensions)))
    if compression == "rp":
        generator = np.random.default_rng(seed)
        embedded = centred @ generator.standard_normal((dimensions, components))
    elif compression == "pca":
        # Imported when first used: it takes memory, which the first steps may be short of.
        from sklearn.decomposition import PCA

        kept = min(components, count, dimensions)
        embedded = PCA(kept, svd_solver="full").fit_transform(centred)
    else:
        # UMAP needs more points than neighbours and components.
        if count <= components + 2:
            return np.zeros((count, 0))
        embedded = _umap()(
            n_components=components, n_neighbors=min(15, count - 1), random_state=seed, n_jobs=1
        ).fit_transform(centred)
    width = embedded.std(axis=0).max()
    return np.asarray(embedded / width if width > 0 else embedded, dtype=np.float64)


@functools.cache
def _umap() -> Any:
    from umap import UMAP

    return UMAP
