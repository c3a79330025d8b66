from __future__ import annotations

import contextlib
import logging

import pytest
import tiny
import transformers
from transformers.utils import logging as transformers_logging

from hf_iomt import IOMTTrainer, IOMTTrainingArguments, log_level
from hf_iomt.log_level import follow_log_level

pytestmark = pytest.mark.usefixtures("small_heap")

PACKAGE = logging.getLogger("hf_iomt")


@pytest.fixture(autouse=True)
def fresh():
    """The loggers as a program finds them."""
    level, handlers, verbosity = PACKAGE.level, list(PACKAGE.handlers), transformers_logging.get_verbosity()
    PACKAGE.setLevel(logging.NOTSET)
    log_level._handler.followed = logging.NOTSET
    transformers_logging.set_verbosity_warning()
    yield
    PACKAGE.setLevel(level)
    log_level._handler.followed = level
    PACKAGE.handlers[:] = handlers
    transformers_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def no_handlers():
    """Without pytest's own handlers, as in a program that has not set up logging."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = handlers


def arguments(**settings):
    return IOMTTrainingArguments("run", report_to="none", use_cpu=True, **settings)


def train(path, **settings):
    settings = {"max_steps": 8, "iomt_candidates": "sgd:lr=0.01; sgd:lr=0.02", "iomt_race_steps": 0, **settings}
    arguments = IOMTTrainingArguments(**tiny.quiet(path, iomt_switch_steps=2, iomt_selection="cyclical", **settings))
    IOMTTrainer(tiny.bert(), arguments, train_dataset=tiny.Texts()).train()


class TestLevel:
    def test_without_a_wish_the_root_logger_decides(self):
        follow_log_level(arguments())
        assert PACKAGE.level == logging.NOTSET

    @pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
    def test_it_is_that_of_the_arguments(self, level):
        follow_log_level(arguments(log_level=level))
        assert PACKAGE.level == transformers_logging.log_levels[level]

    def test_it_is_the_verbosity_of_transformers(self):
        transformers.logging.set_verbosity_info()
        follow_log_level(arguments())
        assert PACKAGE.level == logging.INFO
        transformers.logging.set_verbosity_warning()
        follow_log_level(arguments())
        assert PACKAGE.level == logging.NOTSET

    def test_other_ranks_have_their_own(self, monkeypatch):
        monkeypatch.setattr(IOMTTrainingArguments, "should_log", False)
        follow_log_level(arguments(log_level="info"))
        assert PACKAGE.level == logging.WARNING
        follow_log_level(arguments(log_level="info", log_level_replica="error"))
        assert PACKAGE.level == logging.ERROR

    def test_one_that_the_user_has_set_stays(self):
        PACKAGE.setLevel(logging.ERROR)
        follow_log_level(arguments(log_level="info"))
        assert PACKAGE.level == logging.ERROR

    def test_a_later_trainer_may_change_it(self):
        follow_log_level(arguments(log_level="info"))
        follow_log_level(arguments(log_level="error"))
        assert PACKAGE.level == logging.ERROR


class TestOutput:
    def test_decisions_show_with_log_level_info(self, tmp_path, capfd):
        with no_handlers():
            train(tmp_path, log_level="info")
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("[hf_iomt] ")]
        assert sum("switched from" in line for line in lines) == 3
        assert sum("Interleaving is over" in line for line in lines) == 1

    def test_they_do_not_by_default(self, tmp_path, capfd):
        with no_handlers():
            train(tmp_path)
        assert "switched from" not in capfd.readouterr().err

    def test_the_verbosity_may_be_set_after_the_trainer_is_made(self, tmp_path, capfd):
        settings = tiny.quiet(tmp_path, max_steps=4, iomt_candidates="sgd:lr=0.01; sgd:lr=0.02", iomt_race_steps=0)
        trainer = IOMTTrainer(tiny.bert(), IOMTTrainingArguments(**settings), train_dataset=tiny.Texts())
        transformers.logging.set_verbosity_info()
        with no_handlers():
            trainer.train()
        assert "[hf_iomt] Interleaving is over" in capfd.readouterr().err

    def test_a_program_that_set_up_logging_gets_each_line_once(self, tmp_path, capfd):
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        with no_handlers():
            logging.getLogger().addHandler(handler)
            train(tmp_path, log_level="info")
        assert sum("Interleaving is over" in record.getMessage() for record in records) == 1
        assert "Interleaving is over" not in capfd.readouterr().err

    def test_so_does_one_that_sets_it_up_later(self, capfd):
        follow_log_level(arguments(log_level="info"))
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        with no_handlers():
            logging.getLogger("hf_iomt.race").info("before")
            PACKAGE.addHandler(handler)
            logging.getLogger("hf_iomt.race").info("after")
        assert [record.getMessage() for record in records] == ["after"]
        assert capfd.readouterr().err == "[hf_iomt] before\n"
