"""
Tables and figures from the results, and from nothing else.

    python -m benchmarks summarize                    # everything, into the folder of results
    python -m benchmarks summarize --only table7      # one of the paper's tables, printed
    python -m benchmarks summarize --only figure9     # one of the paper's figures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from .contenders import CONTENDERS, UNLEARNED
from .experiment import TIERS
from .figures import draw_comparison, draw_learning_rates, draw_profile
from .paper_figures import PAPER_FIGURES
from .paper_tables import PAPER_TABLES
from .protocol import Runs, group
from .run import RESULTS, UNAVAILABLE_NAME, read_results
from .tables import comparison, hindsight, leads, learning_rates, switching, time_ratios, times_to_target

_NOTE = "Written by `python -m benchmarks summarize`; do not edit."


def summarize(experiments: Mapping[str, Runs], folder: Path) -> None:
    """Write `summary.md`, `paper.md` and the figures that they show."""
    times = times_to_target(experiments, CONTENDERS)
    profile = draw_profile(times, folder / "profile.png")
    draw_learning_rates(experiments, folder / "learning_rates.png")
    parts = [
        "# Results",
        _NOTE,
        "Every setting is picked by the validation split, in the mean over the seeds; what stands here is measured on "
        "the test split. ± is the standard deviation over the seeds, brackets are 95 % intervals of the mean paired "
        "difference, by the bootstrap over the seeds; they cover it in some 82 % of the cases with three seeds, 88 % "
        "with five, and in 94 % in a mean over all experiments. They tell of other seeds, not of other tasks. Seconds "
        "are processor seconds of one core without evaluations. The target is the median final validation metric of "
        "the best tuned single optimizer. The times of tuned methods are those of the picked run alone, as if the "
        "answer had been known; those of searches are of all their runs.",
        *_unavailable(folder),
        "## Default IOMT against everything else",
        "Differences of the test metric (accuracy in points; perplexity), + where default IOMT is better. ° marks "
        "where only some settings of a method were run, mostly its default, so that it is tuned less than its name "
        f"says; nothing is learned, by no method, on {' and '.join(UNLEARNED)}.",
        leads(experiments),
        "## Against the best of the paper's 15 candidates in hindsight",
        "Which of them that is, by the mean of the test metric over the seeds, is known after 15 runs and the test; "
        "it is the largest of 15 noisy numbers. The last row picks for each seed by the test metric of the others.",
        hindsight(experiments),
        "## The surrogate against other ways to switch",
        switching(experiments),
        "## Time to target",
        time_ratios(times),
        *(["![performance profile](profile.png)"] if profile else []),
        "## Over the learning rate",
        "![test metric over the learning rate](learning_rates.png)",
    ]
    for name, runs in experiments.items():
        draw_comparison(name, runs, folder / "figures" / f"{name}.png")
        parts += [f"## {name}", comparison(runs), learning_rates(runs), f"![{name}](figures/{name}.png)"]
    _write(folder / "summary.md", parts)
    parts = ["# The paper's tables and figures at this scale", _NOTE]
    for make in PAPER_TABLES.values():
        parts += [f"## {(make.__doc__ or '').rstrip('.')}", make(experiments)]
    for name, draw in PAPER_FIGURES.items():
        if draw(experiments, folder / "paper" / f"{name}.png"):
            parts += [f"## {name.replace('figure', 'Figure ')}", draw.__doc__ or "", f"![{name}](paper/{name}.png)"]
    _write(folder / "paper.md", parts)


def _unavailable(folder: Path) -> list[str]:
    path = folder / UNAVAILABLE_NAME
    unavailable = json.loads(path.read_text()) if path.exists() else {}
    return (
        ["Not run:", "\n".join(f"- {name}: {reason}" for name, reason in unavailable.items())] if unavailable else []
    )


def _write(path: Path, parts: list[str]) -> None:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Write the summary, or one table or figure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks summarize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--tier", choices=TIERS, default="cpu")
    parser.add_argument("--only", choices=[*PAPER_TABLES, *PAPER_FIGURES], help="one table or figure of the paper")
    arguments = parser.parse_args(argv)
    experiments = group(read_results(arguments.results, arguments.tier))
    if not experiments:
        parser.error(f"there are no results of the tier {arguments.tier} in {arguments.results}: make some by 'run'")
    if arguments.only in PAPER_TABLES:
        print(PAPER_TABLES[arguments.only](experiments))
    elif arguments.only is not None:
        path = arguments.results / "paper" / f"{arguments.only}.png"
        print(path if PAPER_FIGURES[arguments.only](experiments, path) else "There are no results for it yet.")
    else:
        summarize(experiments, arguments.results)


if __name__ == "__main__":
    main()
