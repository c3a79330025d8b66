"""The examples of a way to run each: resumed, in several processes, with one's own optimizer, compared."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from scripts import EXAMPLES, ROOT, TRAINING, check_history, load_example
from transformers import Trainer

from hf_iomt.optim import families


def test_deterministic_functions(tmp_path: Path) -> None:
    # As a process of its own, because that is how it is used.
    picture = tmp_path / "functions.png"
    finished = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / "04_deterministic_functions.py")),
            *("--output", str(picture), "--steps", "40", "--seeds", "1"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    for name in ("Rosenbrock", "Himmelblau", "Griewank", "Ackley", "RMSprop, best lr", "interleaved, median"):
        assert name in finished.stdout
    with PillowImage.open(picture) as opened:
        assert np.asarray(opened.convert("L")).std() > 1


def test_push_to_hub(
    tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    with hub.serve() as served:
        hub.connect(served, monkeypatch, tmp_path / "home")
        load_example("09_push_to_hub").main(
            [
                *(*reviews, "--base_model=org/base", "--dataset_name=org/data"),
                *("--text_columns", "sentence1", "sentence2"),
                *(f"--output_dir={output}", "--hub_model_id=tester/shared", "--hub_token=hf_x", *TRAINING),
            ]
        )
        files = served.files("tester/shared")
    printed = capsys.readouterr().out
    assert re.search(r"loss [\d.]+, accuracy [\d.]+, f1 [\d.]+ on 32 rows", printed)
    assert "Pushed to tester/shared" in printed
    assert files["adapter_model.safetensors"] == (output / "adapter_model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert "base_model: org/base" in card and "type: org/data" in card and str(tmp_path) not in card
    assert {"iomt_history.json", "iomt_run.json", "iomt_run.png", "tokenizer.json"} <= set(files)
    check_history(output)


def test_resume(tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*reviews, *(item for item in TRAINING if item != "--save_strategy=no"), "--save_steps=10"]
    command = [*arguments, f"--output_dir={tmp_path / 'killed'}", "--kill_at_step=27"]
    example = load_example("10_resume")
    # A fork starts quickly.
    process = multiprocessing.get_context("fork").Process(target=example.main, args=(command,))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    folders = {path.name for path in (tmp_path / "killed").glob("checkpoint-*")}
    assert folders == {"checkpoint-10", "checkpoint-20"}
    example.main(command)
    assert "Going on in" in capsys.readouterr().out
    example.main([*arguments, f"--output_dir={tmp_path / 'whole'}"])
    check_history(tmp_path / "killed")
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


# Three processes import all of transformers; test_distributed.py launches in the same way.
@pytest.mark.slow
def test_several_processes(tmp_path: Path, reviews: list[str]) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        ["bash", str(EXAMPLES / "11_distributed.sh"), *reviews, *TRAINING, f"--output_dir={output}"],
        env={
            **os.environ,
            # Where `torchrun` is.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            **{"PROCESSES": "2", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "share of steps" in done.stdout
    assert json.loads((output / "eval_results.json").read_text())["eval_accuracy"] >= 0.5
    check_history(output)


def test_the_launcher_can_be_read_and_finds_its_script() -> None:
    script = EXAMPLES / "11_distributed.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert (EXAMPLES / re.findall(r"/(\w+\.py)\"", script.read_text())[0]).is_file()
    assert os.access(script, os.X_OK)


def test_own_optimizer(tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    known = dict(families._FAMILIES)
    arguments = [item for item in TRAINING if not item.startswith("--iomt_candidates")]
    try:
        load_example("12_own_optimizer").main(
            [*reviews, *arguments, f"--output_dir={tmp_path / 'run'}", "--iomt_selection=cyclical"]
        )
    finally:
        families._FAMILIES.clear()
        families._FAMILIES.update(known)
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "lion:lr=0.0001" in printed and "adamw:lr=0.001" in printed
    check_history(tmp_path / "run")


def test_the_optimizer_of_the_example_is_lion() -> None:
    first, second = torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.tensor([1.0, -2.0])
    optimizer = load_example("12_own_optimizer").Lion([first], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    mean = torch.zeros(2)
    for step in range(5):
        first.grad = torch.tensor([math.sin(step), -math.cos(step)])
        optimizer.step()
        second = second - 0.1 * (torch.sign(0.9 * mean + 0.1 * first.grad) + 0.5 * second)
        mean = 0.99 * mean + 0.01 * first.grad
    torch.testing.assert_close(first.detach(), second)


def test_compare_with_adamw(
    tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example, used, output = load_example("13_compare_with_adamw"), [], tmp_path / "run"

    class Recorded(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            result = super().train(*args, **kwargs)
            group = self.optimizer.param_groups[0]
            used.append((type(self.optimizer.optimizer), group["initial_lr"], self.args.seed))
            return result

    monkeypatch.setattr(example, "Trainer", Recorded)
    example.main(
        [*reviews, *TRAINING, f"--output_dir={output}", "--max_steps=12", "--rates", "5e-5", "0.03", "--seeds=2"]
    )
    table = (output / "comparison.md").read_text()
    assert table in capsys.readouterr().out
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == 3 and rows[1][0] == "| AdamW 5e-05, Trainer's default"
    assert [row[3:5] for row in rows] == [["2", "24"], ["1", "12"], ["1", "12"]]
    outcomes = json.loads((output / "comparison.json").read_text())
    assert len(outcomes) == 6
    assert used == [(torch.optim.AdamW, rate, seed) for seed in (42, 43) for rate in (5e-5, 0.03)]


def test_the_validation_data_chooses_and_the_test_data_is_shown() -> None:
    example = load_example("13_compare_with_adamw")
    outcomes = [
        example.Outcome("AdamW 0.001", 0, validation=0.9, test=0.6, steps=100, seconds=2.0),
        example.Outcome("AdamW 0.01", 0, validation=0.8, test=0.7, steps=100, seconds=3.0),
        example.Outcome("IOMT", 0, validation=0.7, test=0.65, steps=90, seconds=4.0),
    ]
    assert example.make_table(outcomes, ["AdamW 0.001", "AdamW 0.01"]).splitlines()[2:] == [
        "| AdamW 0.001, the best of 2 on the validation data | 90.0 | 60.0 | 2 | 200 | 5 |",
        "| IOMT | 70.0 | 65.0 | 1 | 90 | 4 |",
    ]


def test_every_script_is_in_the_readme() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for script in EXAMPLES.glob("[0-9]*"):
        assert f"{'bash' if script.suffix == '.sh' else 'python'} examples/{script.name} " in text
