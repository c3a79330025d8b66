"""The deterministic functions of the paper, the runs on them, and the whole command, small."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.function_problems import PROBLEMS, ackley, griewank, himmelblau, rosenbrock
from benchmarks.function_runs import clip, interleave, minimise
from benchmarks.function_tables import compare, paired_values
from benchmarks.functions import angle, drawn_settings, main, thinned

ROOT = Path(__file__).parent.parent.parent
SIZES = ["--runs", "3", "--starts", "2", "--steps", "30"]


def at(function, x, y):
    return function(torch.tensor([x, y], dtype=torch.float64)).item()


def test_values_computed_by_hand():
    assert at(rosenbrock, 0.0, 0.0) == 1
    assert at(rosenbrock, -1.0, 2.0) == 4 + 100
    assert at(himmelblau, 0.0, 0.0) == 121 + 49
    assert at(himmelblau, 1.0, 2.0) == 64 + 4
    # Both cosines are 1 at (2π, 0), and -1 and 1 at (π, 0).
    assert at(griewank, 2 * math.pi, 0.0) == pytest.approx(4 * math.pi**2 / 4000)
    assert at(griewank, math.pi, 0.0) == pytest.approx(2 + math.pi**2 / 4000)
    # The waves are as high at whole numbers as at the origin: what is left is 20 - 20 exp(-0.2).
    assert at(ackley, 1.0, 1.0) == pytest.approx(20 - 20 * math.exp(-0.2))
    assert at(ackley, 0.5, 0.5) == pytest.approx(20 - 20 * math.exp(-0.1) - math.exp(-1) + math.e)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_minima(problem):
    for minimum in problem.minima:
        point = torch.tensor(minimum, dtype=torch.float64, requires_grad=True)
        value = problem.function(point)
        value.backward()
        # Himmelblau's are known to six digits.
        assert value.item() == pytest.approx(0, abs=1e-9)
        assert point.grad.abs().max() < 1e-4
        around = point.detach() + 0.01 * torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 1]])
        assert (problem.function(around) > value).all()
    left, right, bottom, top = problem.window
    grid = torch.cartesian_prod(torch.linspace(left, right, 101), torch.linspace(bottom, top, 101)).double()
    assert problem.function(grid).min() > -1e-9


def test_the_example_has_the_same_functions(monkeypatch):
    path = ROOT / "examples" / "04_deterministic_functions.py"
    spec = importlib.util.spec_from_file_location("example", path)
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "example", example)
    spec.loader.exec_module(example)
    points = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(PROBLEMS, example.PROBLEMS, strict=True):
        assert ours.name == theirs.name
        torch.testing.assert_close(ours.function(points), theirs.function(*points.T))


@pytest.mark.parametrize("family", ["sgd", "sgdm", "adagrad", "rmsprop", "adam"])
def test_many_runs_at_a_time_equal_runs_alone(family):
    starts = torch.tensor([problem.start for problem in PROBLEMS], dtype=torch.float64)
    settings = [drawn_settings(family, seed) for seed in range(2)]
    assert settings[0] != settings[1] and settings[0] == drawn_settings(family, 0)
    together = minimise(family, settings, starts, 5, max_norm=1.0)
    classes = {"sgd": "SGD", "sgdm": "SGD", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adam": "Adam"}
    for number, problem in enumerate(PROBLEMS):
        point = torch.nn.Parameter(starts[number].clone())
        optimizer = getattr(torch.optim, classes[family])([point], **settings[1])
        for _ in range(5):
            optimizer.zero_grad()
            problem.function(point).backward()
            torch.nn.utils.clip_grad_norm_([point], 1.0)
            optimizer.step()
        torch.testing.assert_close(together[-1, 1, number], point.detach())


def test_gradients_are_clipped_one_by_one():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(clip(gradient, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert clip(gradient, None) is gradient


@pytest.mark.parametrize("method", ["default", "paper"])
def test_an_interleaved_run_is_whole_and_repeatable(method):
    himmelblau_ = PROBLEMS[1]
    end, legs = interleave(method, himmelblau_, himmelblau_.start, 0, 100, max_norm=1.0)
    assert sum(len(leg.points) - 1 for leg in legs) == 100
    assert legs[0].points[0] == pytest.approx(himmelblau_.start)
    assert len({leg.candidate for leg in legs}) > 1
    assert (legs[0].phase == "race") == (method == "default")
    assert at(himmelblau, *end) < at(himmelblau, *himmelblau_.start)
    assert interleave(method, himmelblau_, himmelblau_.start, 0, 100, max_norm=1.0) == (end, legs)


def test_angles_and_thinned_paths():
    straight = torch.tensor([1.0, 1.0]).numpy()
    assert angle(straight, torch.tensor([0.0, 2.0]).numpy()) == 45
    assert angle(straight, -straight) == 180
    assert angle(straight, 0 * straight) is None
    assert angle(straight, math.nan * straight) is None
    rosenbrock_ = PROBLEMS[0]
    corner = [[0.0, n / 10] for n in range(10)] + [[n / 10, 1.0] for n in range(11)]
    assert thinned(corner, rosenbrock_) == [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    assert thinned([[0.0, 0.0], [1.0, 0.0], [math.nan, 0.0], [0.0, 0.0]], rosenbrock_) == [[0.0, 0.0], [1.0, 0.0]]
    assert thinned([[math.inf, 0.0], [math.nan, 0.0]], rosenbrock_) == []


def test_what_counts_as_better():
    result = {"single": {"a": [1.0, 2.0, None, 1e-9], "b": [3.0, None, None, 1.0]}, "interleaved": {}}
    result["interleaved"]["ours"] = [0.5, None, None, 0.0]
    best, ours = paired_values(result, "ours")
    assert best == [1.0, 2.0, math.inf, 1e-9]
    # Below; diverged where another did not; both diverged; alike but for rounding.
    assert compare(ours, best) == (1, 2, 1)


def test_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"has no figure1\.json"):
        main(["draw", "--output", str(tmp_path)])
    main(["run", "--output", str(tmp_path), *SIZES])
    files = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert {path.stem for path in files} == {"figure1", "figure4", "figure7a"}
    for content in map(json.loads, files.values()):
        assert content["command"].startswith("python -m benchmarks functions run")
        assert "torch" in content["versions"] and set(content["settings"])
    capsys.readouterr()
    main(["run", "--output", str(tmp_path), *SIZES])
    assert capsys.readouterr().out.count("is there already") == 3
    assert all(path.read_bytes() == content for path, content in files.items())

    main(["draw", "--output", str(tmp_path)])
    assert {path.stem for path in tmp_path.glob("*.png")} == {"figure1", "figure4", "figure7a"}
    text = (tmp_path / "functions.md").read_text()
    assert "IOMT, paper preset" in text and "3 runs of 30 steps" in text and "2 random starts" in text
    # Other settings are another experiment; the rest stays.
    main(["run", "--output", str(tmp_path), "--runs", "2", *SIZES[2:]])
    assert json.loads((tmp_path / "figure1.json").read_text())["settings"]["runs"] == 2
    assert capsys.readouterr().out.count("is there already") == 2
