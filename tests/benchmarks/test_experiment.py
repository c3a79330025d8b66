"""Experiments and methods: every file is sound, and mistakes are named."""

from __future__ import annotations

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.experiment import TIERS, load_experiment, load_tier
from benchmarks.methods import METHODS, expand
from benchmarks.run import result_path
from hf_iomt import IOMTTrainingArguments
from hf_iomt.optim import parse_candidates

EXPERIMENTS = [item for tier in TIERS for item in load_tier(tier)]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda item: f"{item.tier}/{item.name}")
def test_every_experiment_names_methods_that_exist(experiment):
    names = expand(experiment.methods, experiment.tuning)
    assert names and len({result_path(experiment, name, 0) for name in names}) == len(names)
    assert not any(METHODS[name].only and METHODS[name].only != experiment.tuning for name in names)


def test_every_method_is_one_that_can_be_built():
    for name, method in METHODS.items():
        if method.kind == "single":
            assert [item.name for item in parse_candidates(method.settings["candidate"])], name
        if method.kind == "iomt" and method.reason_against is None:
            IOMTTrainingArguments(output_dir="run", **method.settings)
    assert len({result_path(EXPERIMENTS[0], name, 0) for name in METHODS}) == len(METHODS)


def test_every_contender_is_among_the_methods():
    assert all(name in METHODS for contender in CONTENDERS for name in contender.methods)


FIELDS = "data: digits\nmodel: small_cnn\ntuning: full\nmethods: [iomt]\nbatch_size: 8\nsize: 8\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (FIELDS + "steps: 3\nspeed: 4\n", "unknown field 'speed'"),
        (FIELDS.replace("digits", "diggits") + "steps: 3\n", "`data` must be one of .*usps.*'diggits'"),
        (FIELDS, "`steps` or `epochs`"),
        ("steps: 3\n", "missing"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "smoke" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_experiment(path)


def test_unknown_methods_are_named():
    with pytest.raises(SystemExit, match="'adamm'"):
        expand(("adamm",), "full")
