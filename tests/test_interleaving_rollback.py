"""A cycle that does damage is undone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from loop import DAMAGE, Loop, equation_2, same, script


class TestRollback:
    def test_a_cycle_that_did_damage_is_undone(self):
        loop = Loop(DAMAGE, probe=True, rollback=True, even=True, switch_steps=5).run(5)
        moments = copy.deepcopy(loop.optimizer.state_dict()["state"])
        loop.run(5)
        assert not same(loop.values[9], loop.values[5])
        assert same(loop.values[10], loop.values[5])
        # The culprit starts afresh, the other keeps its moments.
        assert list(loop.optimizer.families_in_use()) == ["adam"]
        kept = loop.optimizer.state_dict()["state"]
        for parameter, slots in moments.items():
            assert slots and all(torch.equal(value, kept[parameter][key]) for key, value in slots.items())
        loop.run(1)
        assert [record.rolled_back for record in loop.records] == [False, True, False]
        assert loop.records[1].score == -1.0 and loop.records[0].score > -1.0
        assert [item for item in loop.selector.told if item[1] == -1.0] == [(1, -1.0)]

    def test_running_statistics_are_put_back(self):
        text = "sgd:lr=0.01; sgdm:lr=1000"
        loop = Loop(text, probe=True, rollback=True, even=True, switch_steps=5, normalised=True).run(10)
        assert loop.records[1].rolled_back
        weight, bias, slope, offset, mean, variance, counter = loop.values[5]
        assert same(loop.values[10][:4], [weight, bias, slope, offset])
        # A cycle begins between a backward pass and the step, so the statistics know the batch of that pass.
        batch = loop.inputs
        assert torch.allclose(loop.values[10][4], 0.9 * mean + 0.1 * batch.mean(0))
        assert torch.allclose(loop.values[10][5], 0.9 * variance + 0.1 * batch.var(0))
        assert int(counter) == 5 and int(loop.values[10][6]) == 6

    @pytest.mark.parametrize("bad", [math.inf, math.nan])
    def test_a_probe_that_is_not_finite(self, bad):
        loop = Loop(probe=script(1.0, 0.9, bad, 0.8), score="probe", rollback=True, even=True, switch_steps=3).run(7)
        assert same(loop.values[6], loop.values[3])
        assert [record.score == -1.0 for record in loop.records] == [False, True, False]

    def test_a_run_that_overflows_recovers(self):
        loop = Loop("sgd:lr=1e15; adam:lr=0.05", probe=True, rollback=True, even=True, switch_steps=5).run(40)
        loop.interleaving.finish()
        assert [record.rolled_back for record in loop.records] == [True, False] * 4
        assert all(tensor.isfinite().all() for tensor in loop.tensors)
        assert loop.probe().mean() < 0.9 * Loop().probe().mean()

    @pytest.mark.parametrize("score", ["losses", "trend", "probe"])
    def test_sound_cycles_are_left_alone(self, score):
        loop = Loop(probe=True, score=score, rollback=True, even=True, switch_steps=5).run(60)
        assert not any(record.rolled_back for record in loop.records)

    @pytest.mark.parametrize("score", ["losses", "trend"])
    def test_a_lucky_first_batch_does_not_undo_sound_cycles(self, score):
        loop = Loop("adam:lr=0.01", score=score, rollback=True, switch_steps=5).run(60)
        assert not any(record.rolled_back for record in loop.records)

    @pytest.mark.parametrize("score", ["losses", "trend", "probe"])
    def test_whatever_the_scores_are(self, score):
        loop = Loop(DAMAGE, probe=True, score=score, rollback=True, even=True, switch_steps=5).run(11)
        assert same(loop.values[10], loop.values[5])
        assert [record.rolled_back for record in loop.records] == [False, True, False]

    @pytest.mark.parametrize("score", ["losses", "trend"])
    def test_no_probe_is_needed(self, score):
        loop = Loop(DAMAGE, score=score, rollback=True, even=True, patience=2, switch_steps=5).run(10)
        assert same(loop.values[10], loop.values[5])

    def test_a_loss_that_is_not_finite_undoes_its_cycle(self):
        loop = Loop(score="trend", rollback=True, even=True, switch_steps=5).run(16, poison={7})
        assert [record.rolled_back for record in loop.records] == [False, True, False, False]
        assert [record.score == -1.0 for record in loop.records] == [False, True, False, False]
        assert same(loop.values[10], loop.values[5])

    def test_finite_damage_is_undone_too(self):
        text = "adam:lr=0.01; sgdm:lr=10"
        loop = Loop(text, score="trend", rollback=True, even=True, switch_steps=5).run(20)
        assert all(tensor.isfinite().all() for tensor in loop.values[19])
        assert same(loop.values[20], loop.values[15])

    def test_a_first_loss_that_is_not_finite_does_not_turn_it_off(self):
        # This much damage is finite.
        text = "adam:lr=0.01; sgdm:lr=10"
        loop = Loop(text, score="trend", rollback=True, even=True, switch_steps=5).run(20, poison={1})
        assert same(loop.values[20], loop.values[15])

    def test_without_rollback_the_damage_stays(self):
        loop = Loop(DAMAGE, probe=True, score="probe", switch_steps=5).run(10)
        assert not any(record.rolled_back for record in loop.records)
        assert loop.probe().mean() > 1e6

    def test_noise_is_no_damage(self):
        loop = Loop(
            probe=script(1.0, 0.9, 0.95, 0.92, 1.0), score="probe", rollback=True, even=True, switch_steps=3
        ).run(12)
        assert not any(record.rolled_back for record in loop.records)

    def test_after_a_rollback_scores_go_on_from_what_was_restored(self):
        loop = Loop(probe=script(4.0, 3.0, 99.0, 2.0), rollback=True, even=True, score="probe", switch_steps=3).run(10)
        assert [record.score for record in loop.records[:3]] == pytest.approx(
            [equation_2([4.0, 3.0], 0.1), -1.0, equation_2([3.0, 2.0], 0.1)]
        )


class TestBacktracking:
    # Progress of 0.5 at the best: damage shows from 0.75 on, and cycles count as degraded from 0.625 on.
    def test_after_so_many_degraded_cycles_the_best_comes_back(self):
        values = [1.0, 0.5, 0.65, 0.7, 0.5]
        loop = Loop(probe=script(*values), score="probe", rollback=True, patience=2, switch_steps=3).run(9)
        assert same(loop.values[9], loop.values[3]) and not same(loop.values[8], loop.values[3])
        assert [record.rolled_back for record in loop.records] == [False, False, True]
        assert not loop.optimizer.families_in_use()
        loop.run(1)
        assert loop.records[2].score == -1.0 and loop.selector.told[-1] == (0, -1.0)

    def test_a_good_cycle_in_between_starts_the_count_anew(self):
        values = [1.0, 0.5, 0.65, 0.55, 0.7, 0.6]
        loop = Loop(probe=script(*values), score="probe", rollback=True, patience=2, switch_steps=3).run(15)
        assert not any(record.rolled_back for record in loop.records)

    def test_patience_of_zero_turns_it_off(self):
        values = [1.0, 0.5] + [0.7] * 8
        loop = Loop(probe=script(*values), score="probe", rollback=True, patience=0, switch_steps=3).run(27)
        assert not any(record.rolled_back for record in loop.records)

    def test_it_is_counted_anew_afterwards(self):
        values = [1.0, 0.5] + [0.65] * 6
        loop = Loop(probe=script(*values), score="probe", rollback=True, patience=2, switch_steps=3).run(21)
        assert [record.rolled_back for record in loop.records] == [False, False, True, False, True, False, True]
        assert all(same(loop.values[step], loop.values[3]) for step in (9, 15, 21))
