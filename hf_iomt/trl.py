"""
Trainers of TRL that interleave optimizers, for supervised fine-tuning, DPO and reward models. Needs the extra `trl`.

Each takes the arguments of TRL's trainer, with the config of this module as `args`: TRL's config, with its defaults,
and the settings of [`IOMTTrainingArguments`].

```python
from hf_iomt.trl import IOMTSFTConfig, IOMTSFTTrainer

args = IOMTSFTConfig(output_dir="run", max_steps=1000, max_length=512)
trainer = IOMTSFTTrainer(model, args, train_dataset=train, processing_class=tokenizer, peft_config=LoraConfig())
trainer.train()
```

Other trainers of TRL that train on a fixed data set are combined in the same way, [`IOMTTrainerMixin`] first, and
TRL's config first.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from .trainer import IOMTTrainerMixin
from .training_args import IOMTTrainingArguments

try:
    from trl import (  # type: ignore[attr-defined]
        DPOConfig,
        DPOTrainer,
        RewardConfig,
        RewardTrainer,
        SFTConfig,
        SFTTrainer,
    )
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError(
        "`hf_iomt.trl` needs TRL, which is not installed. Install it with the extra: pip install 'hf-iomt[trl]'."
    ) from error

__all__ = [
    "IOMTDPOConfig",
    "IOMTDPOTrainer",
    "IOMTRewardConfig",
    "IOMTRewardTrainer",
    "IOMTSFTConfig",
    "IOMTSFTTrainer",
]


# The order of the bases keeps TRL's defaults: a dataclass takes the fields of the last base first, and lets those
# before it override them.
@dataclass
class IOMTSFTConfig(SFTConfig, IOMTTrainingArguments):
    """[`~trl.SFTConfig`] with the settings of [`IOMTTrainingArguments`]."""


@dataclass
class IOMTDPOConfig(DPOConfig, IOMTTrainingArguments):
    """
    [`~trl.DPOConfig`] with the settings of [`IOMTTrainingArguments`].

    Raises:
        ValueError: `sync_ref_model` is set.
    """

    def __post_init__(self) -> None:
        if self.sync_ref_model:
            raise ValueError(
                "`sync_ref_model=True` changes what the loss measures while training, so losses before and after it "
                "cannot be compared, and no cycle could be judged. Set `sync_ref_model=False`."
            )
        super().__post_init__()


@dataclass
class IOMTRewardConfig(RewardConfig, IOMTTrainingArguments):
    """[`~trl.RewardConfig`] with the settings of [`IOMTTrainingArguments`]."""


class _TRLMixin(IOMTTrainerMixin):
    """Asks for the right config before TRL converts another one to its own."""

    _config: type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(type(self)).bind_partial(*args, **kwargs).arguments.get("args")
        if not isinstance(given, self._config):
            name = self._config.__name__
            raise TypeError(
                f"`args` must be {name}, but got {type(given).__name__}. Pass `{name}(...)`: it takes the arguments "
                "of TRL's config and those of IOMTTrainingArguments."
            )
        super().__init__(*args, **kwargs)


class IOMTSFTTrainer(_TRLMixin, SFTTrainer):  # type: ignore[misc]
    """
    [`~trl.SFTTrainer`] that chooses optimizer and learning rate while it trains, see [`IOMTTrainerMixin`].

    Raises:
        TypeError: `args` are not [`IOMTSFTConfig`].
    """

    _config = IOMTSFTConfig


class IOMTDPOTrainer(_TRLMixin, DPOTrainer):  # type: ignore[misc]
    """
    [`~trl.DPOTrainer`] that chooses optimizer and learning rate while it trains, see [`IOMTTrainerMixin`].

    The data has no labels, so ω_t is 0.5 unless `iomt_performance_metric="loss"`.

    Raises:
        TypeError: `args` are not [`IOMTDPOConfig`].
    """

    _config = IOMTDPOConfig


class IOMTRewardTrainer(_TRLMixin, RewardTrainer):  # type: ignore[misc]
    """
    [`~trl.RewardTrainer`] that chooses optimizer and learning rate while it trains, see [`IOMTTrainerMixin`].

    The data has no labels, so ω_t is 0.5 unless `iomt_performance_metric="loss"`.

    Raises:
        TypeError: `args` are not [`IOMTRewardConfig`].
    """

    _config = IOMTRewardConfig


IOMTSFTTrainer.__signature__ = inspect.signature(SFTTrainer)  # type: ignore[attr-defined]
IOMTDPOTrainer.__signature__ = inspect.signature(DPOTrainer)  # type: ignore[attr-defined]
IOMTRewardTrainer.__signature__ = inspect.signature(RewardTrainer)  # type: ignore[attr-defined]
