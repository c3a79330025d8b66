"""Model cards that tell how the optimizers were chosen, and pushes to the Hub that lose nothing."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from peft import PeftModel
from transformers.trainer_utils import HubStrategy

from .model_card import CARD_NAME, CardDetails, find_task, hub_id, write_model_card
from .selection import HISTORY_NAME

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from .run_record import RunRecordMixin

    _Base = RunRecordMixin
else:
    _Base = object

# Pushes while training carry an older figure where drawing it anew would take more than this share of the time.
_DRAWING_SHARE = 0.02
# What the status of a refused request means, and the way out.
_REFUSALS = {
    401: "The Hub did not accept the token. Log in anew with `hf auth login`, or set HF_TOKEN or `hub_token` to a "
    "token that may write.",
    403: "The token may not write there. Give it write access at https://huggingface.co/settings/tokens, or choose a "
    "repository of your own with `hub_model_id`.",
}


class PublishingMixin(_Base):
    """
    Completes the model card, and tells what happened to a push that failed.

    - `create_model_card` adds to the card of the trainer it is mixed into how the optimizers were chosen, with the
      figure `iomt_run.png`; every push carries such a card;
    - a token that may not write is refused when the trainer is made, before anything is trained;
    - a push that fails while training is a warning, and training goes on. Trainer's own goes on in silence;
    - `push_to_hub` and `save_model` raise, as Trainer's do, once all is saved in the output folder, and say how to
      push it later.

    The exceptions are those of Trainer and huggingface_hub, with the way out added to their message.
    """

    _is_pushing = False
    _card_is_written = False
    _next_figure = 0.0

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository as Trainer does, and make sure that it can be written to."""
        try:
            super().init_hf_repo(token=token, private=private)
            if self.is_world_process_zero():
                _check_write_access(cast(str, self.hub_model_id), token if token is not None else self.args.hub_token)
        except Exception as error:
            state = getattr(self, "state", None)
            begun = state is not None and state.global_step > 0
            name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
            way_out = self._way_out() if begun else "Nothing has been trained yet."
            _explain(error, f"The repository {name!r} cannot be written to at {constants.ENDPOINT}.", way_out)
            raise

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Save the model and push it as Trainer does, with its card, the figure and the records of the run.

        Takes the arguments of Trainer's `push_to_hub`. What cannot be pushed is saved in the output folder all the
        same, and the message of the exception says how to push it later.
        """
        if self.hub_model_id is None:
            try:
                self.init_hf_repo(token=token, private=private)
            except Exception:
                # Trainer would save the model only after it.
                self.save_model(_internal_call=True)
                raise
        self._card_is_written = False
        try:
            result = super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)
        except Exception as error:
            # Before the card is written it is not the Hub that failed.
            if self._card_is_written:
                _explain(error, f"The push to {self.hub_model_id} failed.", self._way_out())
            raise
        if isinstance(result, Future):
            result.add_done_callback(self._report_push)
        return result

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """
        Write the card of the trainer that this is mixed into, and add how the optimizers were chosen.

        Takes that trainer's arguments: the name, tags, the data set, and for some the base model and the task.
        """
        parent = super().create_model_card
        parent(*args, **kwargs)
        if not self.is_world_process_zero():
            return
        asked = inspect.signature(parent).bind(*args, **kwargs).arguments
        self._complete_card({**asked, **asked.get("kwargs", {})})
        self._card_is_written = True

    def _complete_card(self, asked: dict[str, Any]) -> None:
        folder, model = str(self.args.output_dir), self.accelerator.unwrap_model(self.model)
        card = os.path.join(folder, CARD_NAME)
        if not os.path.exists(card):
            # Some trainers log that they could not write it.
            return
        own = ModelCard.load(card).data
        if isinstance(model, PeftModel) and own.library_name != "peft":
            model.create_or_update_model_card(folder)
        if self.interleaving is not None:
            self.save_run()
        # PEFT puts its own tags in the place of all others.
        tags = [*(own.tags or []), *_as_list(asked.get("tags"))]
        trained = model.get_base_model() if isinstance(model, PeftModel) else model
        details = CardDetails(
            name=asked.get("model_name"),
            # Trainer takes any text.
            base_model=hub_id(asked.get("finetuned_from")),
            dataset=next(filter(hub_id, _as_list(asked.get("dataset_tags") or asked.get("dataset_name"))), None),
            task=next(iter(_as_list(asked.get("tasks"))), None) or find_task(type(trained).__name__),
            license=asked.get("license"),
            tags=tags,
        )
        if self.interleaving is not None and not self.interleaving.records:
            return
        # Of another trainer where this one has not trained; in a search each trial has a folder of its own.
        if not os.path.exists(os.path.join(folder, HISTORY_NAME)):
            return
        began = time.monotonic()
        draw = not self.is_in_train or (self._is_pushing and began >= self._next_figure)
        write_model_card(folder, details, draw=draw)
        if draw:
            self._next_figure = time.monotonic() + (time.monotonic() - began) / _DRAWING_SHARE

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push while training as Trainer does, with the card as of now, and warn where a push fails."""
        running = self._push_jobs()
        # A push that has not ended, with `hub_always_push`, may read the card while it is written.
        idle = all(job.done() for job in running)
        if idle and self.args.hub_strategy != HubStrategy.END and self.is_world_process_zero():
            self._is_pushing = True
            try:
                # As `push_to_hub` names it.
                self.create_model_card(model_name=str(self.hub_model_id).split("/")[-1])
            except Exception:
                logger.warning("The model card could not be renewed; training goes on.", exc_info=True)
            finally:
                self._is_pushing = False
        super()._push_from_checkpoint(checkpoint_folder)
        for job in self._push_jobs():
            if job not in running:
                job.add_done_callback(self._report_push)

    def _push_jobs(self) -> list[Future[Any]]:
        push: Any = getattr(self, "push_in_progress", None)
        return [] if push is None else list(push.jobs)

    def _report_push(self, job: Future[Any]) -> None:
        if not job.cancelled() and (error := job.exception()) is not None:
            goes_on = " Training goes on, and the next save pushes again." if self.is_in_train else ""
            logger.warning("The push to %s failed.%s %s\n%s", self.hub_model_id, goes_on, self._way_out(), error)

    def _way_out(self) -> str:
        folder = str(self.args.output_dir)
        repository = self.hub_model_id or self.args.hub_model_id or Path(folder).absolute().name
        return (
            f"Nothing is lost: what was trained is in {folder}. Push it later with `trainer.push_to_hub()`, or from a "
            f"shell with `hf upload {repository} {shlex.quote(folder)} --exclude '_*' --exclude 'checkpoint-*'`."
        )


def _check_write_access(repository: str, token: str | None) -> None:
    """A repository that exists is found with a token that may only read, too."""
    try:
        HfApi().auth_check(repository, token=token, write=True)
    except (GatedRepoError, RepositoryNotFoundError):
        raise
    except HfHubHTTPError as error:
        # Hubs other than Hugging Face's may not know the question.
        if error.response.status_code in _REFUSALS:
            raise


def _explain(error: Exception, what: str, way_out: str) -> None:
    """Add to the message of an error, whose type stays what callers of Trainer expect."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    parts = [str(error), what, _REFUSALS.get(cast(int, status), ""), way_out]
    error.args = (" ".join(part for part in parts if part), *error.args[1:])


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
