"""What `lr_scheduler_kwargs` mean where every candidate has a learning rate of its own."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

_WITH_RATE = (SchedulerType.COSINE_WITH_MIN_LR, SchedulerType.COSINE_WARMUP_WITH_MIN_LR)


def check_schedule(args: TrainingArguments) -> None:
    """
    Refuse learning rates that a schedule can only mean as absolute ones: schedules multiply the candidates' own.

    Raises:
        ValueError: `min_lr` of a cosine schedule, or a `max_lr` of `greedy` below 1.
    """
    settings: Any = args.lr_scheduler_kwargs
    if not isinstance(settings, dict):
        return
    kind = SchedulerType(args.lr_scheduler_type)
    if kind in _WITH_RATE and settings.get("min_lr") is not None:
        raise ValueError(
            f"`lr_scheduler_kwargs` of {kind.value!r} has min_lr={settings['min_lr']!r}, a learning rate, but each "
            "candidate has its own. Give `min_lr_rate`, a share of it in [0, 1], instead."
        )
    if kind == SchedulerType.GREEDY:
        greatest = settings.get("max_lr", 1.0)
        if min(greatest if isinstance(greatest, (list, tuple)) else [greatest], default=1.0) < 1:
            raise ValueError(
                f"`lr_scheduler_kwargs` of 'greedy' has max_lr={greatest!r}, but `min_lr` and `max_lr` are multiples "
                "of each candidate's learning rate, which it begins with: `max_lr` must be at least 1."
            )
