from __future__ import annotations

import contextlib
import io
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import PeftModel
from transformers import ViTForImageClassification
from transformers.utils import logging as transformers_logging

from hf_iomt.demo import Result, _report, format_shares, format_table, load_samples, pick_extremes, run_demo
from hf_iomt.optim import parse_candidates

STEPS = 24


class Run(NamedTuple):
    results: list[Result]
    printed: str
    folder: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    printed = io.StringIO()
    # Trainer's default, spelled out, and one that diverges.
    grid = parse_candidates("sgd:lr=1e15; adamw:lr=5e-5")
    with contextlib.redirect_stdout(printed):
        results = run_demo(folder, seed=1, steps=STEPS, grid=grid, pretraining_steps=60)
    return Run(results, printed.getvalue(), folder)


def batch(samples):
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def test_every_method_makes_the_same_steps(run):
    assert [result.method for result in run.results] == [
        "IOMT, default settings",
        "AdamW, Trainer's defaults (lr 5e-05)",
        "Best of 2 in hindsight: adamw:lr=5e-05",
        "Worst of 2: sgd:lr=1e+15",
    ]
    assert {result.steps for result in run.results} == {STEPS}
    assert all(result.seconds > 0 and 0 <= result.accuracy <= 1 for result in run.results)


def test_runs_share_initial_weights_and_batches(run):
    # The same optimizer once by name and once through the grid, with another run in between.
    adamw, best = run.results[1], run.results[2]
    assert best.accuracy == adamw.accuracy
    assert best.loss == pytest.approx(adamw.loss, rel=1e-5)


def test_a_run_that_diverges_is_reported_as_it_is(run):
    assert run.results[3].loss > 1e6 or math.isnan(run.results[3].loss)
    assert re.search(rf"Worst of 2: sgd:lr=1e\+15 .* {re.escape(f'{run.results[3].loss:.3f}')} ", run.printed)


def test_prints_what_it_returns(run):
    assert format_table(run.results) in run.printed
    assert f"after 2 runs: {2 * STEPS} steps" in run.printed
    history = json.loads((run.folder / "iomt_history.json").read_text())
    assert f"IOMT's steps, its race included: {format_shares(history)}." in run.printed
    assert f"lies in {run.folder}, the model that it adapts in {run.folder / 'base_model'}." in run.printed


def test_writes_a_report_and_says_where(run):
    page = run.folder / "iomt_report.html"
    assert f"What it did, in figures and tables: {page}." in run.printed
    # With the losses and the evaluations of the run, the one after training among them.
    text = page.read_text(encoding="utf-8")
    assert f"The run made {STEPS} steps" in text and "The training loss" in text
    assert f"The last evaluation, at step {STEPS}: loss {run.results[0].loss:.3f}, accuracy" in text


def test_without_matplotlib_it_says_how_to_get_a_report(tmp_path, monkeypatch):
    def fail(folders, output):
        raise ImportError("no matplotlib")

    monkeypatch.setattr("hf_iomt.demo.write_report", fail)
    assert _report(tmp_path) == (
        f"For a report with figures: pip install 'hf-iomt[plots]', then hf-iomt report {tmp_path}."
    )


def test_history_covers_every_step(run):
    history = json.loads((run.folder / "iomt_history.json").read_text())
    steps = [step for record in history for step in range(record["first_step"], record["last_step"] + 1)]
    assert steps == list(range(1, STEPS + 1))


# PEFT reads a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapter_reads_back_with_equal_predictions(run):
    base = ViTForImageClassification.from_pretrained(
        run.folder / "base_model", num_labels=10, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, str(run.folder)).eval()
    test = batch(load_samples(seed=1)[1])
    with torch.no_grad():
        outputs = model(**test)
    accuracy = (outputs.logits.argmax(-1) == test["labels"]).float().mean().item()
    assert accuracy == pytest.approx(run.results[0].accuracy, abs=1e-6)
    assert outputs.loss.item() == pytest.approx(run.results[0].loss, rel=1e-5)


def test_adapts_query_value_and_classifier(run):
    config = json.loads((run.folder / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert config["modules_to_save"] == ["classifier"]
    assert config["base_model_name_or_path"] == str(run.folder / "base_model")


def test_splits_hold_every_digit_and_do_not_overlap():
    train, test = load_samples(seed=0)
    assert (len(train), len(test)) == (1078, 719)
    for part in (train, test):
        assert batch(part)["labels"].unique().tolist() == list(range(10))
        assert batch(part)["pixel_values"].abs().max() <= 1
    # No picture is in the data set twice, so equal pixels would be the same sample.
    seen = {sample["pixel_values"].numpy().tobytes() for sample in train}
    assert not any(sample["pixel_values"].numpy().tobytes() in seen for sample in test)


def test_leaves_threads_and_verbosity_as_they_were(tmp_path, monkeypatch):
    def stop(seed):
        assert torch.get_num_threads() == 1
        raise RuntimeError("stop")

    monkeypatch.setattr("hf_iomt.demo.load_samples", stop)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    verbosity = transformers_logging.get_verbosity()
    try:
        with pytest.raises(RuntimeError, match="stop"):
            run_demo(tmp_path)
        assert torch.get_num_threads() == 2
        assert transformers_logging.get_verbosity() == verbosity
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        torch.set_num_threads(before)


def test_an_empty_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`grid` is empty: give at least one candidate"):
        run_demo(tmp_path, grid=[])


def test_extremes_are_by_accuracy_then_loss():
    good, tied, bad, diverged = (
        Result("good", 0.9, 0.3, 1, 1.0),
        Result("tied", 0.9, 0.4, 1, 1.0),
        Result("bad", 0.1, 5.0, 1, 1.0),
        Result("diverged", 0.1, math.nan, 1, 1.0),
    )
    assert pick_extremes([diverged, tied, good, bad]) == (good, diverged)
    assert pick_extremes([bad, diverged, tied]) == (tied, diverged)
    assert pick_extremes([bad]) == (bad, bad)


def test_table_aligns_its_columns():
    table = format_table([Result("short", 0.5, math.nan, 1000, 2.34), Result("a longer name", 1.0, 0.1, 1, 12.0)])
    assert table.splitlines() == [
        "method         test accuracy  test loss  optimizer steps  seconds",
        "-------------  -------------  ---------  ---------------  -------",
        "short                  50.0%        nan            1,000      2.3",
        "a longer name         100.0%      0.100                1     12.0",
    ]


def test_shares_add_up_a_candidates_cycles():
    history = [
        {"candidate": "a", "first_step": 1, "last_step": 10},
        {"candidate": "b", "first_step": 11, "last_step": 40},
        {"candidate": "a", "first_step": 41, "last_step": 50},
    ]
    assert format_shares(history) == "b 60%, a 40%"
