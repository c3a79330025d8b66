from __future__ import annotations

import logging
import re

import pytest
from loop import Loop

from hf_iomt.race_plan import RacePlan

# Five entrants, of whom the third diverges.
FIVE = "adam:lr=0.01; sgd:lr=0.1; sgdm:lr=1e6; adam:lr=0.001; sgd:lr=0.001"


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "hf_iomt")
    return lambda: [record.getMessage() for record in caplog.records if "ace" in record.getMessage()]


def names(text):
    """Candidates and losses in a part of a line."""
    return [(name, float(loss), bool(damage)) for name, loss, damage in re.findall(PART, text)]


PART = r"(\w+:lr=\S+) \(loss ([^,)]+)(, did damage)?\)"


def test_entrants_rungs_and_finalists(lines):
    plan = RacePlan((0, 1, 2, 3, 4), (2, 4), (3, 2))
    loop = Loop(FIVE, probe=True, race=plan, even=True, switch_steps=5).run(plan.total_steps)
    entrants, first, second, end = lines()
    assert entrants == (
        "Race of 16 steps: 5 entrants, 2/4 steps each, then 3/2 go on: adam:lr=0.01; sgd:lr=0.1; sgdm:lr=1e+06; "
        "adam:lr=0.001; sgd:lr=0.001."
    )
    assert first.startswith("Race, rung 1 of 2: going on with ") and second.startswith("Race, rung 2 of 2: ")
    for line, kept, dropped in ((first, 3, 2), (second, 2, 1)):
        going, out = map(names, line.split("; out: "))
        assert (len(going), len(out)) == (kept, dropped)
        # The first candidate of the list has a place whatever its loss.
        assert going[0][0] == "adam:lr=0.01"
    _, out = map(names, first.split("; out: "))
    assert out[-1][0] == "sgdm:lr=1e+06" and out[-1][2] and not out[0][2]
    finalists = [loop.optimizer.candidates[index].name for index in loop.selector.contenders]
    assert end == f"The race is over after 16 steps; going on with {'; '.join(finalists)}."


def test_the_rungs_tell_the_steps_of_the_history(lines):
    plan = RacePlan((0, 1, 2, 3, 4), (2, 4), (3, 2))
    loop = Loop(FIVE, probe=True, race=plan, even=True, switch_steps=5).run(plan.total_steps)
    _, first, _, _ = lines()
    second_rung = [record.candidate for record in loop.records[5:8]]
    assert [name for name, _, _ in names(first.split("; out: ")[0])] == second_rung


def test_all_may_be_destroyed(lines):
    plan = RacePlan((0, 1, 2), (4,), (3,))
    Loop("adam:lr=1e6; sgd:lr=1e6; sgdm:lr=1e6", probe=True, race=plan, switch_steps=5, rollback=True).run(12)
    _, rung, end = lines()
    assert "going on with none; out: " in rung and rung.count("did damage") == 3
    assert end == (
        "The race is over after 12 steps; going on with all candidates from where it began, because every entrant did "
        "damage."
    )


def test_a_race_that_goes_on_after_a_checkpoint_is_not_announced_again(lines):
    plan = RacePlan((0, 1, 2, 3, 4), (2, 4), (3, 2))
    before = Loop(FIVE, probe=True, race=plan, even=True, switch_steps=5).run(3)
    after = Loop(FIVE, probe=True, race=plan, even=True, switch_steps=5, begin=False)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.interleaving.load_state_dict(before.interleaving.state_dict())
    assert sum(line.startswith("Race of") for line in lines()) == 1
