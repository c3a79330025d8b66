"""One torch optimizer that holds an inner optimizer per family and steps with the active candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from .candidates import Candidate, parse_candidates
from .families import Family, get_family
from .slots import SEPARATOR, Slots, extract, load, place
from .snapshot import Snapshot
from .storage import IN_PLACE, Kept, Storage

# Stands for a sharded parameter without slots.
_NO_SLOT = f"{SEPARATOR}none"


class InterleavedOptimizer(torch.optim.Optimizer):
    """
    Interleaves candidates over one set of parameters.

    There is one inner torch optimizer per family, built when the family is first used; a candidate's hyperparameters
    λ are written into it when the candidate becomes active. So 15 candidates of 5 families need 5 sets of state.

    `param_groups` name every parameter once. Their `lr` is a multiplier, 1 unless a group asks for another: the
    learning rate of a step is the candidate's lr times the group's `lr`, and learning rate schedulers act on the
    multiplier. A group's `weight_decay` holds for candidates that do not set their own; a group with `decay=False`
    is never decayed.

    Args:
        params (`Iterable`): Parameters or parameter groups, as for any torch optimizer.
        candidates (`str` or `Sequence[Candidate]`): What can be activated; the first is active at the start.
        idle_state (`str`, *optional*, defaults to `"keep"`):
            What happens to a family's state (moments, counters) when another family takes over: `"keep"` or `"reset"`.
            Optimizers that keep an iterate of their own, such as schedule-free ones, are always reset.
        find_family (`Callable`, *optional*): Look-up of a family by name.
        storage ([`Storage`], *optional*):
            Where the state of families that are not active is kept; on the device of the parameters if left out.

    Attributes:
        ignore_schedule (`bool`): While true, schedulers have no effect: the groups' initial multipliers hold.
        damping (`float`): What all learning rates are multiplied by, 1 at first.
        takeover_steps (`int`): Steps over which the learning rate rises where a family takes over, 0 at first.
        rising (`int`): How many of these are left.
        last_learning_rate (`float`): Learning rate that the last step used in the first parameter group.
        last_used (`dict[str, int]`): By family, the index of its candidate that made the family's last step.

    Raises:
        ValueError: The candidate list is empty or unreadable, or `idle_state` is unknown.

    Example:

    ```python
    optimizer = InterleavedOptimizer(model.parameters(), "sgdm:lr=0.1; adam:lr=0.001")
    optimizer.activate(1)
    ```
    """

    def __init__(
        self,
        params: Iterable[Any],
        candidates: str | Sequence[Candidate],
        idle_state: Literal["keep", "reset"] = "keep",
        find_family: Callable[[str], Family] = get_family,
        storage: Storage = IN_PLACE,
    ) -> None:
        if isinstance(candidates, str):
            candidates = parse_candidates(candidates, find_family)
        if not candidates:
            raise ValueError("`candidates` is empty: give at least one.")
        if idle_state not in ("keep", "reset"):
            raise ValueError(f"`idle_state` must be 'keep' or 'reset', but got {idle_state!r}.")
        self.candidates: tuple[Candidate, ...] = tuple(candidates)
        self.idle_state = idle_state
        self.ignore_schedule = False
        self.damping = 1.0
        self.takeover_steps = self.rising = 0
        self.last_learning_rate = 0.0
        self._families = {candidate.family: find_family(candidate.family) for candidate in self.candidates}
        self._fallbacks = {name: family.fallbacks(self.candidates) for name, family in self._families.items()}
        self.storage = storage
        self._inner: dict[str, torch.optim.Optimizer] = {}
        # Slots by the parameter's number, of inner optimizers whose own state is empty meanwhile.
        self._idle: dict[str, Kept] = {}
        self.last_used: dict[str, int] = {}
        self._active = 0
        super().__init__(params, {"lr": 1.0, "weight_decay": 0.0, "decay": True, "candidate": self.active.name})

    @property
    def active(self) -> Candidate:
        """The candidate that the next step uses."""
        return self.candidates[self._active]

    @property
    def active_index(self) -> int:
        """Position of the active candidate in `candidates`."""
        return self._active

    @property
    def families(self) -> Mapping[str, Family]:
        """The candidates' families by name."""
        return self._families

    @property
    def learning_rate(self) -> float:
        """Learning rate of the active candidate in the first parameter group, once it has risen in full."""
        return self.active.learning_rate * self._multiplier(self.param_groups[0])

    def activate(self, index: int) -> None:
        """Make `candidates[index]` the one that steps from now on."""
        if not 0 <= index < len(self.candidates):
            raise IndexError(f"`0 <= index < {len(self.candidates)}` must hold, but got index={index}.")
        previous, family = self.active.family, self.candidates[index].family
        self._active = index
        for group in self.param_groups:
            group["candidate"] = self.active.name
        last = self.last_used.get(family)
        if last is not None and self._switches(self.candidates[last]) != self._switches(self.active):
            # RMSprop with momentum, say, needs a slot that RMSprop without it has not made.
            self.reset_family(family)
        if previous == family:
            return
        # The moments of a family that comes back are of other parameters, those of a new one of a single batch.
        self.rising = self.takeover_steps
        idle = self._inner.get(previous)
        if idle is not None and callable(getattr(idle, "eval", None)):
            idle.eval()  # type: ignore[attr-defined]
            del self._inner[previous]
        elif self.idle_state == "reset":
            self.reset_family(previous)
        elif idle is not None and self.storage.place != "none":
            self._put_away(previous, idle)
        self._fetch(family)

    def replace_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Other hyperparameters for as many candidates of the same families, before the first step."""
        self.candidates = tuple(candidates)
        self.activate(self._active)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as for any torch optimizer; all families step it from now on."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("base_lr", group.get("initial_lr", group["lr"]))
        group["candidate"] = self.active.name
        for inner in self._inner.values():
            inner.add_param_group({"params": group["params"]})

    def reset_family(self, family: str) -> None:
        """Forget the state of a family; it starts afresh when it is next used."""
        self._inner.pop(family, None)
        self._idle.pop(family, None)

    def release_family(self, family: str) -> dict[str, Any] | None:
        """
        Hand a family's state over, without a copy; the family forgets it.

        Returns:
            `dict` with `"state"` (slots by the parameter's number, as in `state_dict`) and `"groups"` (entries of the
            inner groups without the parameters), or `None` where the family has not been used.
        """
        self._fetch(family)
        inner = self._inner.get(family)
        self.reset_family(family)
        if inner is None:
            return None
        groups = [{key: value for key, value in group.items() if key != "params"} for group in inner.param_groups]
        return {"state": self._numbered(inner), "groups": groups}

    def restore_family(self, family: str, state: Mapping[str, Any] | None) -> None:
        """Put back what `release_family` returned: the caller gives it away."""
        self.reset_family(family)
        if state is None:
            return
        inner = self._family_optimizer(family)
        inner.state = self._by_parameter(state["state"])
        for group, saved in zip(inner.param_groups, state["groups"], strict=True):
            group.update(saved)

    def place_family(self, family: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """What `release_family` returned in another process, slots on the devices that the family's class wants."""
        return place(self._build(self._first(family)), state)

    def families_in_use(self) -> dict[str, int]:
        """The families that have state, each with the index of a candidate that has made or can make its steps."""
        return {name: self.last_used.get(name, self.candidates.index(self._first(name))) for name in self._inner}

    def make_slots(self, families: Mapping[str, int]) -> None:
        """
        Make slots with meaningless values, as torch does for an optimizer without state: a distributed checkpoint is
        read into slots that exist.

        Args:
            families (`Mapping[str, int]`): What `families_in_use` returned when the state was saved.
        """
        active, parameters = self._active, self._parameters()
        snapshot = Snapshot(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for family, self._active in families.items():
            inner = self._family_optimizer(family, synchronise=True)
            for group in inner.param_groups:
                group["lr"] = 0.0
            inner.step()
        self._active = active
        self.zero_grad()
        snapshot.restore()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step with the active candidate."""
        if not self.ignore_schedule:
            self.rising = max(self.rising - 1, 0)
        self.last_learning_rate = self.learning_rate * self._rise
        self.last_used[self.active.family] = self._active
        return self._family_optimizer(self.active.family, synchronise=True).step(closure)

    def train(self) -> None:
        """Put the active family in training mode where it has one (schedule-free optimizers)."""
        self._set_mode("train")

    def eval(self) -> None:
        """Put the active family in evaluation mode where it has one (schedule-free optimizers)."""
        self._set_mode("eval")

    @property
    def state(self) -> defaultdict[torch.Tensor, dict[str, Any]]:  # type: ignore[override]
        """All families' slots by parameter, under names such as `adam/exp_avg`. A view made anew at each access."""
        merged: defaultdict[torch.Tensor, dict[str, Any]] = Slots(dict)
        for family, inner in self._inner.items():
            kept = self._idle.get(family)
            for parameter, slots in (inner.state if kept is None else self._by_parameter(kept.read())).items():
                merged[parameter].update({f"{family}{SEPARATOR}{slot}": value for slot, value in slots.items()})
        return merged

    @state.setter
    def state(self, value: Mapping[Any, Any]) -> None:
        # The base class assigns an empty mapping in its constructor.
        if value:
            raise AttributeError("Set the state of an InterleavedOptimizer through load_state_dict.")

    def state_dict(self) -> dict[str, Any]:
        """
        The standard torch layout: `state` by parameter number and `param_groups`.

        Slots are named `family/slot`; entries of the inner groups (counters that some optimizers keep there) are
        named `family/entry` in the groups.
        """
        packed = super().state_dict()
        for family, inner in self._inner.items():
            for target, group in zip(packed["param_groups"], inner.param_groups, strict=True):
                target.update({f"{family}{SEPARATOR}{key}": value for key, value in group.items() if key != "params"})
        for number, parameter in enumerate(self._parameters()):
            if hasattr(parameter, "to_local") and number not in packed["state"]:
                # torch.distributed.checkpoint does not load parameters without slots, as under SGD.
                packed["state"][number] = {_NO_SLOT: torch.zeros(1, device=parameter.device)}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Restore what `state_dict` returned.

        Raises:
            ValueError: The state was not saved by an [`InterleavedOptimizer`], or names a candidate or family that
                this one does not have, or the parameter groups differ.
        """
        groups = state_dict["param_groups"]
        if not groups or "candidate" not in groups[0]:
            raise ValueError(
                "This state dict was not saved by an InterleavedOptimizer: its groups name no candidate. "
                "Resume with the trainer that wrote it, or start without the optimizer state."
            )
        names = [candidate.name for candidate in self.candidates]
        if groups[0]["candidate"] not in names:
            raise ValueError(
                f"The state was saved with the candidate {groups[0]['candidate']!r} active, which is not among the "
                f"candidates of this optimizer: {'; '.join(names)}. Use the candidate list it was saved with."
            )
        saved = {slot.partition(SEPARATOR)[0] for slots in state_dict["state"].values() for slot in slots}
        saved |= {key.partition(SEPARATOR)[0] for key in groups[0] if SEPARATOR in key}
        saved.discard("")
        unknown = sorted(saved - set(self._families))
        if unknown:
            raise ValueError(
                f"The state holds the families {', '.join(unknown)}, but this optimizer has only "
                f"{', '.join(self._families)}. Use the candidate list it was saved with."
            )
        outer = [{key: value for key, value in group.items() if SEPARATOR not in key} for group in groups]
        super().load_state_dict({"state": {}, "param_groups": outer})
        self._active = names.index(groups[0]["candidate"])
        self._inner.clear()
        self._idle.clear()
        self.last_used = {self.active.family: self._active}
        for family in self._families:
            if family in saved:
                # The family's own class knows how to cast its slots (a step counter stays where it is, say).
                inner = self._family_optimizer(family)
                load(inner, extract(state_dict, family))
                if family != self.active.family and self.storage.place != "none":
                    self._put_away(family, inner)

    def __getstate__(self) -> dict[str, Any]:
        kept = ["candidates", "idle_state", "ignore_schedule", "damping", "takeover_steps", "rising"]
        kept += ["last_learning_rate", "storage", "last_used", "_families", "_fallbacks", "_inner", "_idle", "_active"]
        return {
            "defaults": self.defaults,
            "param_groups": self.param_groups,
            **{name: self.__dict__[name] for name in kept},
        }

    @property
    def _rise(self) -> float:
        """The part of the full learning rate that the present step uses."""
        return 1.0 if self.ignore_schedule or not self.rising else 1.0 - self.rising / self.takeover_steps

    def _multiplier(self, group: Mapping[str, Any]) -> float:
        factor = group.get("initial_lr", group["lr"]) if self.ignore_schedule else group["lr"]
        return self.damping * float(factor)

    def _family_optimizer(self, family: str, synchronise: bool = False) -> torch.optim.Optimizer:
        """The inner optimizer of a family, with the outer groups' parameters and, on request, hyperparameters."""
        known = self._families[family]
        candidate = self.active if self.active.family == family else self._first(family)
        inner = self._inner.get(family)
        if inner is None:
            inner = self._inner[family] = self._build(candidate)
            if callable(getattr(inner, "train", None)):
                inner.train()  # type: ignore[attr-defined]
            synchronise = True
        if synchronise:
            # At every step, because schedulers, `accelerator.prepare` and sharding replace entries, lists and whole
            # dictionaries of the outer groups at any time.
            own = known.arguments(candidate.settings)
            settings = self._settings(candidate)
            for outer, group in zip(self.param_groups, inner.param_groups, strict=True):
                group["params"] = outer["params"]
                group.update(settings)
                group["lr"] = own["lr"] * self._multiplier(outer) * self._rise
                if "base_lr" in group:
                    # What schedules multiply, for optimizers that have another rate than `lr` besides.
                    group["base_lr"] = own["lr"] * outer.get("base_lr", 1.0)
                if "weight_decay" in group:
                    decay = own.get("weight_decay", outer["weight_decay"])
                    group["weight_decay"] = decay if outer["decay"] else 0.0
        return inner

    def _build(self, candidate: Candidate) -> torch.optim.Optimizer:
        groups = [{"params": group["params"]} for group in self.param_groups]
        return self._families[candidate.family].build(groups, candidate.settings)

    def _put_away(self, family: str, inner: torch.optim.Optimizer) -> None:
        self._idle[family] = self.storage.put(self._numbered(inner))
        inner.state = defaultdict(dict)

    def _fetch(self, family: str) -> None:
        if family in self._idle:
            self._inner[family].state = self._by_parameter(self._idle.pop(family).take())

    def _numbered(self, inner: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        return {numbers[parameter]: slots for parameter, slots in inner.state.items()}

    def _by_parameter(self, state: Mapping[int, dict[str, Any]]) -> defaultdict[torch.Tensor, dict[str, Any]]:
        parameters = self._parameters()
        return defaultdict(dict, {parameters[number]: slots for number, slots in state.items()})

    def _parameters(self) -> list[torch.Tensor]:
        """All parameters, in the order of their numbers."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _switches(self, candidate: Candidate) -> dict[str, bool]:
        """Which of a candidate's hyperparameters are on at all."""
        return {key: bool(value) for key, value in self._settings(candidate).items() if key != "weight_decay"}

    def _settings(self, candidate: Candidate) -> dict[str, Any]:
        return {**self._fallbacks[candidate.family], **self._families[candidate.family].arguments(candidate.settings)}

    def _first(self, family: str) -> Candidate:
        return next(candidate for candidate in self.candidates if candidate.family == family)

    def _set_mode(self, mode: str) -> None:
        inner = self._inner.get(self.active.family)
        method = getattr(inner, mode, None)
        if callable(method):
            method()
