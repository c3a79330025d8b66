"""
The paper's deterministic functions: where optimizers go, in which directions, and whether interleaving helps.

    python -m benchmarks functions run --output benchmarks/results/functions
    python -m benchmarks functions draw --output benchmarks/results/functions

`run` writes one JSON per experiment, unless one with the same settings is there already; `draw` writes the figures
and `functions.md` from the JSONs alone.

- `figure1`: five optimizers, many runs each from one start per function. Nothing is random in such a run but its
  hyperparameters: run n has those that a generator with the seed n draws from `DRAWN`.
- `figure4`: the directions of the five from the same starts, each at the learning rate of the paper's grid that is
  best after so many steps, and the angles between them.
- `figure7a`: the 15 single runs of the paper's grid against `Interleaving` with the same candidates, in pairs from
  random starts, with the settings that `IOMTTrainingArguments` has and the plan that `IOMTTrainer` makes for as many
  steps. The function takes the place of the probe; ω_t, which has no meaning here, is 0.5. Gradients are clipped to a
  norm of 1, as Trainer does, or not at all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_iomt.optim import Candidate

from .function_problems import PROBLEMS, Problem, values_at
from .function_runs import GRID, METHODS, interleave, minimise
from .provenance import provenance
from .run import RESULTS

Array = NDArray[np.float64]

FAMILIES = ("sgd", "sgdm", "adagrad", "rmsprop", "adam")
CLIPPING: dict[str, float | None] = {"free": None, "clipped": 1.0}
# Ranges of the hyperparameters of Figure 1: those of the paper's grid and of its Appendix D where it has them.
# Learning rates are drawn by their logarithm. Weight decay would change the function.
DRAWN: dict[str, dict[str, tuple[float, float]]] = {
    "sgd": {"lr": (0.001, 0.1)},
    "sgdm": {"lr": (0.001, 0.1), "momentum": (0.5, 0.9)},
    "adagrad": {"lr": (0.001, 0.1)},
    "rmsprop": {"lr": (0.001, 0.1), "alpha": (0.5, 0.99)},
    "adam": {"lr": (0.001, 0.1), "beta1": (0.5, 0.9), "beta2": (0.9, 0.999)},
}
_DIRECTION_STEPS = (1, 10, 50)
_PATH_POINTS = 60


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers as a JSON holds them: few digits, and `None` for those that are not finite."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def thinned(path: Any, problem: Problem, most: int = _PATH_POINTS, tolerance: float = 0.004) -> list[list[float]]:
    """
    A path with as few points as show it: those that lie further than a share of the window from the line between the
    points kept, the furthest first. It ends where it goes far beyond the window.
    """
    left, right, bottom, top = problem.window
    scale = np.array([right - left, top - bottom])
    points = np.asarray(path, dtype=np.float64)
    away = ~(np.abs(points - [(left + right) / 2, (bottom + top) / 2]) <= 2 * scale).all(axis=1)
    if away.any():
        # The first point beyond shows where it went.
        outside = int(away.argmax())
        points = points[: outside + int(outside > 0 and np.abs(points[outside]).max() < 1e4)]
    if len(points) == 0:
        return []
    kept = [0, len(points) - 1]
    while len(kept) < most:
        furthest = max((_furthest(points / scale, a, b) for a, b in itertools.pairwise(kept)), default=(0, 0))
        if furthest[0] <= tolerance:
            break
        kept = sorted({*kept, furthest[1]})
    return [[round(float(x), 3), round(float(y), 3)] for x, y in points[sorted(set(kept))]]


def _furthest(points: Array, first: int, last: int) -> tuple[float, int]:
    """The greatest distance from the line between two points to a point passed between them, and which that is."""
    if last - first < 2:
        return 0.0, first
    line, inner = points[last] - points[first], points[first + 1 : last] - points[first]
    length = float(line @ line)
    along = np.clip(inner @ line / length, 0, 1) if length > 0 else np.zeros(len(inner))
    distances = np.linalg.norm(inner - along[:, None] * line, axis=1)
    return float(distances.max()), first + 1 + int(distances.argmax())


def drawn_settings(family: str, seed: int) -> dict[str, Any]:
    """The hyperparameters of run `seed` of Figure 1."""
    generator = np.random.default_rng(seed)
    settings: dict[str, Any] = {}
    for name, (low, high) in DRAWN[family].items():
        uniform = generator.uniform()
        settings[name] = low * (high / low) ** uniform if name == "lr" else low + (high - low) * uniform
    if "beta1" in settings:
        settings["betas"] = (settings.pop("beta1"), settings.pop("beta2"))
    return settings


def figure1(settings: dict[str, Any]) -> dict[str, Any]:
    """Paths, end points and final values of many runs from one start."""
    starts = torch.tensor([problem.start for problem in PROBLEMS], dtype=torch.float64)
    results: dict[str, Any] = {problem.name: {} for problem in PROBLEMS}
    for family in FAMILIES:
        track = minimise(
            family, [drawn_settings(family, n) for n in range(settings["runs"])], starts, settings["steps"]
        )
        values = values_at(track[-1])
        for number, problem in enumerate(PROBLEMS):
            paths = track[:, : settings["paths"], number].transpose(0, 1).tolist()
            results[problem.name][family] = {
                "values": rounded(values[:, number].tolist(), 3),
                "ends": rounded(track[-1, :, number].tolist(), 3),
                "paths": [thinned(path, problem, most=16, tolerance=0.01) for path in paths],
            }
    return results


def best_of_family(family: str, values: dict[Candidate, float]) -> Candidate:
    """The family's candidate with the least value."""
    members = [item for item in values if item.family == family]
    return min(members, key=lambda item: values[item] if math.isfinite(values[item]) else math.inf)


def figure4(settings: dict[str, Any]) -> dict[str, Any]:
    """Directions of the five optimizers and the angles between them, in degrees."""
    moments = settings["moments"]
    starts = torch.tensor([problem.start for problem in PROBLEMS], dtype=torch.float64)
    tracks = {item: minimise(item.family, [item.settings], starts, moments[-1])[:, 0] for item in GRID}
    results: dict[str, Any] = {}
    for number, problem in enumerate(PROBLEMS):
        ends = {item: float(values_at(track[-1])[number]) for item, track in tracks.items()}
        chosen = {family: best_of_family(family, ends) for family in FAMILIES}
        paths = {family: tracks[item][:, number].numpy() for family, item in chosen.items()}
        turned: dict[str, Any] = {}
        for moment in moments:
            ways = {
                "steps": {family: path[moment] - path[moment - 1] for family, path in paths.items()},
                "displacements": {family: path[moment] - path[0] for family, path in paths.items()},
            }
            turned[str(moment)] = {
                kind: {
                    "directions": {family: rounded(_unit(way).tolist()) for family, way in vectors.items()},
                    "angles": [[angle(vectors[a], vectors[b]) for b in FAMILIES] for a in FAMILIES],
                }
                for kind, vectors in ways.items()
            }
        results[problem.name] = {
            "candidates": {family: item.name for family, item in chosen.items()},
            "after": turned,
            "paths": {
                family: [[round(x, 4), round(y, 4)] for x, y in path.tolist()] for family, path in paths.items()
            },
        }
    return results


def _unit(vector: Array) -> Array:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def angle(first: Array, second: Array) -> float | None:
    """The angle between two vectors in degrees, 0 to 180; `None` where one has no direction."""
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    if not (math.isfinite(lengths) and lengths > 0):
        return None
    # The arc tangent is exact for small angles, where the arc cosine is not.
    cross = float(first[0] * second[1] - first[1] * second[0])
    return round(math.degrees(math.atan2(abs(cross), float(first @ second))), 2)


def random_starts(starts: int) -> torch.Tensor:
    """Points of shape (starts + 1, functions, 2): the start of the figures, and random ones in the windows."""
    generator = np.random.default_rng(0)
    named = np.array([[problem.start for problem in PROBLEMS]])
    corners = np.array([problem.window for problem in PROBLEMS])
    drawn = generator.uniform(corners[:, [0, 2]], corners[:, [1, 3]], (starts, len(PROBLEMS), 2))
    return torch.from_numpy(np.concatenate([named, drawn]).round(3))


def figure7a(settings: dict[str, Any]) -> dict[str, Any]:
    """Final values of single and of interleaved runs from the same random starts, and paths from the named ones."""
    starts, steps = random_starts(settings["starts"]), settings["steps"]
    results: dict[str, Any] = {"starts": starts[1:].tolist(), "drawn": {}}
    for name, max_norm in CLIPPING.items():
        singles = {item: minimise(item.family, [item.settings], starts, steps, max_norm)[:, 0] for item in GRID}
        results[name] = {}
        for number, problem in enumerate(PROBLEMS):
            ends = {item: values_at(track[-1])[:, number].tolist() for item, track in singles.items()}
            methods: dict[str, list[float]] = {}
            legs: dict[str, Any] = {}
            for method in METHODS:
                methods[method] = []
                for seed, start in enumerate(starts[:, number].tolist()):
                    if seed == 0 and max_norm is not None:
                        continue
                    end, done = interleave(method, problem, start, seed, steps, max_norm)
                    value = float(problem.function(torch.tensor(end)))
                    if seed > 0:
                        methods[method].append(value)
                        continue
                    thin = [{**vars(leg), "points": thinned(leg.points, problem, 14)} for leg in done]
                    legs[method] = {"value": rounded(value), "end": rounded(end), "legs": thin}
                print(f"figure7a: {name}, {problem.name}, {method}", flush=True)
            results[name][problem.name] = {
                "single": {item.name: rounded(values[1:]) for item, values in ends.items()},
                "interleaved": rounded(methods),
            }
            if max_norm is None:
                chosen = {
                    family: best_of_family(family, {item: ends[item][0] for item in GRID}) for family in FAMILIES
                }
                results["drawn"][problem.name] = {
                    "single": {
                        family: {
                            "candidate": item.name,
                            "value": rounded(ends[item][0]),
                            "path": thinned(singles[item][:, 0, number], problem),
                        }
                        for family, item in chosen.items()
                    },
                    "interleaved": legs,
                }
    return results


EXPERIMENTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "figure1": figure1,
    "figure4": figure4,
    "figure7a": figure7a,
}


def run(folder: Path, settings: dict[str, dict[str, Any]], command: str) -> None:
    """Write the JSON of each experiment that is not there with the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, experiment in EXPERIMENTS.items():
        path = folder / f"{name}.json"
        if path.exists() and json.loads(path.read_text())["settings"] == settings[name]:
            print(f"{path} is there already.")
            continue
        began = time.process_time()
        results = experiment(settings[name])
        result = {"settings": settings[name], "seconds": round(time.process_time() - began, 1), **provenance(command)}
        # Whole or not at all; without spaces, because most of it is lists of numbers.
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**result, "results": results}, separators=(",", ":"), allow_nan=False) + "\n")
        temporary.replace(path)
        print(f"{path} written.", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run the experiments, or draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "draw"))
    parser.add_argument("--output", type=Path, default=RESULTS / "functions", help="folder of the JSONs and figures")
    parser.add_argument("--runs", type=int, default=200, help="figure 1: runs of an optimizer")
    parser.add_argument("--starts", type=int, default=20, help="figure 7a: random starts per function")
    parser.add_argument("--steps", type=int, default=500, help="steps of a run")
    arguments = parser.parse_args(argv)
    if min(arguments.runs, arguments.starts, arguments.steps) < 1:
        parser.error("--runs, --starts and --steps must be at least 1")
    if arguments.action == "draw":
        from .function_figures import draw

        draw(arguments.output)
        return
    # Tensors of two numbers gain nothing from threads.
    torch.set_num_threads(1)
    sizes = f"--runs {arguments.runs} --starts {arguments.starts} --steps {arguments.steps}"
    run(
        arguments.output,
        {
            "figure1": {"runs": arguments.runs, "steps": arguments.steps, "paths": 40, "drawn": _as_lists(DRAWN)},
            "figure4": {"moments": list(_DIRECTION_STEPS)},
            "figure7a": {"starts": arguments.starts, "steps": arguments.steps, "methods": METHODS},
        },
        f"python -m benchmarks functions run {sizes}",
    )


def _as_lists(ranges: dict[str, dict[str, tuple[float, float]]]) -> dict[str, dict[str, list[float]]]:
    return {family: {name: list(limits) for name, limits in items.items()} for family, items in ranges.items()}


if __name__ == "__main__":
    main()
