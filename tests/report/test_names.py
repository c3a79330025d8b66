from __future__ import annotations

import pytest

from hf_iomt.optim import PRESETS, parse_candidates, scale_rates
from hf_iomt.report.names import capitalize, count, format_rate, per_cent, short_names, split_candidate, spoken_names


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.1, "0.1"),
        (0.01, "0.01"),
        (0.001, "1e-3"),
        (0.003, "3e-3"),
        (0.00025, "2.5e-4"),
        (5e-05, "5e-5"),
        (1.0, "1"),
        (30.0, "30"),
        (1e8, "1e8"),
        (0.0, "0"),
    ],
)
def test_learning_rates(rate, text):
    assert format_rate(rate) == text
    assert float(text) == rate


def test_names_are_short():
    names = ["adam:lr=0.001", "sgdm:lr=0.1,momentum=0.9", "adam:lr=0.1"]
    assert list(short_names(names).values()) == ["adam · 1e-3", "sgdm · 0.1", "adam · 0.1"]
    assert list(spoken_names(names).values()) == ["Adam at 1e-3", "SGDM at 0.1", "Adam at 0.1"]


def test_what_tells_twins_apart_is_named():
    names = [
        "adam:lr=0.001,betas=0.9/0.99,weight_decay=0.01",
        "adam:lr=0.001,betas=0.9/0.99,weight_decay=0.1",
        "adam:lr=0.01,betas=0.9/0.99,weight_decay=0.1",
    ]
    assert list(short_names(names).values()) == [
        *("adam · 1e-3 · weight decay 0.01", "adam · 1e-3 · weight decay 0.1", "adam · 0.01")
    ]
    assert spoken_names(names)[names[0]] == "Adam at 1e-3 with weight decay 0.01"


@pytest.mark.parametrize("preset", PRESETS)
def test_names_of_a_preset_differ(preset):
    names = [candidate.name for candidate in parse_candidates(scale_rates(PRESETS[preset], 0.002))]
    assert len(set(short_names(names).values())) == len(set(spoken_names(names).values())) == len(names)


def test_a_name_is_taken_apart_as_the_grammar_has_it():
    for candidate in parse_candidates("adamw:lr=1e-3,betas=0.9/0.99,weight_decay=0.01; sgd:lr=1e8"):
        family, settings = split_candidate(candidate.name)
        assert family == candidate.family and float(settings["lr"]) == candidate.learning_rate
        assert list(settings) == list(candidate.settings)


def test_words():
    assert [count(number, "cycle") for number in (0, 1, 4, 12, 13, 1300)] == [
        *("no cycles", "one cycle", "four cycles", "twelve cycles", "13 cycles", "1,300 cycles")
    ]
    assert count(2, "switch", "switches") == "two switches"
    assert capitalize("four SGDs") == "Four SGDs"
    assert (per_cent(0.624), per_cent(0.0049, 1), per_cent(1)) == ("62 %", "0.5 %", "100 %")
