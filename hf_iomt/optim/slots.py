"""The state of optimizers: slots by parameter, of one family or of several in one dictionary."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

# Separates a family from the name of its slot or group entry in a state dict: "adam/exp_avg".
SEPARATOR = "/"


class Slots(defaultdict[torch.Tensor, dict[str, Any]]):
    """True although it may be empty: torch.distributed.checkpoint would make a step to get some slots."""

    def __bool__(self) -> bool:
        return True


def clone(value: Any) -> Any:
    """A deep copy of nested dictionaries, without the history of the tensors in them."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    return copy.deepcopy(value)


def extract(state_dict: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The part of an interleaved state dict that belongs to one family, in that family's own layout."""
    prefix = family + SEPARATOR
    state = {
        number: {slot[len(prefix) :]: value for slot, value in slots.items() if slot.startswith(prefix)}
        for number, slots in state_dict["state"].items()
    }
    groups = [
        {
            "params": group["params"],
            **{key[len(prefix) :]: value for key, value in group.items() if key.startswith(prefix)},
        }
        for group in state_dict["param_groups"]
    ]
    return {"state": {number: slots for number, slots in state.items() if slots}, "param_groups": groups}
