"""Runs that fail and are tried again with the same optimizer: smaller batches, or another call of `train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from accelerate.utils import memory
from transformers import Trainer

if TYPE_CHECKING:
    from .interleaving import Interleaving

    _Base = Trainer
else:
    _Base = object


class AttemptsMixin(_Base):
    """
    Undoes what a run that fails was trying out.

    The next one goes on from its weights and its optimizer. An entrant of a race, or a cycle that has not been judged,
    may have ruined both.
    """

    interleaving: Interleaving | None
    _tried = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; a run that fails is undone at once, and one before it needs no memory any more."""
        self.interleaving = None
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            # Not when the next run begins: what is loaded into the model until then must stay.
            self.abandon()
            raise

    def abandon(self) -> None:
        """Go back to where the race or the cycle that was on began; nothing where none was."""
        if self.interleaving is not None:
            self.interleaving.finish(judge=False)
            self.interleaving.release()

    @contextmanager
    def keeping_batch_size(self, what: str, way_out: str) -> Iterator[None]:
        """Memory that runs out in here must not make Trainer try smaller training batches, down to none."""
        try:
            yield
        except RuntimeError as error:
            if self.args.auto_find_batch_size and memory.should_reduce_batch_size(error):
                raise RuntimeError(
                    f"{what} hit an out-of-memory error. `auto_find_batch_size` only adjusts the training batch size, "
                    f"{way_out} instead."
                ) from error
            raise

    def _update_auto_batch_size(self, batch_size: Any) -> None:
        super()._update_auto_batch_size(batch_size)
        self._tried = self.interleaving is not None
        self.abandon()
        # Its copies of the parameters need memory that is short.
        self.interleaving = None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._tried and checkpoint is not None:
            # Trainer loads the weights once, before the first attempt.
            self._load_from_checkpoint(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        # Before, because it may change the model.
        if self.interleaving is not None:
            self.interleaving.finish()
        super()._load_best_model()
