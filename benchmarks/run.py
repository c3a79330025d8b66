"""
Train the experiments of a tier and write one JSON file for each experiment, method and seed.

    python -m benchmarks run --tier cpu --jobs 2

A finished result is not run again, so a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from hf_iomt.json_files import write_json
from hf_iomt.optim import PRESETS
from hf_iomt.training_args import default_settings

from .experiment import TIERS, Experiment, load_tier
from .methods import METHODS, expand
from .provenance import provenance

RESULTS = Path(__file__).parent / "results"
# What could not be run, with the reason.
UNAVAILABLE_NAME = "unavailable.json"
_RUNS_PER_PROCESS = 40
# Experiment, method, seed and the file of the result.
Job = tuple[Experiment, str, int, Path]


def result_path(experiment: Experiment, method: str, seed: int, results: Path = RESULTS) -> Path:
    """Where the JSON of one run lies."""
    name = re.sub(r"[^\w.+-]+", "_", method)
    return results / "runs" / experiment.tier / experiment.name / f"{name}-{seed}.json"


def read_results(folder: Path, tier: str) -> list[dict[str, Any]]:
    """All results of a tier, by experiment, method and seed."""
    found = [json.loads(path.read_text()) for path in (folder / "runs" / tier).glob("*/*.json")]
    return sorted(found, key=lambda run: (run["experiment"], run["method"], run["seed"]))


def describe(experiment: Experiment, name: str, seed: int) -> dict[str, Any]:
    """What a run is, as its result says it."""
    settings = {item: value for item, value in vars(experiment).items() if item not in ("name", "methods", "seeds")}
    specification = {item: value for item, value in vars(METHODS[name]).items() if value}
    if METHODS[name].kind == "iomt" and not {"iomt_candidates", "iomt_preset"} & set(METHODS[name].settings):
        # What the default stands for may change; a result of another one is not this one's.
        specification["default_candidates"] = PRESETS["auto"]
    described = {"configuration": settings, "specification": specification}
    if METHODS[name].kind == "iomt":
        described["defaults"] = _defaults(METHODS[name].settings.get("iomt_preset", "default"))
    # As it comes back from a file: tuples are lists there.
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return {"experiment": experiment.name, "method": name, "seed": seed, **plain}


def _defaults(preset: str) -> dict[str, Any]:
    """What the settings of IOMT are that a method does not name."""
    settings = default_settings(preset)
    return {**settings, "iomt_candidates": PRESETS[settings["iomt_candidates"]]}


def is_finished(path: Path, described: dict[str, Any]) -> bool:
    """Whether there is a result of this very run, and not of one before its experiment or method was changed."""
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    # The first results did not write the defaults down.
    return all(found.get(item, value if item == "defaults" else None) == value for item, value in described.items())


def run_one(experiment: Experiment, name: str, seed: int, path: Path, command: str) -> dict[str, Any]:
    """Train and evaluate once, and write the result to `path`."""
    import datasets
    import torch
    import transformers

    from .search import search
    from .training import train_once, warm_up
    from .tuning import build_task

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warm_up()
    method = METHODS[name]
    if method.kind == "search":
        found = search(experiment, method, seed)
    else:
        found = train_once(build_task(experiment, seed), experiment, method, seed)
    result = {**describe(experiment, name, seed), **found, **provenance(command)}
    write_json(result, path, indent=None)
    return result


def unavailable_methods(experiments: list[Experiment]) -> dict[str, str]:
    """The methods that cannot run here, with the reason."""
    names = {name: METHODS[name] for item in experiments for name in expand(item.methods, item.tuning)}
    return {name: method.reason_against for name, method in names.items() if method.reason_against is not None}


def pending_runs(
    experiments: list[Experiment], methods: list[str] | None, seeds: list[int] | None, results: Path
) -> list[Job]:
    """What can run and has no result yet, the seeds one after the other."""
    pending = []
    unavailable = unavailable_methods(experiments)
    for seed in sorted({seed for experiment in experiments for seed in seeds or experiment.seeds}):
        for experiment in experiments:
            if seed not in experiment.seeds:
                continue
            names = expand(experiment.methods, experiment.tuning)
            chosen = (
                names
                if methods is None
                else [name for name in expand(tuple(methods), experiment.tuning) if name in names]
            )
            for name in chosen:
                path = result_path(experiment, name, seed, results)
                if name not in unavailable and not is_finished(path, describe(experiment, name, seed)):
                    pending.append((experiment, name, seed, path))
    return pending


def main(argv: list[str] | None = None) -> None:
    """Run everything that has no result yet. Exits with 1 where a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tier", choices=TIERS, default="smoke")
    parser.add_argument("--experiments", nargs="+", help="only these of the tier")
    parser.add_argument("--methods", nargs="+", help="only these methods or groups of methods")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--list", action="store_true", help="say what would be run, and run nothing")
    arguments = parser.parse_args(argv)
    experiments = load_tier(arguments.tier)
    known = [experiment.name for experiment in experiments]
    unknown = [name for name in arguments.experiments or [] if name not in known]
    if unknown:
        parser.error(f"unknown experiment {unknown[0]!r} of the tier {arguments.tier}; known: {', '.join(known)}")
    # Of the whole tier, so that a run of a part of it does not forget what others have left out.
    unavailable = unavailable_methods(experiments)
    if arguments.experiments:
        experiments = [item for name in arguments.experiments for item in experiments if item.name == name]
    pending = pending_runs(experiments, arguments.methods, arguments.seeds, arguments.results)
    for name, reason in unavailable.items():
        print(f"left out: {name}: {reason}", flush=True)
    if arguments.list:
        for experiment, name, seed, _ in pending:
            print(f"{experiment.name}: {name}, seed {seed}")
        return
    path = arguments.results / UNAVAILABLE_NAME
    if unavailable != (json.loads(path.read_text()) if path.exists() else {}):
        write_json(unavailable, path)
    command = "python -m benchmarks run " + " ".join(argv if argv is not None else sys.argv[1:])
    failed = run_all(pending, command, arguments.jobs)
    if failed:
        raise SystemExit(f"{failed} of {len(pending)} runs failed; what they printed stands above.")


def run_all(pending: list[Job], command: str, jobs: int) -> int:
    """Run them in `jobs` processes. Returns how many failed."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    failed = count = 0
    for start in range(0, len(pending), jobs * _RUNS_PER_PROCESS):
        # New processes after some runs, because libraries keep memory. `max_tasks_per_child` would do that too, but it
        # can wait for ever (CPython issue 115634).
        with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            part = pending[start : start + jobs * _RUNS_PER_PROCESS]
            futures = {pool.submit(run_one, *job, command): job for job in part}
            for future in concurrent.futures.as_completed(futures):
                experiment, name, seed, _ = futures[future]
                count += 1
                error = future.exception()
                failed += error is not None
                found = "failed" if error is not None else _outcome(future.result(), experiment.metric)
                print(f"[{count}/{len(pending)}] {experiment.name}: {name}, seed {seed}: {found}", flush=True)
                if error is not None:
                    traceback.print_exception(error)
    return failed


def _outcome(result: dict[str, Any], metric: str) -> str:
    tested = result["test"].get(metric)
    return f"{metric} {'none' if tested is None else format(tested, '.4f')}, {result['seconds']['total']:.1f} s"


if __name__ == "__main__":
    main()
