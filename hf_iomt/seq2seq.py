"""[`IOMTSeq2SeqTrainer`]: Seq2SeqTrainer that interleaves optimizers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from .trainer import IOMTTrainerMixin
from .training_args import IOMTTrainingArguments


# The order keeps the defaults of the first: fields of a later base come first, and are overridden.
@dataclass
class IOMTSeq2SeqTrainingArguments(Seq2SeqTrainingArguments, IOMTTrainingArguments):
    """[`~transformers.Seq2SeqTrainingArguments`] with the settings of [`IOMTTrainingArguments`]."""


class IOMTSeq2SeqTrainer(IOMTTrainerMixin, Seq2SeqTrainer):  # type: ignore[misc]
    """
    [`~transformers.Seq2SeqTrainer`] that chooses optimizer and learning rate while it trains, see
    [`IOMTTrainerMixin`].

    It takes the arguments of [`~transformers.Seq2SeqTrainer`], with [`IOMTSeq2SeqTrainingArguments`] as `args`.
    Evaluation during training generates where `predict_with_generate` is set; the race and the cycles see the loss.

    Example:

    ```python
    args = IOMTSeq2SeqTrainingArguments(output_dir="run", max_steps=1000, predict_with_generate=True)
    trainer = IOMTSeq2SeqTrainer(model, args, data_collator=collator, train_dataset=train, eval_dataset=validation)
    trainer.train()
    ```
    """


IOMTSeq2SeqTrainer.__signature__ = inspect.signature(Seq2SeqTrainer)  # type: ignore[attr-defined]
