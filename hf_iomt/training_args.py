"""[`IOMTTrainingArguments`]: Trainer's arguments and the settings of IOMT."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.utils.generic import ExplicitEnum

from .choices import (
    IOMTIdleState,
    IOMTInitialSampling,
    IOMTOffload,
    IOMTPreset,
    IOMTScore,
    IOMTSelection,
    IOMTStateCompression,
    IOMTTransferabilitySplit,
    IOMTVarianceWeight,
)
from .hub_token import HubToken
from .interleaving_settings import InterleavingSettings
from .schedule import check_schedule
from .selection import SelectorSettings
from .validation import (
    LARGEST_COUNT,
    check_candidates,
    check_choices,
    check_pattern,
    check_ranges,
    check_switch_steps,
    check_switches,
    check_trainer_arguments,
    check_transferability,
)

# What a preset gives the settings that the user leaves unset. The two differ in what makes exploration safe.
PRESET_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {
        "iomt_candidates": "auto",
        "iomt_switch_steps": 25,
        "iomt_initial_cycles": 0,
        "iomt_halving_cycles": 20,
        "iomt_variance_weight": "printed",
        "iomt_score": "trend",
        "iomt_race_steps": 40,
        "iomt_rollback": True,
        "iomt_patience": 4,
        "iomt_takeover_steps": 8,
        "iomt_overfitting_samples": 256,
        "iomt_advantage": 2.0,
    },
    "paper": {
        "iomt_candidates": "paper",
        "iomt_switch_steps": 25,
        "iomt_initial_cycles": 20,
        "iomt_halving_cycles": 20,
        "iomt_variance_weight": "text",
        "iomt_score": "losses",
        "iomt_race_steps": 0,
        "iomt_rollback": False,
        "iomt_patience": 0,
        "iomt_takeover_steps": 0,
        "iomt_overfitting_samples": 0,
        "iomt_advantage": 0.0,
    },
}

_CHOICES: dict[str, type[ExplicitEnum]] = {
    "iomt_preset": IOMTPreset,
    "iomt_selection": IOMTSelection,
    "iomt_initial_sampling": IOMTInitialSampling,
    "iomt_variance_weight": IOMTVarianceWeight,
    "iomt_state_compression": IOMTStateCompression,
    "iomt_score": IOMTScore,
    "iomt_idle_state": IOMTIdleState,
    "iomt_offload": IOMTOffload,
    "iomt_transferability_split": IOMTTransferabilitySplit,
}

# Beyond this a score would overflow.
_LARGEST = 1e6
# Least and greatest value, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "iomt_initial_cycles": (0, LARGEST_COUNT),
    "iomt_alpha": (-_LARGEST, _LARGEST),
    "iomt_min_weight": (0, 1),
    "iomt_beta": (0, 1),
    "iomt_transferability_samples": (2, LARGEST_COUNT),
    "iomt_halving_cycles": (0, LARGEST_COUNT),
    "iomt_state_components": (1, 10_000),
    "iomt_surrogate_window": (2, LARGEST_COUNT),
    "iomt_probe_samples": (0, LARGEST_COUNT),
    "iomt_race_steps": (0, LARGEST_COUNT),
    "iomt_patience": (0, LARGEST_COUNT),
    "iomt_takeover_steps": (0, LARGEST_COUNT),
    "iomt_overfitting_samples": (0, LARGEST_COUNT),
    "iomt_advantage": (0, _LARGEST),
}

_COUNTS = (
    "iomt_initial_cycles",
    "iomt_transferability_samples",
    "iomt_halving_cycles",
    "iomt_state_components",
    "iomt_surrogate_window",
    "iomt_probe_samples",
    "iomt_race_steps",
    "iomt_patience",
    "iomt_takeover_steps",
    "iomt_overfitting_samples",
)

_SWITCHES = ("iomt_rollback",)


@dataclass
class IOMTTrainingArguments(TrainingArguments):
    r"""
    Trainer's arguments with the settings of IOMT.

    `optim`, `optim_args` and `learning_rate` are not used: the candidates say what there is to choose from.
    `lr_scheduler_type` and warm-up multiply every candidate's learning rate; `min_lr`, `max_lr` and `lr_end` in
    `lr_scheduler_kwargs` are multiples of it. `weight_decay` applies to the candidates that do not set their own.

    Settings left unset (`None`) come from `iomt_preset`.

    > Parameters that control the candidates

    Args:
        iomt_preset (`str`, *optional*, defaults to `"default"`):
            `"default"`, or `"paper"` for the paper's algorithm without the race, the probe and rollback.
        iomt_candidates (`str` or `list`, *optional*):
            A candidate list such as `"sgdm:lr=0.1|0.01; adamw:lr=1e-3"`, a list of such strings, of
            [`~optim.Candidate`]s or of dictionaries, or the name of a preset list: `"paper"`, `"paper_wide"`,
            `"lora"`, `"head"`, `"full"`, or `"auto"`, which looks at what is trainable. Default preset: `"auto"`.
            What you trust most comes first: see `iomt_advantage`.
        iomt_idle_state (`str`, *optional*, defaults to `"keep"`):
            `"keep"` or `"reset"` the optimizer state of families that are not active.
        iomt_offload (`str`, *optional*, defaults to `"none"`):
            Where copies of the trainable parameters and optimizer states lie that are not in use (entrants of the
            race, what rollback needs, idle families): `"none"`, beside the parameters; `"cpu"`, in the CPU's memory;
            `"disk"`, in files in `output_dir` that have no name and go with the process. It changes no number.

    > Parameters that control the cycles (Algorithm 1)

    Args:
        iomt_switch_steps (`float`, *optional*):
            Switch step τ: optimizer steps of a cycle, or below 1 a share of an epoch. Both presets: 25.
        iomt_initial_cycles (`int`, *optional*):
            Cycles n_ini drawn by Eq. 3 before the surrogate decides. Default preset: 0, because a race has shown what
            each candidate does, or the first of the list is trusted most; paper: 20. At most a sixth of the cycles of
            the run.
        iomt_initial_sampling (`str`, *optional*, defaults to `"weighted"`):
            `"weighted"` (Eq. 3) or `"uniform"`.
        iomt_min_weight (`float`, *optional*, defaults to 0.1):
            Least sampling weight ω_min of Eq. 3, in [0, 1].
        iomt_selection (`str`, *optional*, defaults to `"surrogate"`):
            `"surrogate"`, or the ablations `"random"`, `"cyclical"` and `"commit"`, which stays with the candidate
            that the race goes on from.

    > Parameters that control the score (Eq. 2)

    Args:
        iomt_score (`str`, *optional*):
            What Eq. 2 sees: `"losses"`, the τ + 1 training losses; `"trend"`, the mean training losses of the second
            half of the cycle before and of this one, which are less noisy; `"probe"`, the loss of the probe at both
            ends of the cycle. Default preset: `"trend"`, paper: `"losses"`.
        iomt_alpha (`float`, *optional*, defaults to 0.1):
            Weight α of the spread.

    > Parameters that control the surrogate and the acquisition (Eq. 4 to 7)

    Args:
        iomt_surrogate_window (`int`, *optional*, defaults to 64):
            How many of the newest observations the surrogates keep.
        iomt_state_compression (`str`, *optional*, defaults to `"pca"`):
            `"pca"`, `"rp"`, `"umap"` (extra `umap`), or `"none"` to leave the parameter state out.
        iomt_state_components (`int`, *optional*, defaults to 2):
            Numbers that describe a parameter state.
        iomt_state_parameters (`str`, *optional*):
            Regular expression for the names of the parameters that the state describes. Defaults to the LoRA matrices,
            else the classifier and the last hidden layers.
        iomt_halving_cycles (`int`, *optional*):
            Halving period n of Eq. 7, in cycles; 0 turns halving off. Both presets: 20.
        iomt_variance_weight (`str`, *optional*):
            Reading of Eq. 7: `"text"`, 2^(−⌊i/n⌋)·(1 − ω_t), or `"printed"`, 1 − 2^(−⌊i/n⌋)·ω_t.
            Default preset: `"printed"`, paper: `"text"`.

    > Parameters that control the transferability weight ω_t (Eq. 6)

    Args:
        iomt_transferability (`str` or `float`, *optional*, defaults to `"auto"`):
            `"auto"` measures ω_t before the first step, where several candidates are chosen by the surrogate;
            `"off"` leaves it out of Eq. 5 and 7 (ω_t = 0); or a number in [0, 1].
        iomt_transferability_split (`str`, *optional*, defaults to `"train"`):
            The data to measure on: `"train"`, so that no label of the evaluation data has a say, or `"eval"`.
        iomt_transferability_samples (`int`, *optional*, defaults to 2000):
            Samples to measure on, at most. Training reads no more than 3 % of the samples that it trains on, which
            costs about 1 % of its time, but at least 64.
        iomt_performance_metric (`str`, *optional*):
            The metric ω_p, by its name in what `compute_metrics` returns, or `"loss"`. Defaults to
            `metric_for_best_model` unless it is a loss, else the accuracy, else the first metric; without
            `compute_metrics`, and where generation would be needed, to the accuracy of the logits, micro F1 (several
            labels per sample) or R². What is better when lower is mapped, see [`~transferability.map_metric`].
        iomt_distribution_metrics (`list[str]`, *optional*, defaults to `["log_me", "leep"]`):
            The metrics ω_d: any of `"log_me"`, `"leep"` and `"h_score"`. Those that do not apply are left out.
        iomt_beta (`float`, *optional*, defaults to 0.5):
            Weight β of ω_p, in [0, 1].

    > Parameters that control what makes exploration safe

    Args:
        iomt_advantage (`float`, *optional*):
            Head start of the first candidate of the list, the one to trust most: the surrogate turns to another where
            its gain is larger by this many standard deviations of the scores. Of more than three candidates another
            one has it where the first does not suit, see `stride.choose_entrants`. Default preset: 2, paper: 0.
        iomt_race_steps (`int`, *optional*):
            Steps of a finalist in the racing start; 0 turns the race off. More than three candidates are then
            not measured before it, see `stride.choose_entrants`. Default preset: 40, paper: 0.
            A race takes at most a tenth of a run for up to 7 candidates and a fifth for 15 or more; it is shortened
            in proportion where there is less room.
        iomt_rollback (`bool`, *optional*):
            Undo a cycle that clearly damaged the model. Default preset: on, paper: off.
        iomt_patience (`int`, *optional*):
            Go back to the best known parameters after this many damaged cycles in a row; 0 turns it off.
            Default preset: 4, paper: 0.
        iomt_takeover_steps (`int`, *optional*):
            Steps over which the learning rate rises where a family takes over from another, half of a cycle at most;
            0 turns it off. Default preset: 8, paper: 0.
        iomt_overfitting_samples (`int`, *optional*):
            Samples of `eval_dataset`, at most, on which a run of several epochs is watched: where their loss rises
            while the training loss falls, the parameters with the least one come back and all learning rates are
            divided by 3. It takes about 3 % of the run at most; 0 turns it off. Default preset: 256, paper: 0.
        iomt_probe_samples (`int`, *optional*, defaults to 0):
            Training samples of the probe. 0 stands for half of what an optimizer step trains on, at least 8, at the
            ends of cycles, and for 16 to 128 in the race, by the length of the run.
    """

    iomt_preset: str = field(default="default", metadata={"help": "'default' or 'paper': gives the unset settings."})
    iomt_candidates: str | None = field(
        default=None,
        metadata={"help": "Candidate list, e.g. 'sgdm:lr=0.1|0.01; adamw:lr=1e-3', or auto, lora, head, full, paper."},
    )
    iomt_idle_state: str = field(
        default="keep", metadata={"help": "'keep' or 'reset' the state of families that are not active."}
    )
    iomt_offload: str = field(
        default="none", metadata={"help": "Where copies that are not in use are kept: 'none', 'cpu' or 'disk'."}
    )
    iomt_switch_steps: float | None = field(
        default=None, metadata={"help": "Switch step τ: optimizer steps of a cycle, below 1 a share of an epoch."}
    )
    iomt_initial_cycles: int | None = field(
        default=None, metadata={"help": "Cycles n_ini that are drawn by Eq. 3 before the surrogate decides."}
    )
    iomt_initial_sampling: str = field(
        default="weighted", metadata={"help": "'weighted' (Eq. 3) or 'uniform' draws in the initial cycles."}
    )
    iomt_min_weight: float = field(default=0.1, metadata={"help": "Least sampling weight ω_min of Eq. 3, in [0, 1]."})
    iomt_selection: str = field(
        default="surrogate", metadata={"help": "'surrogate', or the ablations 'random', 'cyclical' and 'commit'."}
    )
    iomt_score: str | None = field(
        default=None, metadata={"help": "What Eq. 2 sees: 'losses' of the cycle, their 'trend', or a 'probe'."}
    )
    iomt_alpha: float = field(default=0.1, metadata={"help": "Weight α of the spread in Eq. 2."})
    iomt_surrogate_window: int = field(
        default=64, metadata={"help": "How many of the newest observations the surrogates keep."}
    )
    iomt_state_compression: str = field(
        default="pca", metadata={"help": "Compression of the parameter state: 'pca', 'rp', 'umap' or 'none'."}
    )
    iomt_state_components: int = field(default=2, metadata={"help": "Numbers that describe a parameter state."})
    iomt_state_parameters: str | None = field(
        default=None, metadata={"help": "Regular expression for the parameters that the state describes."}
    )
    iomt_transferability: str = field(
        default="auto",
        metadata={"help": "Transferability weight ω_t: 'auto' measures it, 'off', or a number in [0, 1]."},
    )
    iomt_transferability_split: str = field(
        default="train", metadata={"help": "Data that ω_t is measured on: 'train' or 'eval'."}
    )
    iomt_transferability_samples: int = field(
        default=2000, metadata={"help": "Samples that ω_t is measured on, at most."}
    )
    iomt_performance_metric: str | None = field(
        default=None, metadata={"help": "Metric ω_p of ω_t, of those that compute_metrics returns, or 'loss'."}
    )
    iomt_distribution_metrics: list[str] = field(
        default_factory=lambda: ["log_me", "leep"],
        metadata={"help": "Metrics ω_d of ω_t: any of log_me, leep, h_score."},
    )
    iomt_beta: float = field(default=0.5, metadata={"help": "Weight β of ω_p in ω_t (Eq. 6), in [0, 1]."})
    iomt_halving_cycles: int | None = field(
        default=None, metadata={"help": "Halving period n of Eq. 7, in cycles; 0 turns halving off."}
    )
    iomt_variance_weight: str | None = field(default=None, metadata={"help": "Reading of Eq. 7: 'text' or 'printed'."})
    iomt_advantage: float | None = field(
        default=None, metadata={"help": "Head start of the first candidate, in standard deviations of the scores."}
    )
    iomt_race_steps: int | None = field(
        default=None, metadata={"help": "Steps of a finalist in the racing start; 0 turns the race off."}
    )
    iomt_rollback: bool | None = field(default=None, metadata={"help": "Undo a cycle that clearly damaged the model."})
    iomt_patience: int | None = field(
        default=None, metadata={"help": "Damaged cycles in a row before going back to the best parameters; 0 is off."}
    )
    iomt_takeover_steps: int | None = field(
        default=None, metadata={"help": "Steps over which the rate rises where a family takes over; 0 is off."}
    )
    iomt_overfitting_samples: int | None = field(
        default=None, metadata={"help": "Samples of eval_dataset that are watched for overfitting, at most; 0 is off."}
    )
    iomt_probe_samples: int = field(
        default=0, metadata={"help": "Samples of the probe; 0 chooses by the batch and the length of the run."}
    )

    def __post_init__(self) -> None:
        self.validate_iomt()
        super().__post_init__()
        check_schedule(self)
        if self.hub_token is not None:
            self.hub_token = HubToken(self.hub_token)

    @property
    def transferability_weight(self) -> float | None:
        """ω_t where it is set, `None` where it is to be measured."""
        value = self.iomt_transferability
        return None if value == "auto" else 0.0 if value == "off" else float(value)

    def selector_settings(self, initial_cycles: int, transferability: float) -> SelectorSettings:
        """The settings of the selector, for a run with room for this many initial cycles and with this ω_t."""
        values = {item.name: getattr(self, f"iomt_{item.name}") for item in fields(SelectorSettings)}
        values |= {"initial_cycles": initial_cycles, "transferability": transferability}
        return SelectorSettings(**values)

    def interleaving_settings(self, switch_steps: int) -> InterleavingSettings:
        """The settings of the loop, for cycles of this many steps."""
        values = {item.name: getattr(self, f"iomt_{item.name}") for item in fields(InterleavingSettings)}
        return InterleavingSettings(**{**values, "switch_steps": switch_steps})

    def validate_iomt(self) -> None:
        """Check the settings of IOMT, and fill those left unset in from the preset. Raises `ValueError`."""
        check_choices(self, _CHOICES, optional=PRESET_SETTINGS["default"])
        for name, value in PRESET_SETTINGS[self.iomt_preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        check_ranges(self, _RANGES, _COUNTS)
        check_switch_steps(self.iomt_switch_steps)
        check_switches(self, _SWITCHES)
        check_pattern("iomt_state_parameters", self.iomt_state_parameters)
        check_transferability(self)
        check_trainer_arguments(self)
        check_candidates(self)


def default_settings(preset: str) -> dict[str, Any]:
    """What the settings of IOMT are where a run names none of them; of an unknown preset those that need none."""
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(IOMTTrainingArguments)
        if item.name.startswith("iomt_")
    }
    return {**defaults, **PRESET_SETTINGS.get(preset, {})}
