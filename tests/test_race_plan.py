from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_iomt.race_plan import FINALISTS, RacePlan, plan_race

# A race takes at most a fifth of a run.
SHARE = 5


@given(st.integers(0, 60), st.integers(0, 120), st.integers(1, 5000))
def test_what_holds_for_every_plan(candidates, race_steps, max_steps):
    plan = plan_race(range(candidates), race_steps, max_steps)
    if plan is None:
        return
    assert plan.total_steps <= max_steps / SHARE
    assert list(plan.rungs) == sorted(set(plan.rungs)) and plan.rungs[0] >= 1 and plan.rungs[-1] <= race_steps
    field = [len(plan.entrants), *plan.kept]
    assert len(plan.kept) == len(plan.rungs)
    assert field == sorted(field, reverse=True) and 2 <= field[-1] <= FINALISTS
    assert list(plan.entrants) == sorted(set(plan.entrants))
    # The candidate that the user trusts most always takes part.
    assert plan.entrants[0] == 0 and plan.entrants[-1] < candidates


@given(st.integers(0, 60), st.integers(0, 120), st.integers(1, 5000))
def test_there_is_one_exactly_where_two_candidates_have_room_for_a_step_each(candidates, race_steps, max_steps):
    share = min(max(candidates * 0.2 / 15, 0.1), 0.2)
    expected = candidates >= 2 and race_steps > 0 and int(share * max_steps) >= 2
    assert (plan_race(range(candidates), race_steps, max_steps) is not None) == expected


@given(st.integers(2, 60), st.integers(1, 120), st.integers(1, 5000))
def test_the_number_of_steps_is_that_of_a_simulation(candidates, race_steps, max_steps):
    plan = plan_race(range(candidates), race_steps, max_steps)
    if plan is None:
        return
    made = dict.fromkeys(plan.entrants, 0)
    field, total, judged = list(plan.entrants), 0, 0
    for rung, kept in zip(plan.rungs, plan.kept, strict=True):
        for entrant in field:
            while made[entrant] < rung:
                made[entrant] += 1
                total += 1
            judged += 1
        field = field[:kept]
    assert plan.total_steps == total
    assert plan.probes == 2 * judged
    assert all(made[entrant] == plan.rungs[-1] for entrant in field)


def test_the_papers_candidates_with_room():
    plan = plan_race(range(15), 40, 10_000)
    assert plan == RacePlan(tuple(range(15)), (10, 20, 40), (7, 3, 3))
    assert plan.total_steps == 15 * 10 + 7 * 10 + 3 * 20


def test_more_room_never_shortens_it():
    totals = [plan.total_steps for steps in range(8, 3000, 7) if (plan := plan_race(range(15), 40, steps))]
    assert totals[-1] == 280
    assert max(totals) == 280


def test_where_one_step_each_is_too_much_some_stay_out():
    plan = plan_race(range(15), 40, 40)
    assert 2 <= len(plan.entrants) < 15 and plan.total_steps <= 40 / SHARE


@pytest.mark.parametrize("candidates", [2, 3])
def test_a_few_candidates_race_one_rung_that_all_survive(candidates):
    assert plan_race(range(candidates), 40, 1000) == RacePlan(tuple(range(candidates)), (10,), (candidates,))


@pytest.mark.parametrize(
    "arguments", [(1, 40, 1000), (0, 40, 1000), (15, 0, 1000), (15, 40, 2 * SHARE - 1), (2, 40, 1)]
)
def test_no_race(arguments):
    candidates, race_steps, max_steps = arguments
    assert plan_race(range(candidates), race_steps, max_steps) is None


def test_candidates_race_in_their_order():
    assert plan_race([7, 2, 9, 4], 40, 10_000).entrants == (7, 2, 9, 4)
    assert plan_race([7, 2, 9, 4], 40, 20).entrants == (7, 9)


@pytest.mark.parametrize("candidates", [2, 6, 15, 75])
def test_a_race_of_countless_steps_is_planned_at_once(candidates):
    assert plan_race(range(candidates), 10**9, 1000) == plan_race(range(candidates), 1000, 1000)
