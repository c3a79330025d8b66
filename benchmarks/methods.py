"""Methods: one plain optimizer, or IOMT with some settings."""

from __future__ import annotations

from typing import Any

from hf_iomt.optim import PRESETS, parse_candidates

# The 15 single runs of section 5.1, and AdamW at Trainer's default learning rate.
GRID = [f"single {candidate.name}" for candidate in parse_candidates(PRESETS["paper"])]

METHODS: dict[str, dict[str, Any]] = {
    **{name: {"single": name.removeprefix("single ")} for name in GRID},
    "adamw_default": {"single": "adamw:lr=5e-5,weight_decay=0.0"},
    "iomt_auto": {"iomt": {}},
    "iomt_grid": {"iomt": {"iomt_candidates": "paper"}},
    "iomt_paper": {"iomt": {"iomt_preset": "paper"}},
}


def expand(names: list[str]) -> list[str]:
    """Replace `grid` by the names of the 15 single runs, and check the rest."""
    expanded = [name for item in names for name in (GRID if item == "grid" else [item])]
    unknown = [name for name in expanded if name not in METHODS]
    if unknown:
        raise SystemExit(f"Unknown method {unknown[0]!r}. Known: grid, {', '.join(METHODS)}.")
    return expanded
