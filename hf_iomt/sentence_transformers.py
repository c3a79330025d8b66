"""
[`IOMTSentenceTransformerTrainer`]: sentence-transformers' trainer that interleaves optimizers. Needs the extra
`sentence-transformers`.
"""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from .checkpoint import STATE_NAME
from .model_card import CARD_NAME
from .trainer import IOMTTrainerMixin
from .training_args import IOMTTrainingArguments

try:
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
except ModuleNotFoundError as error:
    if error.name != "sentence_transformers":
        raise
    raise ImportError(
        "`hf_iomt.sentence_transformers` needs sentence-transformers, which is not installed. Install it with the "
        "extra: pip install 'hf-iomt[sentence-transformers]'."
    ) from error

__all__ = ["IOMTSentenceTransformerTrainer", "IOMTSentenceTransformerTrainingArguments"]

logger = logging.getLogger(__name__)

LOSS_NAME = "iomt_loss.pt"


# The order keeps the defaults of the first: fields of a later base come first, and are overridden.
@dataclass
class IOMTSentenceTransformerTrainingArguments(SentenceTransformerTrainingArguments, IOMTTrainingArguments):
    """
    [`~sentence_transformers.SentenceTransformerTrainingArguments`] with the settings of [`IOMTTrainingArguments`].

    Raises:
        ValueError: `learning_rate_mapping` is set.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate_mapping:
            raise ValueError(
                f"`learning_rate_mapping` has no use here, but got {self.learning_rate_mapping!r}: the candidates say "
                "the learning rates. Leave it out."
            )


class IOMTSentenceTransformerTrainer(IOMTTrainerMixin, SentenceTransformerTrainer):  # type: ignore[misc]
    """
    [`~sentence_transformers.SentenceTransformerTrainer`] that chooses optimizer and learning rate while it trains, see
    [`IOMTTrainerMixin`].

    It takes the arguments of that trainer, with [`IOMTSentenceTransformerTrainingArguments`] as `args`. Several data
    sets and several losses are one sequence of steps, in which the cycles are made; the probe measures samples of each
    data set apart, with its own loss. Parameters of a loss, such as the classifier of `SoftmaxLoss`, are trained, and
    are in the checkpoints (`iomt_loss.pt`).

    ω_t is 0.5 unless `iomt_performance_metric` names what the evaluator returns, or `"loss"`: metrics of the labels of
    single texts do not apply to pairs and triples.

    Example:

    ```python
    args = IOMTSentenceTransformerTrainingArguments(output_dir="run", max_steps=1000)
    trainer = IOMTSentenceTransformerTrainer(model, args, train_dataset=pairs, loss=CoSENTLoss(model))
    trainer.train()
    ```
    """

    training_args_class = IOMTSentenceTransformerTrainingArguments  # type: ignore[assignment]

    def trained_module(self) -> nn.Module:
        """The model, together with the parameters that the losses have of their own."""
        model, own = cast(nn.Module, self.model), self._loss_parameters()
        if not own:
            return model
        both = nn.Module()
        both.model, both.loss = model, nn.ParameterDict({name.replace(".", "_"): item for name, item in own.items()})
        return both

    def _loss_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the losses that are not the model's; a checkpoint's model does not hold them."""
        losses = nn.ModuleList(self.loss.values() if isinstance(self.loss, dict) else [self.loss])
        # Other encoders in a loss are guides, which are not trained.
        guides = [item for item in losses.modules() if isinstance(item, self.model_class)]
        encoders = [cast(nn.Module, self.model), *guides]
        known = {parameter for encoder in encoders for parameter in encoder.parameters()}
        return {name: item for name, item in losses.named_parameters() if item not in known}

    def _checkpoint_push_skip_names(self, checkpoint_folder: str) -> set[str]:
        # The card of this push has been written already, and what is for resuming only belongs to the checkpoint.
        names: set[str] = super()._checkpoint_push_skip_names(checkpoint_folder)
        return names | {CARD_NAME, LOSS_NAME, STATE_NAME}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        own = self._loss_parameters()
        if own and self.args.should_save:
            torch.save({name: item.detach() for name, item in own.items()}, os.path.join(output_dir, LOSS_NAME))
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        own = self._loss_parameters() if checkpoint is not None else {}
        path = os.path.join(str(checkpoint), LOSS_NAME)
        if own and os.path.exists(path):
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            with torch.no_grad():
                for name, item in own.items():
                    item.copy_(saved[name])
        elif own:
            logger.warning("The checkpoint has no %s: the parameters of the loss start afresh.", LOSS_NAME)
        super()._load_optimizer_and_scheduler(checkpoint)


IOMTSentenceTransformerTrainer.__signature__ = inspect.signature(  # type: ignore[attr-defined]
    SentenceTransformerTrainer
)
