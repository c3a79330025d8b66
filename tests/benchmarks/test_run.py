"""A sweep from the command line to its tables, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.experiment import load_tier
from benchmarks.methods import METHODS as benchmark_methods
from benchmarks.run import UNAVAILABLE_NAME, main, pending_runs, read_results, unavailable_methods
from benchmarks.summarize import main as summarize
from hf_iomt.json_files import write_json

ROOT = Path(__file__).parent.parent.parent
# What a clock, a memory or the number of the call has a say in.
MEASURED = ("seconds", "processor_seconds", "peak_mib", "command")
METHODS = ["iomt default", "iomt paper", "adam:lr=0.001", "sgdm:lr=0.1"]


def what_was_decided(value):
    if isinstance(value, dict):
        return {name: what_was_decided(item) for name, item in value.items() if name not in MEASURED}
    return [what_was_decided(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The smoke tier, in this process' children."""
    folder = tmp_path_factory.mktemp("whole")
    main(["--methods", *METHODS, "--results", str(folder), "--jobs", "2"])
    return folder


def test_what_cannot_run_is_listed_whichever_part_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        benchmark_methods, "prodigy", replace(benchmark_methods["prodigy"], requires="a_package_of_nobody")
    )
    tier = [replace(item, methods=("sgdm:lr=0.1", "prodigy")) for item in load_tier("smoke")]
    monkeypatch.setattr("benchmarks.run.load_tier", lambda name: tier)
    reason = {"prodigy": "the package a_package_of_nobody is not installed"}
    assert unavailable_methods(tier) == reason
    assert {name for _, name, _, _ in pending_runs(tier, None, None, tmp_path)} == {"sgdm:lr=0.1"}
    monkeypatch.setattr("benchmarks.run.run_all", lambda *arguments: 0)
    main(["--methods", "sgdm:lr=0.1", "--results", str(tmp_path)])
    assert json.loads((tmp_path / UNAVAILABLE_NAME).read_text()) == reason
    assert "left out: prodigy" in capsys.readouterr().out
    # Installed meanwhile.
    monkeypatch.setitem(benchmark_methods, "prodigy", replace(benchmark_methods["prodigy"], requires="torch"))
    main(["--methods", "sgdm:lr=0.1", "--results", str(tmp_path)])
    assert json.loads((tmp_path / UNAVAILABLE_NAME).read_text()) == {}


def test_results_hold_what_a_reader_needs(results):
    runs = read_results(results, "smoke")
    assert len(runs) == 2 * len(METHODS)
    for run in runs:
        assert run["steps"] == 30 and [point["step"] for point in run["curve"]] == [10, 20, 30]
        assert run["command"].startswith("python -m benchmarks run --methods") and run["versions"]["torch"]
        parts = run["seconds"]
        assert parts["total"] == pytest.approx(parts["training"] + parts["selection"] + parts["assessment"])
        assert run["processor_seconds"] > 0 and all(0 <= run[split]["accuracy"] <= 1 for split in ("train", "test"))
        interleaved = run["method"].startswith("iomt")
        assert bool(run["history"]) == interleaved and (parts["selection"] > 0) == interleaved
    # The clock runs on, and evaluations do not count.
    clocks = [point["processor_seconds"] for point in runs[0]["curve"]]
    assert clocks == sorted(clocks) and clocks[-1] <= runs[0]["processor_seconds"]


def test_finished_results_are_not_run_again(results, capsys):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    main(["--methods", *METHODS, "--results", str(results)])
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.json")} == before
    main(["--methods", *METHODS, "iomt grid, random", "--seeds", "1", "--results", str(results), "--list"])
    assert capsys.readouterr().out == "digits_smoke: iomt grid, random, seed 1\n"
    # One of other defaults neither; what does not say them was made before they were written down.
    path = next(results.glob("runs/smoke/*/iomt_default-0.json"))
    whole = path.read_text()
    for changed, pending in (({"defaults": {}}, True), ({}, False)):
        found = {name: value for name, value in json.loads(whole).items() if name != "defaults"}
        path.write_text(json.dumps({**found, **changed}))
        main(["--methods", *METHODS, "--results", str(results), "--list"])
        assert bool(capsys.readouterr().out) == pending
    path.write_text(whole)
    # One of another configuration is no result of this one.
    path = next(results.glob("runs/smoke/*/adam_lr_0.001-0.json"))
    whole = path.read_text()
    path.write_text(whole.replace('"batch_size": 16', '"batch_size": 8'))
    main(["--methods", *METHODS, "--results", str(results), "--list"])
    path.write_text(whole)
    assert capsys.readouterr().out == "digits_smoke: adam:lr=0.001, seed 0\n"


def test_a_killed_sweep_goes_on_and_ends_the_same(results, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "run", "--methods", *METHODS, "--results", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sweep = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    while sweep.poll() is None and len(list(tmp_path.rglob("*.json"))) < 2:
        time.sleep(0.01)
    # The whole group, as a machine that goes down: its workers too.
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    assert 2 <= len(list(tmp_path.rglob("*.json"))) < 2 * len(METHODS)
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert what_was_decided(read_results(tmp_path, "smoke")) == what_was_decided(read_results(results, "smoke"))


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    # A file where a folder should be.
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "digits_smoke").write_text("")
    with pytest.raises(SystemExit, match="2 of 2 runs failed"):
        main(["--methods", "adam:lr=0.001", "adam:lr=0.1", "--seeds", "0", "--results", str(tmp_path)])
    assert capsys.readouterr().out.count("failed") == 2


def test_tables_and_figures_come_from_the_results(results, tmp_path, capsys):
    summarize(["--results", str(results), "--tier", "smoke"])
    summary = (results / "summary.md").read_text()
    first = json.loads(next(results.glob("runs/*/*/iomt_default-0.json")).read_text())
    second = json.loads(next(results.glob("runs/*/*/iomt_default-1.json")).read_text())
    mean = 50 * (first["test"]["accuracy"] + second["test"]["accuracy"])
    assert f"| IOMT, nothing set |  | 2 | {mean:.2f} ± " in summary
    for name in ("learning_rates", "figures/digits_smoke"):
        assert (results / f"{name}.png").stat().st_size > 10_000
    # One task is too few for a performance profile.
    assert not (results / "profile.png").exists() and "performance profile" not in summary
    capsys.readouterr()
    summarize(["--results", str(results), "--tier", "smoke", "--only", "table1"])
    assert capsys.readouterr().out.startswith("| method |")
    with pytest.raises(SystemExit):
        summarize(["--results", str(tmp_path)])
    assert "there are no results" in capsys.readouterr().err


def test_three_tasks_have_a_performance_profile(results, tmp_path):
    for run in read_results(results, "smoke"):
        for task in ("one", "two", "three"):
            path = tmp_path / "runs" / "smoke" / task / f"{run['method'].replace(' ', '_')}-{run['seed']}.json"
            write_json({**run, "experiment": task}, path)
    summarize(["--results", str(tmp_path), "--tier", "smoke"])
    assert "![performance profile](profile.png)" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "profile.png").stat().st_size > 10_000
