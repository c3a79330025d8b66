"""The state of optimizers: slots by parameter, of one family or of several in one dictionary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

# Separates a family from the name of its slot or group entry in a state dict: "adam/exp_avg".
SEPARATOR = "/"

# Single numbers that torch's optimizers and ours keep with each parameter and calculate with on the CPU.
_COUNTERS = ("step", "mu_product")


class Slots(defaultdict[torch.Tensor, dict[str, Any]]):
    """True although it may be empty: torch.distributed.checkpoint would make a step to get some slots."""

    def __bool__(self) -> bool:
        return True


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


def load(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """
    Load a state, and keep torch's counters in the CPU's memory and in their type, where steps have them.

    torch casts and moves all slots but the one called step, Trainer moves all where there are several processes, and
    each step would then wait for the device to read them, one by one.

    Args:
        optimizer (`torch.optim.Optimizer`): Loads it.
        state_dict (`dict`): What its `state_dict` returned.
    """
    optimizer.load_state_dict(state_dict)
    known = type(optimizer).__module__.partition(".")[0] in ("torch", "hf_iomt")
    if not known or isinstance(optimizer, torch.optim.ASGD):
        return
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        if group.get("fused") or group.get("capturable"):
            continue
        for parameter, number in zip(group["params"], saved["params"], strict=True):
            for name, slot in state_dict["state"].get(number, {}).items():
                if name in _COUNTERS and isinstance(slot, torch.Tensor):
                    optimizer.state[parameter][name] = slot.to("cpu", copy=True)


def place(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """
    Let a new optimizer load a state, because only its class knows which slots belong on its parameters' devices.

    Args:
        optimizer (`torch.optim.Optimizer`): One over the same groups of parameters.
        state (`Mapping[str, Any]`): `"state"`, slots by the parameter's number, and `"groups"`, their entries without
            the parameters.

    Returns:
        `dict` of the same form.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = iter(range(len(parameters)))
    groups = [
        {**saved, "params": [next(numbers) for _ in group["params"]]}
        for group, saved in zip(optimizer.param_groups, state["groups"], strict=True)
    ]
    load(optimizer, {"state": state["state"], "param_groups": groups})
    placed = {number: optimizer.state[item] for number, item in enumerate(parameters) if item in optimizer.state}
    return {"state": placed, "groups": state["groups"]}
