"""The command `hf-iomt`."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__

# torch and transformers take seconds to import, so only the commands that need them do: `--help` answers at once.
if TYPE_CHECKING:
    from .optim import Family

_EXAMPLES = """\
examples:
  hf-iomt demo                                   see it work, in about a minute
  hf-iomt candidates                             what can be chosen from
  hf-iomt candidates "adamw:lr=1e-3|3e-4"        what a candidate list stands for

In a script, put IOMTTrainer and IOMTTrainingArguments in place of Trainer and TrainingArguments.
"""
_CANDIDATE_EXAMPLES = """\
A list is `family:key=value|value,key=value; family:...`. `|` separates alternatives, which are combined; `/` separates
the numbers of one value. Every family needs an `lr`. What you trust most comes first.

examples:
  hf-iomt candidates "sgdm:lr=0.1|0.01,momentum=0.9; adamw:lr=1e-3"
  hf-iomt candidates "adam:lr=1e-3,betas=0.9/0.99"
  hf-iomt candidates auto                        what is tried where nothing is named
  hf-iomt candidates "adafactor:lr=1e-3"         every name that `optim=` accepts is a family too
"""


def main(argv: list[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; those of the process if left out.

    Returns:
        `int`: The exit code: 0, or 2 for input that cannot be used.
    """
    for stream in (sys.stdout, sys.stderr):
        # What Windows pipes has an encoding without σ and ω. A report is not to be lost to its summary.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = make_parser().parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments.output_dir, arguments.seed, arguments.steps)
    if arguments.command == "report":
        return _report(arguments.runs, arguments.output)
    if arguments.command == "card":
        return _card(arguments)
    return _candidates(arguments.list)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="hf-iomt",
        description="Fine-tuning without choosing an optimizer or a learning rate.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hf-iomt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="tune a small model and compare with single optimizers; about a minute, no network",
        description=(
            "Pre-train a small ViT on some of scikit-learn's digits, tune it with LoRA to all ten by IOMTTrainer, and "
            "compare with AdamW at Trainer's defaults and with the 15 optimizers of the paper's grid. Runs on the "
            "CPU, without a network."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output-dir", default="hf_iomt_demo", help="folder of the adapter and of the report")
    demo.add_argument("--seed", type=_seed, default=0, help="seed of the data split, the model and the batches")
    demo.add_argument("--steps", type=_steps, default=300, metavar="N", help="optimizer steps of every tuning run")

    candidates = commands.add_parser(
        "candidates",
        help="list optimizer families and presets, or expand a candidate list",
        description=(
            "Without an argument: the families, with the hyperparameters that they can set, and the presets.\n"
            "With one: the candidates that it stands for, one a line."
        ),
        epilog=_CANDIDATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    candidates.add_argument(
        "list", nargs="?", help="a candidate list such as 'sgdm:lr=0.1|0.01; adamw:lr=1e-3', or the name of a preset"
    )

    report = commands.add_parser(
        "report",
        help="what a run did, in words, figures and tables; or a comparison of several",
        description=(
            "Print a summary of each run, and write iomt_report.html, a page that needs nothing else to be read, with "
            "iomt_report.png and iomt_report.svg. The figures need matplotlib (extra plots)."
        ),
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run of IOMTTrainer, or a checkpoint")
    report.add_argument(
        "--output", metavar="DIR", help="folder to write to; by default that of the run, or this one for several runs"
    )
    card = commands.add_parser(
        "card",
        help="write or renew the model card of a run",
        description=(
            "Write README.md and the figure iomt_run.png into the folder of a run, or renew them, from the files that "
            "are there. Nothing is trained or downloaded. What you have written into the card yourself is kept."
        ),
    )
    card.add_argument("run", metavar="RUN", help="output folder of a run, with its iomt_history.json")
    card.add_argument("--name", help="name of the model; by default that of the card or of the folder")
    card.add_argument(
        "--base-model", metavar="ID", help="Hub id of the model that was tuned, if it was a local folder"
    )
    card.add_argument("--dataset", metavar="ID", help="Hub id of the data")
    card.add_argument("--license", metavar="ID", help="identifier of the licence, such as apache-2.0")
    return parser


def _card(arguments: argparse.Namespace) -> int:
    from .model_card import FIGURE_NAME, CardDetails, write_model_card

    try:
        details = CardDetails(
            name=arguments.name,
            base_model=arguments.base_model,
            dataset=arguments.dataset,
            license=arguments.license,
        )
        path = write_model_card(arguments.run, details)
    except (OSError, ValueError) as error:
        return _fail("card", error)
    print(path)
    if not (path.parent / FIGURE_NAME).exists():
        print("Without a figure: install matplotlib for it (pip install 'hf-iomt[plots]').")
    return 0


def _demo(output_dir: str, seed: int, steps: int) -> int:
    from .demo import run_demo

    try:
        run_demo(output_dir, seed=seed, steps=steps)
    except OSError as error:
        return _fail("demo", error)
    return 0


def _candidates(text: str | None) -> int:
    from .optim import PRESETS, get_family, has_relative_rates, list_families, parse_candidates, scale_rates

    if text is None:
        print("Families, with the hyperparameters that a candidate can set:")
        for name in list_families():
            print(f"  {name:<12}{', '.join(get_family(name).hyperparameters)}")
        print("\nPresets:")
        for name, preset in PRESETS.items():
            print(f"  {name:<12}{len(parse_candidates(scale_rates(preset, 1.0)))} candidates: {preset}")
        print(
            "\nLearning rates such as 3x are multiples of the one that a range test finds before training.\n"
            "Other families: every name that `optim=` of TrainingArguments accepts, and what register_family adds."
        )
        return 0
    text = text.strip()
    expanded = PRESETS.get(text, text)
    try:
        candidates = parse_candidates(scale_rates(expanded, 1.0), _find_family)
    except ValueError as error:
        # What has no colon may be a misspelt preset.
        return _fail("candidates", error if ":" in text else f"{error} Presets: {', '.join(PRESETS)}.")
    for candidate in candidates:
        print(candidate.name)
    if has_relative_rates(expanded):
        print("Relative learning rates are shown for x = 1; a range test finds x before training.", file=sys.stderr)
    return 0


def _report(folders: list[str], output: str | None) -> int:
    from .report import draw_comparison, draw_run, read_run, summarize_run, write_report

    try:
        runs = [read_run(folder) for folder in folders]
        for run in runs:
            print(*([f"{run.name}:"] if len(runs) > 1 else []), *summarize_run(run), sep="\n")
        target = Path(output or (folders[0] if len(folders) == 1 else "."))
        written = [write_report(folders, target)]
        for suffix in (".png", ".svg"):
            written.append(written[0].with_suffix(suffix))
            if len(runs) == 1:
                draw_run(runs[0], written[-1])
            else:
                draw_comparison(runs, written[-1])
    except (ImportError, OSError, ValueError) as error:
        return _fail("report", error)
    print("Written:", *written, sep="\n")
    return 0


def _fail(command: str, message: object) -> int:
    print(f"hf-iomt {command}: error: {message}", file=sys.stderr)
    return 2


def _find_family(name: str) -> Family:
    """Every family that the trainer knows; transformers is imported only for those that are not registered."""
    from .optim import get_family, list_families

    if name in list_families():
        return get_family(name)
    from transformers import TrainingArguments

    from .trainer_families import find_family

    return find_family(TrainingArguments(use_cpu=True))(name)


def _seed(text: str) -> int:
    # What numpy takes as a seed.
    return _whole_number(text, 0, 2**32 - 1)


def _steps(text: str) -> int:
    return _whole_number(text, 1, sys.maxsize)


def _whole_number(text: str, least: int, greatest: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= greatest:
        raise argparse.ArgumentTypeError(
            f"must be a whole number between {least:,} and {greatest:,}, but got {text!r}"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
