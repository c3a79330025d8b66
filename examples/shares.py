"""Which candidate made which share of a run's optimizer steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def print_shares(history: Iterable[Mapping[str, Any]]) -> None:
    """
    Print a table of the candidates, those with the most steps after the race first.

    Args:
        history (`Iterable[Mapping[str, Any]]`): `trainer.iomt_history`, or `iomt_history.json` read back.
    """
    race: Counter[str] = Counter()
    cycles: Counter[str] = Counter()
    undone: Counter[str] = Counter()
    for record in history:
        steps = record["last_step"] - record["first_step"] + 1
        (race if record["phase"] == "race" else cycles)[record["candidate"]] += steps
        undone[record["candidate"]] += steps * record["rolled_back"]
    total = race.total() + cycles.total()
    if total == 0:
        print("No steps were made.")
        return
    names = sorted(race | cycles, key=lambda name: (-cycles[name], -race[name], name))
    width = max(len(name) for name in names)
    print(f"{'candidate':<{width}}  share of steps  of it in the race  undone")
    for name in names:
        parts = ((race[name] + cycles[name]) / total, race[name] / total, undone[name] / total)
        print(f"{name:<{width}}  {parts[0]:>14.1%}  {parts[1]:>17.1%}  {parts[2]:>6.1%}")
