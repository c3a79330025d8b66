"""How many of the steps each candidate made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .names import short_names
from .run import Run


@dataclass(frozen=True)
class CandidateShare:
    """
    One candidate's part of a run.

    Args:
        candidate (`str`): Its name in the grammar of a candidate list.
        name (`str`): Its short name.
        steps (`int`): Optimizer steps that it made, in the race too.
        share (`float`): The same as a share of all steps, in [0, 1].
        cycles (`int`): Cycles after the race.
        rolled_back (`int`): How many of these were undone.
        mean_score (`float`, *optional*): Mean score of these cycles, where there is one.
    """

    candidate: str
    name: str
    steps: int
    share: float
    cycles: int
    rolled_back: int
    mean_score: float | None


def candidate_shares(run: Run) -> list[CandidateShare]:
    """
    What each candidate did, the one with most steps first; those without a step come last.

    Args:
        run ([`Run`]): The run.
    """
    names = short_names(run.candidates)
    total = sum(_length(record) for record in run.history)
    rows = []
    for candidate in run.candidates:
        own = [record for record in run.history if record["candidate"] == candidate]
        cycles = [record for record in own if record["phase"] != "race"]
        scores = [record["score"] for record in cycles if record.get("score") is not None]
        steps = sum(_length(record) for record in own)
        rows.append(
            CandidateShare(
                candidate=candidate,
                name=names[candidate],
                steps=steps,
                share=steps / total if total else 0.0,
                cycles=len(cycles),
                rolled_back=sum(bool(record.get("rolled_back")) for record in cycles),
                mean_score=sum(scores) / len(scores) if scores else None,
            )
        )
    return sorted(rows, key=lambda row: -row.steps)


def cumulative_shares(run: Run) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """
    The share of the steps so far that each candidate has made, after each record.

    Returns:
        Steps of shape (n,), and for each candidate that made any its shares of shape (n,); they add up to 1.
    """
    ends = np.array([record["last_step"] for record in run.history], dtype=np.float64)
    lengths = np.array([_length(record) for record in run.history], dtype=np.float64)
    done = np.cumsum(lengths)
    used = dict.fromkeys(str(record["candidate"]) for record in run.history)
    shares = {}
    for candidate in (name for name in run.candidates if name in used):
        own = np.array([record["candidate"] == candidate for record in run.history])
        shares[candidate] = np.cumsum(lengths * own) / done
    return ends, shares


def _length(record: dict[str, int]) -> int:
    return record["last_step"] - record["first_step"] + 1
