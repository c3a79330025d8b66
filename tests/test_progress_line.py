from __future__ import annotations

import io
import re

import pytest
import tiny
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.progress_line import progress_line
from hf_iomt.selection import CycleRecord

pytestmark = pytest.mark.usefixtures("small_heap")

SETTINGS = {
    "max_steps": 16,
    "iomt_candidates": "adam:lr=0.01; sgdm:lr=0.05",
    "iomt_race_steps": 0,
    "iomt_switch_steps": 4,
    "iomt_selection": "cyclical",
    "lr_scheduler_type": "constant",
    "disable_tqdm": False,
}


def make(path, callbacks=None, **settings):
    arguments = IOMTTrainingArguments(**tiny.quiet(path, **{**SETTINGS, **settings}))
    return IOMTTrainer(tiny.bert(dropout=0.0), arguments, train_dataset=tiny.Texts(), callbacks=callbacks)


def make_record(**changes):
    values = {"cycle": 0, "first_step": 1, "last_step": 4, "candidate": "adam:lr=0.01", "family": "adam"}
    return CycleRecord(**{**values, "learning_rate": 0.01, "phase": "initial", **changes})


class Watch(TrainerCallback):
    """What the bar shows after each step; added last, so that it sees what others have written."""

    def __init__(self, find):
        self.find = find
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.find())


class TestText:
    def test_before_the_first_cycle(self):
        assert progress_line([], 0, 0.0, 0) == ""

    def test_all_parts(self):
        records = [make_record(score=-0.1234, rolled_back=True), make_record(candidate="sgdm:lr=0.05")]
        assert progress_line(records, 4, 0.00123, 1) == "sgdm:lr=0.05, lr 0.0012, score -0.12, rollbacks 1"

    def test_there_is_no_score_at_first(self):
        assert progress_line([make_record()], 1, 0.01, 0) == "adam:lr=0.01, lr 0.01, rollbacks 0"

    def test_the_rate_belongs_to_the_candidate(self):
        records = [make_record(phase="race"), make_record(first_step=5, learning_rate=0.3, phase="race")]
        assert progress_line(records, 4, 0.01, 0).startswith("race adam:lr=0.01, lr 0.3")
        assert progress_line(records, 5, 0.2, 0).startswith("race adam:lr=0.01, lr 0.2")

    def test_long_names_are_cut(self):
        line = progress_line([make_record(candidate="x" * 500)], 1, 0.01, 0)
        assert len(line) < 80 and "xxx…, lr 0.01" in line

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite(self, value):
        assert progress_line([make_record(score=value)], 1, value, 0) == (
            f"adam:lr=0.01, lr {value}, score {value}, rollbacks 0"
        )


class TestBar:
    def test_it_shows_the_line(self, tmp_path, capfd):
        trainer = make(tmp_path)
        (progress,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, ProgressCallback)]
        watch = Watch(lambda: progress.training_bar.postfix)
        trainer.add_callback(watch)
        trainer.train()
        score = f"{trainer.iomt_history[0]['score']:.2g}"
        first = "adam:lr=0.01, lr 0.01, rollbacks 0"
        # SGDM takes over, and the first of its two steps with a smaller rate is half of it.
        second = [f"sgdm:lr=0.05, lr {rate}, score {score}, rollbacks 0" for rate in (0.025, 0.05, 0.05, 0.05)]
        assert watch.seen[:8] == [first] * 4 + second
        # On the screen, behind the speed.
        assert re.search(r"16/16 \[.*, sgdm:lr=0\.05, lr 0\.05, score ", capfd.readouterr().err)

    def test_damaged_cycles_count(self, tmp_path, capfd):
        trainer = make(tmp_path, iomt_candidates="adam:lr=0.01; sgdm:lr=1e5", max_steps=32)
        (progress,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, ProgressCallback)]

        def shown_and_true():
            shown = int(progress.training_bar.postfix.rpartition(" ")[2])
            return shown, sum(record["rolled_back"] for record in trainer.iomt_history)

        trainer.add_callback(watch := Watch(shown_and_true))
        trainer.train()
        assert all(shown == true for shown, true in watch.seen) and watch.seen[-1][1] >= 4
        assert f"rollbacks {watch.seen[-1][1]}]" in capfd.readouterr().err
        # A second run begins at 0.
        watch.seen.clear()
        trainer.train()
        assert all(shown == true for shown, true in watch.seen) and watch.seen[0][1] == 0

    def test_a_text_of_somebody_else_stays(self, tmp_path):
        class Own(ProgressCallback):
            def on_step_end(self, args, state, control, **kwargs):
                super().on_step_end(args, state, control, **kwargs)
                self.training_bar.set_postfix_str(f"own {state.global_step}")

        trainer = make(tmp_path, callbacks=[own := Own()])
        (default,) = [item for item in trainer.callback_handler.callbacks if type(item) is ProgressCallback]
        trainer.remove_callback(default)
        watch = Watch(lambda: own.training_bar.postfix)
        trainer.add_callback(watch)
        trainer.train()
        assert watch.seen == [f"own {step}" for step in range(1, 17)]

    def test_nothing_where_the_callback_was_removed(self, tmp_path, capfd):
        trainer = make(tmp_path)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
        assert "adam:lr" not in "".join(capfd.readouterr())
        assert trainer.state.global_step == 16

    @pytest.mark.parametrize("replacement", [PrinterCallback, TrainerCallback])
    def test_nothing_where_it_was_replaced(self, tmp_path, capfd, replacement):
        trainer = make(tmp_path, logging_strategy="steps", logging_steps=4)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(replacement)
        trainer.train()
        assert "adam:lr" not in "".join(capfd.readouterr())

    def test_nothing_with_disable_tqdm(self, tmp_path, capfd):
        trainer = make(tmp_path, disable_tqdm=True, logging_strategy="steps", logging_steps=4)
        assert any(isinstance(item, PrinterCallback) for item in trainer.callback_handler.callbacks)
        trainer.train()
        printed, errors = capfd.readouterr()
        assert "'iomt/share/0_adam_1e-2': '0.5'" in printed and "adam:lr" not in printed + errors

    def test_nothing_on_other_ranks(self, tmp_path, capfd):
        class Other(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                state.is_world_process_zero = False

        make(tmp_path, callbacks=[Other()]).train()
        assert "adam:lr" not in "".join(capfd.readouterr())


class TestNotebook:
    def test_the_line_is_above_the_bar(self, tmp_path, monkeypatch):
        pytest.importorskip("IPython")
        from transformers.utils import notebook

        shown = io.StringIO()

        class Output:
            def update(self, content):
                shown.write(content.data)

        def display(content, display_id=False):
            shown.write(content.data)
            return Output()

        monkeypatch.setattr(notebook.disp, "display", display)
        trainer = make(tmp_path, logging_strategy="steps", logging_steps=4)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(notebook.NotebookProgressCallback)
        # Where it stands when it is the default one: before those of this package.
        handler = trainer.callback_handler
        handler.callbacks.insert(1, handler.callbacks.pop())
        trainer.train()
        last = shown.getvalue().rpartition("<div>")[2]
        score = f"{trainer.iomt_history[2]['score']:.2g}"
        assert f"sgdm:lr=0.05, lr 0.05, score {score}, rollbacks 0<br>" in last and "[16/16" in last
