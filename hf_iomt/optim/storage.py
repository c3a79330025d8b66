"""Where copies lie while nobody uses them: where the tensors are, in the CPU's memory, or on disk."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal

import numpy as np
import torch

# So that a file can be mapped as any type of number.
_ALIGNMENT = 64

Place = Literal["none", "cpu", "disk"]


class Storage:
    """
    Keeps tensors, and nests of dictionaries and lists that hold tensors, until they are needed again.

    Files have no name: the operating system removes them with the last reference to what they hold, and when the
    process ends, however it ends. Every process has its own.

    Args:
        place (`str`, *optional*, defaults to `"none"`):
            `"none"` keeps tensors on their device, `"cpu"` in the CPU's memory, `"disk"` in files. Tensors that are
            not plain ones, such as sparse or distributed ones, stay on their device.
        folder (`str` or `os.PathLike`, *optional*):
            Where the files go, made if it is not there; the system's folder for temporary files if left out.

    Raises:
        ValueError: `place` is unknown.
    """

    def __init__(self, place: Place = "none", folder: str | os.PathLike[str] | None = None) -> None:
        if place not in ("none", "cpu", "disk"):
            raise ValueError(f"`place` must be 'none', 'cpu' or 'disk', but got {place!r}.")
        self.place = place
        self.folder = folder

    def put(self, value: Any, copy: bool = False) -> Kept:
        """
        Keep a value.

        Args:
            value (`Any`): Tensors in dictionaries, lists and tuples. Everything else in them is kept as it is.
            copy (`bool`, *optional*, defaults to `False`): Whether the caller goes on changing the tensors.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        if self.place == "disk":
            return self._write(value)

        def enter(tensor: torch.Tensor) -> _InMemory:
            source = tensor.detach()
            if _is_paged(tensor):
                return _InMemory(tensor, tensor.device)
            if self.place == "cpu" and _is_plain(source):
                return _InMemory(source.to("cpu", copy=copy), tensor.device)
            return _InMemory(source.clone() if copy else tensor, tensor.device)

        return Kept(_convert(value, torch.Tensor, enter))

    def _write(self, value: Any) -> Kept:
        if self.folder is not None:
            os.makedirs(self.folder, exist_ok=True)
        try:
            file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115

            def enter(tensor: torch.Tensor) -> _InFile | _InMemory:
                if _is_paged(tensor):
                    return _InMemory(tensor, tensor.device)
                if not _is_plain(tensor):
                    return _InMemory(tensor.detach().clone(), tensor.device)
                return _InFile(file, tensor.detach())

            kept = Kept(_convert(value, torch.Tensor, enter))
            file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot write to {self.folder or tempfile.gettempdir()}, where `iomt_offload='disk'` keeps copies of "
                f"the trainable parameters: {error.strerror}. Make room there, choose another `output_dir`, or set "
                "`iomt_offload` to 'cpu' or 'none'.",
            ) from error
        weakref.finalize(kept, file.close)
        return kept


# Keeps everything where it is.
IN_PLACE = Storage()


class Kept:
    """What a [`Storage`] keeps. Made by `Storage.put`."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def read(self) -> Any:
        """The value, its tensors where they lie (those on disk mapped into memory): they must not be changed."""
        return _convert(self._entries, (_InMemory, _InFile), lambda entry: entry.read())

    def take(self) -> Any:
        """The value with its tensors on their devices, for the caller to change. What was kept is spent."""
        entries, self._entries = self._entries, None
        return _convert(entries, (_InMemory, _InFile), lambda entry: entry.take())

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The tensors of a list as `read` gives them, one at a time, so that no more is in memory at once."""
        for entry in self._entries:
            yield entry.read()

    def exchange(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        """Keep a tensor of the same form in the place of one in a list. Returns the old one."""
        old: torch.Tensor = self._entries[number].exchange(tensor)
        return old

    def __reduce__(self) -> tuple[Any, ...]:
        # A file without a name cannot be copied or sent to another process.
        entries = _convert(self._entries, (_InMemory, _InFile), lambda entry: _InMemory(entry.read(), entry.device))
        return Kept, (entries,)


class _InMemory:
    def __init__(self, tensor: torch.Tensor, device: torch.device) -> None:
        self._tensor = tensor
        self.device = device

    def read(self) -> torch.Tensor:
        return self._tensor

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        old = self._tensor
        self._tensor = tensor.to(old.device)
        return old

    def take(self) -> torch.Tensor:
        return self._tensor.to(self.device) if _is_plain(self._tensor) else self._tensor


class _InFile:
    def __init__(self, file: IO[bytes], tensor: torch.Tensor) -> None:
        self.device = tensor.device
        # Type, shape and strides, as a clone would have them.
        self._like = torch.empty_like(tensor, device="meta")
        self._file = file
        self._offset = file.tell() + -file.tell() % _ALIGNMENT
        self._write(tensor)

    def read(self) -> torch.Tensor:
        like = self._like
        if like.numel() == 0:
            return torch.empty_like(like, device="cpu")
        size = like.numel() * like.element_size()
        # Copy on write, because torch warns of arrays that cannot be written.
        mapped = np.memmap(self._file, np.uint8, "c", self._offset, (size,))
        return torch.from_numpy(mapped).view(like.dtype).as_strided(like.shape, like.stride())

    def take(self) -> torch.Tensor:
        return self.read().to(self.device, copy=True)

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        old = self.read().clone()
        self._write(tensor)
        self._file.flush()
        return old

    def _write(self, tensor: torch.Tensor) -> None:
        if not tensor.is_cpu or tensor.stride() != self._like.stride():
            tensor = torch.empty_like(self._like, device="cpu").copy_(tensor)
        self._file.seek(self._offset)
        self._file.write(_flat(tensor).view(torch.uint8).numpy().data)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided


def _is_paged(tensor: torch.Tensor) -> bool:
    """Whether bitsandbytes lets the driver move it, which a view or a copy would not know of."""
    return bool(getattr(tensor, "is_paged", False))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor without gaps, in the order in which they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _convert(value: Any, kind: Any, function: Callable[[Any], Any]) -> Any:
    """A nest with `function` applied to whatever is of a kind."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: _convert(item, kind, function) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_convert(item, kind, function) for item in value)
    return value
