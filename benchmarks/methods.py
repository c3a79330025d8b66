"""Methods by name: what each does in place of IOMT, and the groups that experiments name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

from hf_iomt.optim import PRESETS, parse_candidates


@dataclass(frozen=True)
class Method:
    """
    How an experiment is trained.

    Args:
        kind (`str`):
            `single`: the plain `Trainer` with the optimizer of a candidate; `iomt`: `IOMTTrainer`; `peer`: the plain
            `Trainer` as users of another optimizer set it up; `search`: many runs, of which one is picked by the
            validation split.
        settings (`dict`): What the kind takes.
        schedule (`str`, *optional*): The learning-rate schedule, where it is not the experiment's.
        schedule_arguments (`dict`): Arguments of the schedule.
        requires (`str`): A package that has to be installed.
        only (`str`): A tuning mode that it is made for.
        best_checkpoint (`bool`): Whether the run ends with the checkpoint that the validation split prefers.
    """

    kind: str
    settings: dict[str, Any]
    schedule: str | None = None
    schedule_arguments: dict[str, Any] = field(default_factory=dict)
    requires: str = ""
    only: str = ""
    best_checkpoint: bool = False

    @property
    def reason_against(self) -> str | None:
        """Why it cannot run here."""
        if self.requires and importlib.util.find_spec(self.requires) is None:
            return f"the package {self.requires} is not installed"
        return None


def single(candidate: str, **kwargs: Any) -> Method:
    """The plain `Trainer` with one candidate."""
    return Method("single", {"candidate": candidate}, **kwargs)


def iomt(**settings: Any) -> Method:
    """`IOMTTrainer` with these settings, without their prefix."""
    requires = "umap" if settings.get("state_compression") == "umap" else ""
    return Method("iomt", {f"iomt_{name}": value for name, value in settings.items()}, requires=requires)


def peer(optimizer: str, learning_rate: float, **kwargs: Any) -> Method:
    """The plain `Trainer` with an optimizer of `peers.PEERS`."""
    return Method("peer", {"optimizer": optimizer, "learning_rate": learning_rate}, **kwargs)


# The grids of section 5.1, and for each family the learning rates that suit it.
_ADAPTIVE = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
_PLAIN = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_GRIDS: dict[str, tuple[float, ...]] = {
    "sgd": _PLAIN,
    "sgdm": _PLAIN,
    "asgd": _PLAIN,
    "adagrad": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "rmsprop": _ADAPTIVE,
    "adam": _ADAPTIVE,
    "adamw": (1e-5, 3e-5, 5e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1),
    "nadam": _ADAPTIVE,
    "adamax": _ADAPTIVE,
}
_HYBRID = ("swats", "padam", "adabound")
_PAPER_RATES = (1e-3, 1e-2, 1e-1)


def _candidate(family: str, rate: float) -> str:
    # Trainer's default: weight decay is a choice of its own.
    return f"{family}:lr={rate:g}" + (",weight_decay=0" if family == "adamw" else "")


def _named(names: list[str]) -> dict[str, Method]:
    return {name: single(name) for name in names}


_PAPER_GRID = [candidate.name for candidate in parse_candidates(PRESETS["paper"])]
_ADAMW = [_candidate("adamw", rate) for rate in _GRIDS["adamw"]]
_ALL_SINGLES = [_candidate(family, rate) for family, rates in _GRIDS.items() for rate in rates]
_WIDE = [candidate.name for candidate in parse_candidates(PRESETS["paper_wide"])]
# The paper's tolerance of 1e-9 is hardly ever met.
_EARLY_SWATS = "swats:lr=0.001,tolerance=0.0001"
_HYBRIDS = [_candidate(family, rate) for family in _HYBRID for rate in _PAPER_RATES]

_SCHEDULED = {
    f"{name}, {title}": single(name, schedule=schedule, schedule_arguments=arguments)
    for name in [*(_candidate("sgdm", rate) for rate in _PAPER_RATES), *(_candidate("adamw", r) for r in (1e-4, 1e-3))]
    for title, schedule, arguments in (
        ("constant", "constant", {}),
        ("cosine", "cosine", {}),
        # A tenth after each quarter of the run.
        ("steps", "steps", {"drops": 3, "factor": 0.1}),
        # What `greedy` does within bounds that suit the learning rate: its own begin at 0.001.
        ("greedy", "greedy", {}),
    )
}

# The watch over overfitting reads the validation split, and so do users who keep the best checkpoint.
_BEST_CHECKPOINTS = {f"{name}, best checkpoint": single(name, best_checkpoint=True) for name in _ADAMW}

_IOMT = {
    "iomt default": iomt(),
    "iomt grid": iomt(candidates="paper"),
    "iomt paper": iomt(preset="paper"),
}
# The same candidates, race and safety, another way to choose.
_CONTROLS = {
    "iomt grid, random": iomt(candidates="paper", selection="random"),
    "iomt grid, cyclical": iomt(candidates="paper", selection="cyclical"),
    # Race, then the one that it goes on from.
    "iomt grid, commit": iomt(candidates="paper", selection="commit"),
    "iomt default, random": iomt(selection="random"),
    "iomt default, cyclical": iomt(selection="cyclical"),
    "iomt default, no watch": iomt(overfitting_samples=0),
    # The range test without anything to interleave, and what its optimizer has to do with it.
    "iomt range test, alone": iomt(candidates="nadamw:lr=1x"),
    "iomt range test, AdamW": iomt(candidates="adamw:lr=1x"),
    "iomt paper, random": iomt(preset="paper", selection="random"),
    "iomt paper, cyclical": iomt(preset="paper", selection="cyclical"),
}
_BASES: dict[str, dict[str, Any]] = {"grid": {"candidates": "paper"}, "paper": {"preset": "paper"}}
_CHANGES: dict[str, dict[str, Any]] = {
    "without ω_t": {"transferability": "off"},
    "without halving": {"halving_cycles": 0},
    "uniform start": {"initial_sampling": "uniform"},
    "random projection": {"state_compression": "rp"},
    "umap": {"state_compression": "umap"},
    "no parameter state": {"state_compression": "none"},
}
_ABLATIONS = {
    **{
        f"iomt {base}, {title}": iomt(**start, **change)
        for base, start in _BASES.items()
        for title, change in _CHANGES.items()
    },
    # The presets differ in their reading of Eq. 7.
    "iomt grid, the other Eq. 7": iomt(candidates="paper", variance_weight="text"),
    "iomt paper, the other Eq. 7": iomt(preset="paper", variance_weight="printed"),
    "iomt grid, no race": iomt(candidates="paper", race_steps=0),
    "iomt grid, no rollback": iomt(candidates="paper", rollback=False, patience=0),
}
# Figure 10.
_SENSITIVITY = {
    **{f"iomt paper, n_ini {count}": iomt(preset="paper", initial_cycles=count) for count in (5, 10, 20, 40)},
    **{f"iomt paper, τ {steps}": iomt(preset="paper", switch_steps=steps) for steps in (5, 10, 25, 50)},
    **{f"iomt paper, {count} components": iomt(preset="paper", state_components=count) for count in (1, 2, 4, 8)},
}
_SPACES = {
    "iomt grid, wide": iomt(candidates="paper_wide"),
    "iomt paper, wide": iomt(preset="paper", candidates="paper_wide"),
}
_CASE = {
    # Short cycles: the run is.
    name: iomt(candidates="sgdm:lr=0.01|0.001; sgd:lr=0.01|0.001", switch_steps=5, **settings)
    for name, settings in {"iomt sgd or sgdm": {}, "iomt paper, sgd or sgdm": {"preset": "paper"}}.items()
}

_PEERS = {
    **{
        f"schedule-free {base}, lr {rate:g}": peer(
            f"schedule_free_{base}", rate, schedule="constant", requires="schedulefree"
        )
        for base, rates in {"adamw": (3e-4, 2.5e-3, 1e-2), "sgd": (0.1, 1.0)}.items()
        for rate in rates
    },
    # What its authors recommend: lr 1, a cosine.
    "prodigy": peer("prodigy", 1.0, schedule="cosine", requires="prodigyopt"),
}
_LORA_PEERS = {
    f"{name}, lr {rate:g}": peer(optimizer, rate, requires=package, only="lora")
    for name, optimizer, package, rates in (
        ("LoRA+", "lora_plus", "peft", (1e-4, 3e-4, 1e-3)),
        ("Riemannian AdamW", "riemannian", "peft", (3e-4, 1e-3, 3e-3)),
        ("LoRA-RITE", "lora_rite", "pytorch_optimizer", (3e-4, 1e-3, 3e-3)),
    )
    for rate in rates
}
_SEARCHES = {
    "Optuna, 1 × steps": Method("search", {"search": "optuna", "budget": 1}, requires="optuna"),
    "Optuna, 15 × steps": Method("search", {"search": "optuna", "budget": 15}, requires="optuna"),
    "population-based training, 4 × steps": Method("search", {"search": "population", "budget": 4}, requires="ray"),
}

METHODS: dict[str, Method] = {
    **_named([*_PAPER_GRID, *_ALL_SINGLES, *_HYBRIDS, _EARLY_SWATS, *_WIDE]),
    **_SCHEDULED,
    **_BEST_CHECKPOINTS,
    **_IOMT,
    **_CONTROLS,
    **_ABLATIONS,
    **_SENSITIVITY,
    **_SPACES,
    **_CASE,
    **_PEERS,
    **_LORA_PEERS,
    **_SEARCHES,
}

GROUPS: dict[str, list[str]] = {
    "iomt": list(_IOMT),
    "grid": _PAPER_GRID,
    "adamw": _ADAMW,
    "best_checkpoints": list(_BEST_CHECKPOINTS),
    "nadam": [_candidate("nadam", rate) for rate in (3e-4, 1e-3, 3e-3, 1e-2)],
    "singles": _ALL_SINGLES,
    "hybrids": [*_HYBRIDS, _EARLY_SWATS],
    "hybrid_defaults": ["swats:lr=0.001", _EARLY_SWATS, "padam:lr=0.1", "adabound:lr=0.001"],
    "schedules": list(_SCHEDULED),
    "controls": list(_CONTROLS),
    "ablations": list(_ABLATIONS),
    "sensitivity": list(_SENSITIVITY),
    "spaces": [*_SPACES, *_WIDE],
    "case": list(_CASE),
    "peers": [*_PEERS, *_LORA_PEERS, "adamw:lr=0.001,weight_decay=0, greedy"],
    "peer_defaults": [
        "schedule-free adamw, lr 0.0025",
        "prodigy",
        "LoRA+, lr 0.0003",
        "Riemannian AdamW, lr 0.001",
        "adamw:lr=0.001,weight_decay=0, greedy",
    ],
    "searches": list(_SEARCHES),
}


def expand(names: tuple[str, ...], tuning: str) -> list[str]:
    """
    Replace groups by their methods, each once, without those of another tuning mode.

    Raises:
        SystemExit: A name is neither a method nor a group.
    """
    expanded = dict.fromkeys(name for item in names for name in GROUPS.get(item, [item]))
    unknown = [name for name in expanded if name not in METHODS]
    if unknown:
        raise SystemExit(f"Unknown method {unknown[0]!r}. Groups: {', '.join(GROUPS)}; methods: {', '.join(METHODS)}.")
    return [name for name in expanded if METHODS[name].only in ("", tuning)]
