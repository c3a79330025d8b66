"""What the loop tells of its cycles: metrics, records and the log."""

from __future__ import annotations

import itertools
import logging
import math
import re

import pytest
import torch
from loop import DAMAGE, Loop, script

from hf_iomt.race_plan import RacePlan


class TestMetrics:
    def test_numbers(self):
        loop = Loop(switch_steps=4).run(6)
        metrics = loop.interleaving.metrics()
        assert metrics == {
            "iomt/candidate": 1.0,
            "iomt/learning_rate": 0.01,
            "iomt/switch": 1.0,
            "iomt/selection_seconds": pytest.approx(sum(record.seconds for record in loop.records)),
            "iomt/score": loop.records[0].score,
            "iomt/rollbacks": 0.0,
            "iomt/phase": 4.0,
            "iomt/share/0_sgd_1e-1": 4 / 6,
            "iomt/share/1_adam_1e-2": 2 / 6,
        }
        assert metrics["iomt/selection_seconds"] > 0
        assert all(type(value) is float for value in metrics.values())

    def test_there_is_no_score_before_the_first_cycle_ends(self):
        assert "iomt/score" not in Loop(switch_steps=4).run(4).interleaving.metrics()

    def test_what_the_surrogate_predicted(self):
        loop = Loop(selection="surrogate", switch_steps=3).run(8)
        metrics, record = loop.interleaving.metrics(), loop.records[-1]
        assert metrics["iomt/predicted_score"] == record.predicted_mean
        assert metrics["iomt/predicted_std"] == record.predicted_std
        assert metrics["iomt/phase"] == 2.0

    def test_cycles_that_were_undone(self):
        loop = Loop(DAMAGE, probe=True, rollback=True, even=True, switch_steps=5).run(20)
        undone = sum(record.rolled_back for record in loop.records)
        assert loop.interleaving.metrics()["iomt/rollbacks"] == undone > 0

    def test_what_is_not_finite_is_left_out(self):
        loop = Loop(selection="surrogate", switch_steps=3).run(8)
        loop.records[-1].predicted_mean, loop.records[-1].predicted_std = math.nan, math.inf
        metrics = loop.interleaving.metrics()
        assert not {"iomt/predicted_score", "iomt/predicted_std"} & set(metrics)
        assert all(math.isfinite(value) for value in metrics.values())

    def test_an_entrant_that_has_not_made_a_step_has_no_share(self):
        loop = Loop("adam:lr=0.01; sgd:lr=0.1; sgdm:lr=0.1", probe=True, race=RacePlan((0, 1, 2), (4,), (3,))).run(4)
        metrics = loop.interleaving.metrics()
        assert {name: value for name, value in metrics.items() if "share" in name} == {"iomt/share/0_adam_1e-2": 1.0}


class TestLog:
    @pytest.fixture
    def lines(self, caplog):
        caplog.set_level(logging.INFO, "hf_iomt")
        return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("hf_iomt")]

    def test_every_switch(self, lines):
        Loop(switch_steps=4).run(10)
        assert lines() == [
            "Step 5: switched from sgd:lr=0.1 to adam:lr=0.01 (cyclical).",
            "Step 9: switched from adam:lr=0.01 to sgd:lr=0.1 (cyclical).",
        ]

    def test_what_the_surrogate_expected(self, lines):
        loop = Loop(selection="surrogate", switch_steps=2).run(40)
        pattern = r"Step (\d+): switched from .* to (.*) \(surrogate: predicted score (.*) ± (.*), gain (.*)\)\."
        found = [match.groups() for line in lines() if (match := re.fullmatch(pattern, line))]
        switches = {
            str(record.first_step): record
            for before, record in itertools.pairwise(loop.records)
            if record.candidate != before.candidate and record.phase == "surrogate"
        }
        assert found and [step for step, *_ in found] == list(switches)
        for step, name, mean, std, gain in found:
            record = switches[step]
            assert name == record.candidate
            assert float(mean) == pytest.approx(record.predicted_mean, rel=1e-2)
            assert float(std) == pytest.approx(record.predicted_std, rel=1e-2)
            assert float(gain) == pytest.approx(record.gain, rel=1e-2)

    def test_staying_says_nothing(self, lines):
        Loop("sgd:lr=0.1", switch_steps=2).run(10)
        assert lines() == []

    def test_a_cycle_that_is_undone_and_why(self, lines):
        Loop(DAMAGE, probe=True, score="probe", rollback=True, even=True, switch_steps=5).run(10)
        (line,) = [line for line in lines() if "rolled back" in line]
        pattern = (
            r"Step 10: rolled back the cycle of sgdm:lr=1000 from step 6 on: it ended with a loss of (\S+), where the "
            r"best was (\S+)\."
        )
        end, best = map(float, re.fullmatch(pattern, line).groups())
        assert end > 100 * best

    def test_parameters_that_are_not_finite(self, lines):
        loop = Loop(rollback=True, even=True, switch_steps=5).run(4)
        with torch.no_grad():
            loop.tensors[0].fill_(math.nan)
        loop.run(1)
        assert "from step 1 on: it left parameters that are not finite." in lines()[-1]

    def test_going_back_to_the_best(self, lines):
        values = (1.0, 0.2, 0.5, 0.5)
        Loop(probe=script(*values), score="probe", rollback=True, patience=2, switch_steps=3).run(9)
        assert lines()[-1] == (
            "Step 9: rolled back the cycle of sgd:lr=0.1 from step 7 on: no cycle of the last 2 came near the best "
            "loss, 0.2; going back to its parameters."
        )

    def test_damage_that_the_next_loss_shows(self, lines):
        Loop(score="trend", rollback=True, even=True, switch_steps=5).run(6, poison={6})
        undone, switch = lines()
        start = "Step 5: rolled back the cycle of sgd:lr=0.1 from step 1 on: "
        assert undone.startswith(start + "the step after it had a loss of nan, where the best was ")
        assert switch == "Step 6: switched from sgd:lr=0.1 to adam:lr=0.01 (cyclical)."

    def test_damage_that_the_probe_shows_in_the_end(self, lines):
        Loop(DAMAGE, probe=True, rollback=True, even=True, switch_steps=8).run(14).interleaving.finish()
        assert lines()[-2] == (
            "Step 14: rolled back the cycle of sgdm:lr=1000 from step 9 on: the probe was clearly worse at its end."
        )

    def test_the_end_and_its_shares_once(self, lines):
        loop = Loop(switch_steps=4).run(10)
        loop.interleaving.finish()
        loop.interleaving.finish()
        (line,) = [line for line in lines() if "is over" in line]
        assert re.fullmatch(
            r"Interleaving is over after 10 steps: sgd:lr=0\.1 60%, adam:lr=0\.01 40%\. "
            r"Undone: 0 in the race, 0 after it\. Choosing took \d+\.\d s\.",
            line,
        )

    def test_a_run_that_is_given_up_has_no_end(self, lines):
        loop = Loop(switch_steps=4).run(3)
        loop.interleaving.finish(judge=False)
        assert lines() == []

    def test_without_a_step_there_is_nothing_to_say(self, lines):
        Loop(switch_steps=4).interleaving.finish()
        assert lines() == []

    def test_staying_is_no_switch(self):
        loop = Loop("sgd:lr=0.1", switch_steps=2).run(5)
        assert loop.interleaving.metrics()["iomt/switch"] == 0.0

    def test_the_learning_rate_is_that_of_the_last_step(self):
        loop = Loop("sgd:lr=0.1", switch_steps=2, begin=False)
        scheduler = torch.optim.lr_scheduler.LambdaLR(loop.optimizer, lambda step: 1 / (1 + step))
        loop.interleaving.begin()
        for _ in range(3):
            loop.run(1)
            scheduler.step()
        assert loop.interleaving.metrics()["iomt/learning_rate"] == pytest.approx(0.1 / 3)
