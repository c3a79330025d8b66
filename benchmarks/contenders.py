"""Who is compared with whom: each row of a table, and the methods among which its settings are tuned."""

from __future__ import annotations

from dataclasses import dataclass

from .methods import GROUPS, METHODS
from .protocol import Runs, metric_of, tuned


@dataclass(frozen=True)
class Contender:
    """
    A row: what a user could do instead.

    Args:
        title (`str`): Its name for a reader.
        methods (`tuple[str, ...]`): Settings of it, of which the validation split picks one.
        role (`str`): `iomt`, `single`, `hybrid`, `peer`, `search` or `control`.
    """

    title: str
    methods: tuple[str, ...]
    role: str

    def pick(self, runs: Runs) -> str | None:
        """The setting that validation picks on an experiment, `None` where none of them was run."""
        return tuned(self.methods, runs, metric_of(runs))

    def is_complete(self, runs: Runs) -> bool:
        """Whether all of its settings were run on an experiment: else it was tuned less than its name says."""
        return all(name in runs for name in self.methods)


def _starting(prefix: str) -> tuple[str, ...]:
    return tuple(name for name in METHODS if name.startswith(prefix))


def _family(name: str) -> tuple[str, ...]:
    names = dict.fromkeys([*GROUPS["singles"], *GROUPS["hybrids"], *GROUPS["grid"]])
    return tuple(item for item in names if item.startswith(f"{name}:"))


def _scheduled(title: str) -> tuple[str, ...]:
    return tuple(item for item in GROUPS["schedules"] if item.endswith(f", {title}"))


DEFAULT = Contender("IOMT, nothing set", ("iomt default",), "iomt")

CONTENDERS: tuple[Contender, ...] = (
    DEFAULT,
    Contender("IOMT, the paper's 15 candidates", ("iomt grid",), "iomt"),
    Contender("IOMT, paper preset", ("iomt paper",), "iomt"),
    Contender("best of the paper's grid (15 runs)", tuple(GROUPS["grid"]), "single"),
    Contender("AdamW, tuned (9 runs)", tuple(GROUPS["adamw"]), "single"),
    Contender("AdamW, tuned (9 runs), each at its best checkpoint", tuple(GROUPS["best_checkpoints"]), "single"),
    Contender("NAdam, tuned (4 runs)", tuple(GROUPS["nadam"]), "single"),
    Contender("control: NAdam at what the range test finds, alone", ("iomt range test, alone",), "control"),
    Contender("control: AdamW at what the range test finds, alone", ("iomt range test, AdamW",), "control"),
    Contender("AdamW, 5e-5 (Trainer's default)", ("adamw:lr=5e-05,weight_decay=0",), "single"),
    Contender("Schedule-Free AdamW, tuned", _starting("schedule-free adamw"), "peer"),
    Contender("Schedule-Free SGD, tuned", _starting("schedule-free sgd"), "peer"),
    Contender("Prodigy", ("prodigy",), "peer"),
    Contender("AdamW 1e-3, greedy schedule", ("adamw:lr=0.001,weight_decay=0, greedy",), "peer"),
    Contender("LoRA+, tuned", _starting("LoRA+"), "peer"),
    Contender("Riemannian AdamW, tuned", _starting("Riemannian"), "peer"),
    Contender("LoRA-RITE, tuned", _starting("LoRA-RITE"), "peer"),
    Contender("SWATS, tuned", _family("swats"), "hybrid"),
    Contender("Padam, tuned", _family("padam"), "hybrid"),
    Contender("AdaBound, tuned", _family("adabound"), "hybrid"),
    Contender("step schedule, tuned", _scheduled("steps"), "single"),
    Contender("cosine schedule, tuned", _scheduled("cosine"), "single"),
    Contender("constant rate, tuned", _scheduled("constant"), "single"),
    Contender("Optuna, as many steps as one run", ("Optuna, 1 × steps",), "search"),
    Contender("Optuna, 15 runs", ("Optuna, 15 × steps",), "search"),
    Contender("population-based training, 4 runs", ("population-based training, 4 × steps",), "search"),
    Contender("control: nothing set, random switching", ("iomt default, random",), "control"),
    Contender("control: nothing set, cyclical switching", ("iomt default, cyclical",), "control"),
    Contender("control: nothing set, no watch over overfitting", ("iomt default, no watch",), "control"),
    Contender("control: 15 candidates, random switching", ("iomt grid, random",), "control"),
    Contender("control: 15 candidates, cyclical switching", ("iomt grid, cyclical",), "control"),
    Contender("control: 15 candidates, race and then its first alone", ("iomt grid, commit",), "control"),
    Contender("control: paper preset, random switching", ("iomt paper, random",), "control"),
    Contender("control: paper preset, cyclical switching", ("iomt paper, cyclical",), "control"),
)

# No method learns anything there: what is compared is chance.
UNLEARNED = ("rte_minilm_lora", "wnli_minilm_lora")
# What the target of an experiment is taken from: the best of these, tuned.
SINGLES: tuple[str, ...] = tuple(dict.fromkeys(GROUPS["singles"] + GROUPS["grid"]))
# Families with their learning rates, for the curves over the learning rate and for the paper's tables.
FAMILIES: dict[str, tuple[str, ...]] = {
    name: _family(name)
    for name in (
        *("sgd", "sgdm", "adagrad", "rmsprop", "adam", "asgd", "adamw", "nadam", "adamax"),
        *("swats", "padam", "adabound"),
    )
}
