"""What a card tells of a run, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .card_evaluation import title
from .report import Run, candidate_shares, summarize_run
from .training_args import default_settings
from .transferability import Transferability

PAPER = "https://openreview.net/forum?id=uApm5otXfH"

_CITATION = f"""\
The algorithm is that of the paper:

```bibtex
@misc{{iomt,
  title = {{Interleaving Optimizers for {{DNN}} Training}},
  howpublished = {{OpenReview}},
  url = {{{PAPER}}}
}}
```"""
# Where the arguments of each trainer come from; those of one's own trainers are IOMT's.
_ARGUMENTS = {
    "IOMTSeq2SeqTrainer": ("hf_iomt", "IOMTSeq2SeqTrainingArguments"),
    "IOMTSFTTrainer": ("hf_iomt.trl", "IOMTSFTConfig"),
    "IOMTDPOTrainer": ("hf_iomt.trl", "IOMTDPOConfig"),
    "IOMTRewardTrainer": ("hf_iomt.trl", "IOMTRewardConfig"),
    "IOMTSentenceTransformerTrainer": ("hf_iomt.sentence_transformers", "IOMTSentenceTransformerTrainingArguments"),
}
_DEFAULT_SEED = 42
# Where a run is published changes nothing that was trained.
_NOT_REPRODUCED = ("hub_", "push_to_hub", "report_to")
# Absolute paths of this machine in a reason; addresses have a colon before.
_PATH = re.compile(r"(?<![\w:/.])(?:~|[A-Za-z]:)?(?:[/\\][\w.\-+@]+){2,}")


def describe_run(run: Run, evaluation: Mapping[str, float]) -> dict[str, str]:
    """
    The parts of the card's section by their names in the template; empty where there is nothing to tell.

    Args:
        run ([`~report.Run`]): The run.
        evaluation (`Mapping[str, float]`): The metrics of the last evaluation.
    """
    record = run.record or {}
    changed = changed_settings(record.get("settings") or {})
    return {
        "summary": _summary(run),
        "candidates": _candidates(run),
        "rolled_back": _rolled_back(run),
        "transferability": _transferability(run.transferability),
        "evaluation": _table(("metric", "value"), [(title(name), f"{item:.4g}") for name, item in evaluation.items()]),
        "settings": _settings(record, changed),
        "reproduction": _reproduction(record, changed),
        "versions": ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items()),
        "citation": _CITATION,
    }


def changed_settings(settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """
    The settings of IOMT that differ from their defaults, with these defaults.

    Args:
        settings (`Mapping[str, Any]`): The settings of a run. `iomt_preset` says which defaults they have.
    """
    defaults = default_settings(str(settings.get("iomt_preset")))
    return {
        name: (value, defaults[name])
        for name, value in settings.items()
        if name in defaults and value != defaults[name]
    }


def _summary(run: Run) -> str:
    number = len(run.candidates)
    begin = (
        f"Optimizer and learning rate were chosen while training, out of {number} "
        f"candidate{'s' if number != 1 else ''}, by `hf-iomt` ([the paper]({PAPER}))."
    )
    return "\n".join([begin, "", *(f"- {sentence}" for sentence in summarize_run(run))])


def _candidates(run: Run) -> str:
    rows = [
        (f"`{row.candidate}`", f"{row.steps:,}", f"{row.share:.1%}", f"{row.cycles:,}", _number(row.mean_score))
        for row in candidate_shares(run)
    ]
    note = "\n\nSteps of the race count; cycles are those after it. A score above 0 is a loss that fell."
    return _table(("candidate", "steps", "share of the steps", "cycles", "mean score"), rows) + note


def _rolled_back(run: Run) -> str:
    if not any(record.get("rolled_back") for record in run.history):
        return "Nothing: no cycle did damage."
    rows = []
    for name in run.candidates:
        cycles = [record for record in run.undone if record["candidate"] == name]
        lost = sum(bool(record.get("rolled_back")) for record in run.race if record["candidate"] == name)
        if cycles or lost:
            steps = sum(record["last_step"] - record["first_step"] + 1 for record in cycles)
            rows.append((f"`{name}`", f"{len(cycles):,}", f"{steps:,}", "out" if lost else ""))
    return (
        "After a cycle that did damage the parameters went back to what they were before it; what did damage in the "
        "race left it.\n\n" + _table(("candidate", "cycles undone", "their steps", "race"), rows)
    )


def _transferability(found: Mapping[str, Any] | None) -> str:
    try:
        return "" if not found else _PATH.sub("…", f"{Transferability(**found)}.")
    except TypeError:
        # Of another version.
        return ""


def _settings(record: Mapping[str, Any], changed: Mapping[str, tuple[Any, Any]]) -> str:
    if not record:
        return ""
    if not changed:
        return "All settings of IOMT have their defaults."
    rows = [(f"`{name}`", _code(value), _code(default)) for name, (value, default) in changed.items()]
    return "As the run used them, which may have had no room for a default.\n\n" + _table(
        ("setting", "value", "default"), rows
    )


def _reproduction(record: Mapping[str, Any], changed: Mapping[str, tuple[Any, Any]]) -> str:
    if not record:
        return ""
    trainer = str(record.get("trainer") or "IOMTTrainer")
    module, arguments = _ARGUMENTS.get(trainer, ("hf_iomt", "IOMTTrainingArguments"))
    own = trainer != "IOMTTrainer" and trainer not in _ARGUMENTS
    names = arguments if own else f"{trainer}, {arguments}"
    values = {
        name: value for name, value in (record.get("arguments") or {}).items() if not name.startswith(_NOT_REPRODUCED)
    }
    values = {**values, "seed": values.get("seed", _DEFAULT_SEED)}
    values |= {name: value for name, (value, _) in changed.items()}
    lines = [f"    {name}={_literal(value)}," for name, value in values.items()]
    return "\n".join(
        [
            "Besides the model and the data, these arguments and the seed determine the run. All others have their "
            "defaults.\n",
            "```python",
            f"from {module} import {names}",
            "",
            f"args = {arguments}(",
            '    output_dir="run",',
            *lines,
            ")",
            f"trainer = {trainer}(model, args, train_dataset=train, eval_dataset=validation)",
            "trainer.train()",
            "```",
        ]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, each row of which is one line; empty without rows."""
    cells = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines]) if lines else ""


def _code(value: Any) -> str:
    return "none" if value is None else f"`{value}`"


def _literal(value: Any) -> str:
    """The value in Python, strings as this project writes them."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
