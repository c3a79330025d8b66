"""The interleaving in a loop of plain PyTorch."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from loop import DAMAGE, TWO, Loop, bounds, equation_2, same, script

from hf_iomt.race_plan import RacePlan
from hf_iomt.selection import ParameterProjection


class TestCycles:
    @pytest.mark.parametrize(
        "steps, tau, expected",
        [
            (23, 5, [(1, 5), (6, 10), (11, 15), (16, 20), (21, 23)]),
            (10, 5, [(1, 5), (6, 10)]),
            (3, 5, [(1, 3)]),
            (3, 1, [(1, 1), (2, 2), (3, 3)]),
            (1, 25, [(1, 1)]),
        ],
    )
    def test_boundaries(self, steps, tau, expected):
        loop = Loop(switch_steps=tau).run(steps)
        loop.interleaving.finish()
        assert bounds(loop.records) == expected
        assert [record.cycle for record in loop.records] == list(range(len(expected)))

    def test_the_history_says_what_stepped(self):
        loop = Loop("sgd:lr=0.1; adam:lr=0.01; sgdm:lr=0.02", switch_steps=4).run(30)
        assert loop.used[:12] == ["sgd:lr=0.1"] * 4 + ["adam:lr=0.01"] * 4 + ["sgdm:lr=0.02"] * 4
        for record in loop.records:
            assert set(loop.used[record.first_step - 1 : record.last_step]) == {record.candidate}
            assert record.family == record.candidate.partition(":")[0]
            assert record.learning_rate == {"sgd": 0.1, "adam": 0.01, "sgdm": 0.02}[record.family]
            assert record.phase == "cyclical" and not record.rolled_back

    def test_steps_are_those_of_one_torch_optimizer_per_family(self):
        loop = Loop(switch_steps=3).run(14)
        plain = Loop(switch_steps=3)
        sgd = torch.optim.SGD(plain.model.parameters(), lr=0.1)
        adam = torch.optim.Adam(plain.model.parameters(), lr=0.01)
        for step in range(14):
            plain.model.zero_grad()
            start = 8 * (step % 8)
            plain.loss(slice(start, start + 8)).backward()
            (sgd, adam)[step // 3 % 2].step()
            assert same(plain.now(), loop.values[step + 1])

    def test_the_first_step_may_have_another_number(self):
        loop = Loop(switch_steps=4, first_step=101).run(6)
        assert bounds(loop.records) == [(101, 104), (105, 106)]

    def test_the_learning_rate_is_that_of_the_cycles_first_step(self):
        loop = Loop("sgd:lr=0.1", switch_steps=2, begin=False)
        scheduler = torch.optim.lr_scheduler.LambdaLR(loop.optimizer, lambda step: 1 / (1 + step))
        loop.interleaving.begin()
        for _ in range(4):
            loop.run(1)
            scheduler.step()
        assert [record.learning_rate for record in loop.records] == pytest.approx([0.1, 0.1 / 3])

    def test_phases_of_the_surrogate(self):
        loop = Loop(selection="surrogate", switch_steps=3).run(15)
        assert [record.phase for record in loop.records] == ["initial"] * 2 + ["surrogate"] * 3
        explained = [(record.predicted_mean, record.predicted_std, record.gain) for record in loop.records]
        assert explained[:2] == [(None, None, None)] * 2
        assert all(None not in item and 0 < item[2] < 1 for item in explained[2:])

    def test_the_state_is_that_of_the_parameters_at_the_cycles_start(self):
        loop = Loop(switch_steps=5).run(11)
        projection = ParameterProjection(list(loop.model.named_parameters()), 0)
        for state, step in zip(loop.selector.states, (0, 5, 10), strict=True):
            for tensor, value in zip(loop.tensors, loop.values[step], strict=True):
                tensor.data.copy_(value)
            np.testing.assert_array_equal(state, projection())

    def test_the_history_can_be_written_as_json(self):
        loop = Loop(switch_steps=3).run(7)
        assert json.loads(json.dumps(loop.interleaving.history, allow_nan=False)) == loop.interleaving.history
        assert loop.interleaving.history[0]["score"] == loop.records[0].score


class TestScores:
    @pytest.mark.parametrize("alpha", [0.0, 0.1, -1.0])
    @pytest.mark.parametrize("tau", [1, 2, 5])
    def test_equation_2_of_the_losses_up_to_the_first_of_the_next_cycle(self, tau, alpha):
        loop = Loop(switch_steps=tau, alpha=alpha).run(16)
        loop.interleaving.finish()
        ended = [record for record in loop.records if record.score is not None]
        assert len(ended) == 15 // tau
        for record in ended:
            losses = loop.losses[record.first_step - 1 : record.last_step + 1]
            assert len(losses) == tau + 1
            assert record.score == pytest.approx(equation_2(losses, alpha), abs=1e-9)
        assert loop.selector.told == [(index % 2, record.score) for index, record in enumerate(ended)]

    def test_the_last_cycle_has_no_score(self):
        loop = Loop(switch_steps=5).run(10)
        loop.interleaving.finish()
        assert [record.score is None for record in loop.records] == [False, True]

    @pytest.mark.parametrize("poisoned, scores", [(3, [0]), (6, [0, 1]), (8, [1]), (11, [1, 2])])
    def test_a_loss_that_is_not_finite_gives_the_worst_score(self, poisoned, scores):
        # The first loss of a cycle is the last of the cycle before.
        loop = Loop(switch_steps=5).run(16, poison={poisoned})
        assert [index for index, record in enumerate(loop.records) if record.score == -1.0] == scores

    def test_losses_are_reduced_over_ranks(self):
        def reduce(losses):
            assert losses.dtype == torch.float64 and losses.shape == (6,)
            return losses + 10.0

        loop = Loop(switch_steps=5, reduce=reduce).run(6)
        expected = equation_2([loss + 10 for loss in loop.losses], 0.1)
        assert loop.records[0].score == pytest.approx(expected, abs=1e-9)

    def test_the_host_waits_once_a_cycle(self):
        loop = Loop(switch_steps=5).run(21)
        assert [bool(before) for before, _ in loop.reads] == [step % 5 == 0 for step in range(21)]
        assert [before.count("tolist") for before, _ in loop.reads] == [
            int(step > 0 and step % 5 == 0) for step in range(21)
        ]
        assert not any(after for _, after in loop.reads)

    def test_it_waits_at_the_ends_of_cycles_only_where_rollback_keeps_watch(self):
        loop = Loop(switch_steps=5, score="trend", rollback=True, patience=2).run(21)
        assert [bool(before) for before, _ in loop.reads] == [step % 5 == 0 for step in range(21)]
        assert [bool(after) for _, after in loop.reads] == [step % 5 == 4 for step in range(21)]

    @pytest.mark.parametrize("tau", [2, 5, 6])
    def test_scores_by_the_trend_compare_the_second_halves_of_cycles(self, tau):
        loop = Loop(score="trend", switch_steps=tau).run(3 * tau + 1)
        cycles = [loop.losses[index * tau : (index + 1) * tau] for index in range(3)]
        means = [float(np.mean(cycle[tau // 2 :])) for cycle in cycles]
        # There is no cycle before the first: its own first half, the middle included, stands in.
        start = float(np.mean(cycles[0][: tau // 2 + 1]))
        expected = [equation_2(pair, 0.1) for pair in itertools.pairwise([start, *means])]
        assert [record.score for record in loop.records[:3]] == pytest.approx(expected)
        assert [score for _, score in loop.selector.told] == pytest.approx(expected)

    def test_a_trend_with_a_loss_that_is_not_finite_gives_the_worst_score(self):
        loop = Loop(score="trend", switch_steps=5).run(16, poison={7})
        assert loop.records[1].score == -1.0 and loop.records[0].score > -1.0

    def test_scores_by_the_probe_compare_the_ends_of_a_cycle(self):
        loop = Loop(probe=script(4.0, 3.0, 3.3, 1.0), score="probe", switch_steps=4).run(13)
        expected = [equation_2(pair, 0.1) for pair in ([4.0, 3.0], [3.0, 3.3], [3.3, 1.0])]
        assert [record.score for record in loop.records[:3]] == pytest.approx(expected)
        assert [score for _, score in loop.selector.told] == pytest.approx(expected)

    def test_the_probe_sees_the_mean_of_the_cycles_second_half(self):
        seen = []

        def probe():
            seen.append(loop.now())
            return np.array([1.0])

        loop = Loop(probe=probe, score="probe", switch_steps=5, begin=False)
        loop.interleaving.begin()
        loop.run(10)
        for values, steps in zip(seen, ([0], [3, 4, 5], [8, 9, 10]), strict=True):
            expected = [torch.stack(tensors).mean(0) for tensors in zip(*(loop.values[i] for i in steps), strict=True)]
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(values, expected, strict=True))

    @pytest.mark.parametrize("normalised", [False, True])
    def test_probing_leaves_no_trace(self, normalised):
        plain = Loop(switch_steps=5, normalised=normalised).run(23)
        probed = Loop(switch_steps=5, normalised=normalised, probe=lambda: np.array([1.0]), score="probe").run(23)
        assert all(same(a, b) for a, b in zip(plain.values, probed.values, strict=True))


class TestRace:
    PLAN = RacePlan((0, 1, 2), (4,), (3,))
    TEXT = "adam:lr=0.05; sgd:lr=1e6; sgdm:lr=0.02"

    def make(self, **kwargs):
        return Loop(**{"text": self.TEXT, "probe": True, "race": self.PLAN, "switch_steps": 5, **kwargs})

    def test_the_history_of_a_race_and_what_follows(self):
        loop = self.make(rollback=True).run(24)
        assert bounds(loop.records) == [(1, 4), (5, 8), (9, 12), (13, 17), (18, 22), (23, 24)]
        assert [record.phase for record in loop.records] == ["race"] * 3 + ["cyclical"] * 3
        assert [record.candidate for record in loop.records[:3]] == [item.name for item in loop.optimizer.candidates]
        for record in loop.records:
            assert set(loop.used[record.first_step - 1 : record.last_step]) == {record.candidate}

    def test_every_entrant_is_scored_and_destroyers_are_marked(self):
        loop = self.make().run(12)
        assert [record.rolled_back for record in loop.records] == [False, True, False]
        assert loop.records[1].score < -0.2 < 0 < loop.records[0].score

    def test_only_finalists_are_interleaved_afterwards(self):
        loop = self.make().run(12 + 30)
        assert sorted(loop.selector.contenders) == [0, 2]
        assert {record.family for record in loop.records[3:]} == {"adam", "sgdm"}

    def test_finalists_begin_with_an_observation(self):
        loop = self.make().run(12)
        raced = {record.family: record.score for record in loop.records}
        told = {loop.optimizer.candidates[index].family: score for index, score in loop.selector.told}
        assert told == {family: pytest.approx(raced[family]) for family in ("adam", "sgdm")}

    def test_it_is_on_until_its_last_step(self):
        loop = self.make()
        for steps in (0, 11, 1):
            loop.run(steps)
            raced = len(loop.losses) == 12
            assert (loop.interleaving.state_dict()["race"] is None) == raced
            assert loop.optimizer.ignore_schedule != raced

    def test_the_races_own_probe_is_used(self):
        calls = []

        def race_probe():
            calls.append(None)
            return np.array([1.0, 1.0])

        def probe():
            raise AssertionError("the cycles' probe is not for the race")

        self.make(probe=probe, race_probe=race_probe).run(11)
        # The origin, and two for each of the two entrants that have ended.
        assert len(calls) == 5

    def test_where_all_are_destroyed_all_stay_and_rollback_keeps_watch(self):
        loop = self.make(text="adam:lr=1e6; sgd:lr=1e6; sgdm:lr=1e6", rollback=True).run(12)
        assert same(loop.values[12], loop.values[0])
        assert loop.selector.contenders == [0, 1, 2] and loop.selector.told == []
        loop.run(10)
        loop.interleaving.finish()
        assert same(loop.now(), loop.values[0])
        assert all(record.rolled_back for record in loop.records)

    @pytest.mark.parametrize("steps", range(1, 12))
    def test_training_may_stop_within_it(self, steps):
        loop = self.make().run(steps)
        loop.interleaving.finish()
        assert loop.interleaving.state_dict()["race"] is None and not loop.optimizer.ignore_schedule
        assert all(tensor.isfinite().all() for tensor in loop.tensors)
        assert loop.probe().mean() <= Loop().probe().mean()

    @pytest.mark.parametrize(
        "steps",
        [*range(12)],
    )
    def test_the_history_ends_where_training_stopped(self, steps):
        loop = self.make().run(steps)
        loop.interleaving.finish()
        covered = [step for first, last in bounds(loop.records) for step in range(first, last + 1)]
        assert covered == list(range(1, steps + 1))

    def test_training_may_stop_before_its_first_step(self):
        loop = self.make()
        loop.interleaving.finish()
        # Up to rounding: the mean of equal branches is as good as any.
        assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(loop.now(), loop.values[0], strict=True))


class TestTakeover:
    def test_the_rate_rises_after_a_change_of_family(self):
        loop, rates = Loop(switch_steps=6, takeover_steps=3), []
        for _ in range(18):
            rates.append(loop.run(1).optimizer.last_learning_rate)
        # SGD begins, and nothing was before it.
        adam, sgd = (0.01, 0.1)
        rise = (1 / 3, 2 / 3, 1, 1, 1, 1)
        assert rates == pytest.approx([sgd] * 6 + [adam * part for part in rise] + [sgd * part for part in rise])
        # The history has the rate of the candidate, as it would be without a change.
        assert [record.learning_rate for record in loop.records] == [sgd, adam, sgd]

    @pytest.mark.parametrize("switch_steps, expected", [(25, 8), (16, 8), (5, 2), (1, 0)])
    def test_half_of_a_cycle_is_at_the_full_rate(self, switch_steps, expected):
        assert Loop(switch_steps=switch_steps, takeover_steps=8).optimizer.takeover_steps == expected

    @pytest.mark.parametrize("takeover_steps, expected", [(0, [1.0, 1.0]), (1, [1.0, 1.0]), (2, [0.5, 1.0])])
    def test_a_run_that_goes_on_with_a_shorter_rise(self, takeover_steps, expected):
        before = Loop(switch_steps=8, takeover_steps=4).run(9)
        assert before.optimizer.rising == 3
        loop = Loop(switch_steps=8, takeover_steps=takeover_steps, begin=False)
        loop.optimizer.load_state_dict(before.optimizer.state_dict())
        loop.interleaving.load_state_dict(before.interleaving.state_dict())
        found = [loop.run(1).optimizer.last_learning_rate / 0.01 for _ in range(2)]
        assert found == pytest.approx(expected)

    def test_a_second_run_begins_without_a_rise(self):
        loop = Loop(switch_steps=6, takeover_steps=3).run(7)
        assert loop.optimizer.rising == 2
        loop.interleaving.begin()
        assert loop.optimizer.rising == 0


class TestFinish:
    def test_a_cycle_that_has_begun_is_judged_and_undone(self):
        loop = Loop(DAMAGE, probe=True, rollback=True, even=True, switch_steps=8).run(14)
        assert not same(loop.now(), loop.values[8])
        loop.interleaving.finish()
        assert same(loop.now(), loop.values[8])
        assert (loop.records[1].score, loop.records[1].rolled_back) == (-1.0, True)

    @pytest.mark.parametrize("steps", [9, 12])
    def test_in_its_first_half_too(self, steps):
        loop = Loop(DAMAGE, probe=True, rollback=True, even=True, switch_steps=8).run(steps)
        loop.interleaving.finish()
        assert same(loop.now(), loop.values[8])

    def test_a_good_one_stays(self):
        loop = Loop(probe=True, rollback=True, even=True, switch_steps=8).run(14)
        before = loop.now()
        loop.interleaving.finish()
        assert same(loop.now(), before)
        assert (loop.records[1].score, loop.records[1].rolled_back) == (None, False)

    def test_it_may_be_called_again(self):
        loop = Loop(DAMAGE, probe=True, rollback=True, even=True, switch_steps=8).run(14)
        loop.interleaving.finish()
        before, history = loop.now(), loop.interleaving.history
        loop.interleaving.finish()
        assert same(loop.now(), before) and loop.interleaving.history == history

    def test_before_anything_happened(self):
        loop = Loop(switch_steps=3)
        loop.interleaving.finish()
        assert loop.interleaving.history == [] and loop.interleaving.metrics() == {}


def test_what_the_main_process_chooses_is_done():
    own = []

    def share(choice):
        own.append(choice.candidate)
        return replace(choice, candidate=1)

    loop = Loop(switch_steps=3, share=share).run(15)
    assert set(own) == {0, 1}
    assert {record.candidate for record in loop.records} == {loop.optimizer.candidates[1].name} == set(loop.used)


@pytest.mark.parametrize("settings", [{"score": "probe"}, {"race": RacePlan((0, 1), (2,), (2,))}])
def test_what_needs_a_probe_asks_for_one(settings):
    with pytest.raises(ValueError, match=r"A race and scores by the probe need a `probe`"):
        Loop(**settings)


def test_two_runs_with_one_seed_are_the_same():
    def run():
        loop = Loop(TWO + "; sgdm:lr=0.05", probe=True, selection="surrogate", rollback=True, switch_steps=3).run(40)
        history = [{**record, "seconds": 0} for record in loop.interleaving.history]
        return loop.values, history

    (first, history), (second, again) = run(), run()
    assert history == again
    assert all(same(a, b) for a, b in itertools.zip_longest(first, second))
