from __future__ import annotations

import json
import subprocess
import sys

import pytest
import report_runs
import tiny
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from hf_iomt import IOMTTrainer, IOMTTrainingArguments, run_record
from hf_iomt.report import candidate_shares, read_run, run, summarize_run, time_parts
from hf_iomt.selection import HISTORY_NAME
from hf_iomt.transferability import TRANSFERABILITY_NAME

A, B = "adamw:lr=0.01", "sgdm:lr=0.1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer that has trained, its folder, and the candidate that made each step, as it was seen when it did."""
    path = tmp_path_factory.mktemp("trained") / "run"
    settings = {
        "iomt_candidates": f"{A}; {B}; sgd:lr=1e8",
        "iomt_switch_steps": 4,
        "iomt_race_steps": 4,
        "logging_strategy": "steps",
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "save_strategy": "steps",
        "save_steps": 20,
    }
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            seen.append(trainer.interleaved_optimizer.active.name)

    args = IOMTTrainingArguments(**tiny.quiet(path, **settings))
    trainer = IOMTTrainer(
        tiny.lora(), args, train_dataset=tiny.Texts(), eval_dataset=tiny.Texts(seed=1), callbacks=[Watch()]
    )
    trainer.train()
    return trainer, path, seen


@pytest.mark.parametrize(
    ("candidates", "settings", "kept"),
    [
        ([A], {}, False),
        ([A, B], {"iomt_selection": "random"}, False),
        ([A, B], {"iomt_selection": "surrogate"}, True),
        ([A, B], {"iomt_selection": "random", "iomt_transferability": 0.5}, True),
    ],
)
def test_transferability_is_that_of_a_run_that_asked_for_it(candidates, settings, kept, tmp_path):
    record = {"candidates": candidates, "settings": settings}
    history = [report_runs.cycle(A, 1, 10)]
    # The file may be of another run in this folder.
    folder = report_runs.write(tmp_path, history, [{"step": 1, "loss": 1.0}], record, report_runs.TRANSFERABLE)
    assert (read_run(folder).transferability is not None) == kept
    (folder / TRANSFERABILITY_NAME).unlink()
    assert read_run(folder).missing == (
        ("iomt_transferability.json is missing: the transferability cannot be shown.",) if kept else ()
    )


class TestARealRun:
    def test_reads_what_the_trainer_knows(self, trained):
        trainer, path, _ = trained
        found = read_run(path)
        assert found.history == trainer.iomt_history
        assert found.log_history == json.loads(json.dumps(trainer.state.log_history))
        assert found.transferability["weight"] == trainer.transferability.weight
        assert found.candidates == [A, B, "sgd:lr=1e+08"]
        assert found.missing == ()
        assert (found.name, found.steps) == ("run", 40)

    def test_shares_are_those_of_the_steps_that_were_seen(self, trained):
        _, path, seen = trained
        rows = candidate_shares(read_run(path))
        assert {row.candidate: row.steps for row in rows} == {name: seen.count(name) for name in set(seen)}
        assert [row.share for row in rows] == sorted((seen.count(name) / 40 for name in set(seen)), reverse=True)

    def test_a_checkpoint_is_a_run_too(self, trained):
        trainer, path, _ = trained
        found = read_run(path / "checkpoint-20")
        assert (found.name, found.steps, found.missing) == ("run/checkpoint-20", 20, ())
        logged = [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] <= 20]
        assert [entry for entry in found.log_history if "loss" in entry] == logged
        assert sum(time_parts(found).values()) < sum(time_parts(read_run(path)).values())

    def test_its_sentences(self, trained):
        trainer, path, _ = trained
        text = " ".join(summarize_run(read_run(path)))
        assert "a race of 3 steps among three candidates, of which one did damage and was out" in text
        evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        assert f"The last evaluation, at step 40: loss {evaluated[-1]:.3f}." in text
        assert f"ω_t = {trainer.transferability.weight:.3f}" in text


def test_files_are_called_as_their_writers_call_them():
    assert (run.HISTORY_NAME, run.TRANSFERABILITY_NAME) == (HISTORY_NAME, TRANSFERABILITY_NAME)
    assert (run.RUN_NAME, run.STATE_NAME) == (run_record.RUN_NAME, TRAINER_STATE_NAME)


def test_needs_neither_torch_nor_matplotlib_to_read(tmp_path):
    report_runs.long_run(tmp_path, 8)
    code = (
        "import sys\nfrom hf_iomt.report import read_run, summarize_run\n"
        f"summarize_run(read_run({str(tmp_path)!r}))\n"
        "print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


class TestMissing:
    def test_optional_files_are_told(self, tmp_path):
        found = read_run(report_runs.write(tmp_path, [report_runs.cycle(A, 1, 4)]))
        assert (found.log_history, found.record, found.transferability) == ([], None, None)
        assert found.missing == (
            "trainer_state.json is missing: losses and evaluations cannot be shown.",
            "iomt_run.json is missing: the settings and the time of training cannot be shown.",
            "iomt_transferability.json is missing: the transferability cannot be shown.",
        )
        assert set(found.missing) <= set(summarize_run(found))

    def test_damaged_ones_too(self, tmp_path):
        report_runs.write(tmp_path, [report_runs.cycle(A, 1, 4)], logs=[], transferability=[1])
        (tmp_path / "iomt_run.json").write_text("{")
        found = read_run(tmp_path)
        assert found.missing == (
            "iomt_run.json is damaged: the settings and the time of training cannot be shown.",
            "iomt_transferability.json is not what it should be: the transferability cannot be shown.",
        )

    def test_without_a_record_candidates_are_those_that_were_used(self, tmp_path):
        history = [report_runs.cycle(B, 1, 4), report_runs.cycle(A, 5, 8), report_runs.cycle(B, 9, 9)]
        assert read_run(report_runs.write(tmp_path, history)).candidates == [B, A]

    def test_without_a_history(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"has no iomt_history.json. Give the `output_dir` of a run"):
            read_run(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"nowhere has no iomt_history.json"):
            read_run(tmp_path / "nowhere")

    def test_says_where_there_is_one(self, tmp_path):
        report_runs.write(tmp_path / "inner", [report_runs.cycle(A, 1, 4)])
        with pytest.raises(FileNotFoundError, match=r"There is one in .*inner\."):
            read_run(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[", r"iomt_history.json is damaged: Expecting value"),
            ("{}", "is not a history: it must be a list of cycles"),
            ("[1]", "is not a history: it must be a list of cycles"),
            ("[]", "holds no cycle: the run ended before its first step"),
            ('[{"cycle": 0}]', "is not a history: a cycle has no 'first_step'"),
        ],
    )
    def test_a_history_that_is_none(self, tmp_path, text, message):
        (tmp_path / "iomt_history.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_run(tmp_path)


def test_switches_race_and_undone_cycles(tmp_path):
    history = [
        report_runs.cycle(A, 1, 2, phase="race"),
        report_runs.cycle(B, 3, 4, phase="race", rolled_back=True),
        report_runs.cycle(A, 5, 8),
        report_runs.cycle(A, 9, 12, rolled_back=True),
        report_runs.cycle(B, 13, 14),
    ]
    found = read_run(report_runs.write(tmp_path, history))
    assert found.switches == [3, 5, 13]
    assert [record["first_step"] for record in found.race] == [1, 3]
    assert [record["first_step"] for record in found.cycles] == [5, 9, 13]
    # An entrant of the race that did damage is out, not undone.
    assert [record["first_step"] for record in found.undone] == [9]
