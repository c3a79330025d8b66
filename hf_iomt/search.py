"""Hyperparameter search with Trainer's back-ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import Trainer

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

# Nothing reads them while the candidates are interleaved.
_WITHOUT_EFFECT = ("learning_rate", "optim", "optim_args")


class SearchMixin(_Base):
    """Checks what a trial has set before it trains."""

    def _hp_search_setup(self, trial: Any) -> None:
        before = {name: getattr(self.args, name) for name in _WITHOUT_EFFECT}
        super()._hp_search_setup(trial)
        if self.hp_search_backend is None or trial is None:
            return
        asked = getattr(trial, "params", trial)
        names = [name for name in _WITHOUT_EFFECT if name in asked or getattr(self.args, name) != before[name]]
        if names:
            raise ValueError(
                f"The hyperparameter search searches `{'`, `'.join(names)}`, which has no effect: training chooses "
                "among `iomt_candidates`. Give an `hp_space` without it, with `iomt_candidates` itself, say."
            )
        self.args.validate_iomt()  # type: ignore[attr-defined]
