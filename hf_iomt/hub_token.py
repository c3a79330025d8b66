"""A token that is not written to disk."""

from __future__ import annotations

from typing import Any


class HubToken(str):
    """
    A token that is `None` where it is pickled.

    Trainer pickles its arguments into `training_args.bin` beside every model it saves, and pushes that file: whoever
    can read the repository could read the token. A process that is handed pickled arguments has to log in by itself.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def __copy__(self) -> HubToken:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HubToken:
        return self
