"""Checks of settings before anything is built: what a value is, what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.utils.generic import ExplicitEnum

from .optim import PRESETS, Candidate, format_candidates, parse_candidates, scale_rates
from .trainer_families import find_family
from .transferability import DISTRIBUTION_METRICS

# What is counted is not more than this; larger integers have no place in a float, a slice or an array's size.
LARGEST_COUNT = 10**9
# The greatest seed of NumPy, and the least and the greatest of torch.
_LARGEST_SEED = 2**32 - 1
_TORCH_SEEDS = (-(2**63), 2**64 - 1)
_LARGEST_DECAY = 1e6


def check_choices(args: Any, choices: Mapping[str, type[ExplicitEnum]], optional: Collection[str]) -> None:
    """Settings of a few words; those of `optional` may be unset. Members of the enumerations become strings."""
    for name, kind in choices.items():
        value = getattr(args, name)
        if value is None and name in optional:
            continue
        value = value.value if isinstance(value, ExplicitEnum) else value
        allowed = [choice.value for choice in kind]
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, but got {value!r}.")
        setattr(args, name, value)


def check_ranges(args: Any, ranges: Mapping[str, tuple[float, float]], counts: Collection[str]) -> None:
    """Numbers between two ends, both allowed; those of `counts` are whole."""
    for name, (least, greatest) in ranges.items():
        value, whole = getattr(args, name), name in counts
        if not _is_number(value, (int,) if whole else (int, float)) or not least <= value <= greatest:
            hint = " Give a whole number." if whole else ""
            raise ValueError(f"`{least} <= {name} <= {greatest}` must hold, but got {name}={_show(value)}.{hint}")


def check_switch_steps(tau: Any) -> None:
    """The switch step: a count, or a share of an epoch."""
    if not _is_number(tau) or not 0 < tau <= LARGEST_COUNT or (tau > 1 and tau != int(tau)):
        raise ValueError(
            "`iomt_switch_steps` must be a whole number of steps, at least 1, or a share of an epoch between 0 "
            f"and 1, but got {_show(tau)}."
        )


def check_switches(args: Any, names: Collection[str]) -> None:
    """Settings that are on or off."""
    for name in names:
        value = getattr(args, name)
        if not isinstance(value, bool):
            # The text "false" would count as true.
            raise ValueError(f"`{name}` must be True or False, but got {value!r}.")


def check_pattern(name: str, pattern: Any) -> None:
    """A regular expression, or nothing."""
    try:
        valid = pattern is None or (isinstance(pattern, str) and bool(re.compile(pattern)))
        reason = ""
    except re.error as error:
        valid, reason = False, f": {error}"
    if not valid:
        raise ValueError(
            f"`{name}` must be a regular expression for names of parameters, such as 'classifier|layer\\.11', but got "
            f"{pattern!r}{reason}."
        )


def check_transferability(args: Any) -> None:
    """ω_t and its parts. A number becomes a string, which is what the field is on the command line."""
    value = args.iomt_transferability
    if value not in ("auto", "off"):
        try:
            valid = not isinstance(value, bool) and 0 <= float(value) <= 1
        except (TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            raise ValueError(
                f"`iomt_transferability` must be 'auto', 'off' or a number in [0, 1], but got {_show(value)}."
            )
        args.iomt_transferability = str(value)
    names: Any = args.iomt_distribution_metrics
    # Through a list, because what cannot be hashed is compared as well.
    known = isinstance(names, (list, tuple)) and all(name in list(DISTRIBUTION_METRICS) for name in names)
    if not known or len(set(names)) < len(names):
        raise ValueError(
            f"`iomt_distribution_metrics` must be a list of some of {', '.join(DISTRIBUTION_METRICS)}, each once, "
            f"but got {names!r}."
        )
    metric = args.iomt_performance_metric
    if metric is not None and (not isinstance(metric, str) or not metric):
        raise ValueError(
            "`iomt_performance_metric` must be the name of a metric that `compute_metrics` returns, or 'loss', "
            f"but got {metric!r}."
        )


def check_candidates(args: Any) -> None:
    """The candidate list, which becomes a string: what survives the command line, JSON and the checkpoint."""
    value = args.iomt_candidates
    if not isinstance(value, (str, Sequence)) or isinstance(value, (bytes, Mapping, Candidate)):
        raise ValueError(f"`iomt_candidates` must be a string or a list, but got {value!r}.")
    args.iomt_candidates = format_candidates(value)
    if args.iomt_candidates not in PRESETS:
        try:
            # Any unit will do.
            parse_candidates(scale_rates(args.iomt_candidates, 1e-3), find_family(args))
        except ValueError as error:
            raise ValueError(
                f"Cannot use `iomt_candidates={args.iomt_candidates!r}`. {error} "
                f"The name of a preset is allowed too: {', '.join(PRESETS)}."
            ) from None


def check_trainer_arguments(args: TrainingArguments) -> None:
    """Arguments of Trainer that it does not check itself, and that would end the run somewhere inside."""
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        value = getattr(args, name)
        if not _is_number(value, (int,)) or not 1 <= value <= LARGEST_COUNT:
            raise ValueError(f"`{name}` must be a whole number, at least 1, but got {_show(value)}.")
    if not _is_number(args.seed, (int,)) or not 0 <= args.seed <= _LARGEST_SEED:
        raise ValueError(f"`seed` must be a whole number from 0 to {_LARGEST_SEED}, but got {_show(args.seed)}.")
    least, greatest = _TORCH_SEEDS
    if args.data_seed is not None and not (_is_number(args.data_seed, (int,)) and least <= args.data_seed <= greatest):
        raise ValueError(
            f"`data_seed` must be None, or a whole number from {least} to {greatest}, but got {_show(args.data_seed)}."
        )
    if not _is_number(args.num_train_epochs) or not 0 <= args.num_train_epochs <= LARGEST_COUNT:
        raise ValueError(
            f"`num_train_epochs` must be a number from 0 to {LARGEST_COUNT}, but got {_show(args.num_train_epochs)}."
        )
    if not _is_number(args.max_grad_norm):
        raise ValueError(f"`max_grad_norm` must be a number, 0 for no clipping, but got {args.max_grad_norm!r}.")
    if not _is_number(args.weight_decay) or not 0 <= args.weight_decay <= _LARGEST_DECAY:
        raise ValueError(
            f"`weight_decay` must be a number from 0 to {_LARGEST_DECAY:g}, but got {_show(args.weight_decay)}. It "
            "holds for the candidates that set none of their own."
        )
    if args.optim_target_modules:
        raise ValueError(
            f"`optim_target_modules` has no effect, but got {args.optim_target_modules!r}: it belongs to GaLore and "
            "APOLLO, which choose their own parameters and cannot take turns with others. Please leave it out."
        )


def check_train_dataset(dataset: Any) -> None:
    """Data of a known length has samples."""
    try:
        empty = dataset is not None and len(dataset) == 0
    except TypeError:
        return
    if empty:
        raise ValueError(
            "`train_dataset` is empty: it has no sample to train on. Look at how it was filtered or split."
        )


def try_schedule(scheduler: Any, steps: int) -> None:
    """Ask a schedule for its first and its last factors, which may be divisions by zero in short runs."""
    for factor in getattr(scheduler, "lr_lambdas", []):
        for step in {0, 1, steps - 1, steps} & set(range(steps + 1)):
            factor(step)


def describe_schedule(args: TrainingArguments, steps: int) -> str:
    """The arguments that a schedule follows from, for an error about it."""
    return (
        f"Cannot use the schedule of `lr_scheduler_type={SchedulerType(args.lr_scheduler_type).value!r}` with "
        f"`lr_scheduler_kwargs={args.lr_scheduler_kwargs!r}` and `warmup_steps={args.warmup_steps!r}` on {steps} steps"
    )


def _is_number(value: Any, kinds: tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _show(value: Any) -> str:
    """Python writes no integers of thousands of digits."""
    huge = isinstance(value, int) and abs(value) > 10**30
    return f"an integer of {int(math.log10(abs(value))) + 1} digits" if huge else repr(value)
