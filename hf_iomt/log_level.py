"""The level of this package's log follows that of Trainer."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import TrainingArguments

_package = logging.getLogger("hf_iomt")


class _Handler(logging.Handler):
    """
    Writes to standard error where nobody else takes the records, as the handler of transformers does.

    Without one Python shows warnings only. It steps aside once a program sets up logging of its own, and writes above
    progress bars instead of into them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("[hf_iomt] %(message)s"))
        # The level that was set here last, to tell it from one that the user has set.
        self.followed = logging.NOTSET

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        others = [*logging.getLogger().handlers, *(item for item in _package.handlers if item is not self)]
        if not others and sys.stderr is not None:
            tqdm.write(self.format(record), file=sys.stderr)


_handler = _Handler()


def follow_log_level(args: TrainingArguments) -> None:
    """
    Give the logger `hf_iomt` the level that Trainer gives to that of transformers.

    That is `log_level`, or on other ranks `log_level_replica`; where that is `passive`, the verbosity of transformers,
    which `transformers.logging.set_verbosity_info()` and `TRANSFORMERS_VERBOSITY` change. While all of them are at
    their defaults the logger has no level of its own, so that Python's root logger decides. A level that the user has
    set on it stays.

    Args:
        args ([`~transformers.TrainingArguments`]): Gives the levels and the rank.
    """
    if _package.level not in (logging.NOTSET, _handler.followed):
        return
    level: int = args.get_process_log_level()
    # Trainer's default, which says nothing about what a program wants to see of other libraries.
    silent = args.should_log and args.log_level == "passive" and level == logging.WARNING
    _handler.followed = logging.NOTSET if silent else level
    _package.setLevel(_handler.followed)
    if _handler not in _package.handlers and not silent:
        _package.addHandler(_handler)
