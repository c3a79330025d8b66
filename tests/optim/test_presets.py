from __future__ import annotations

import itertools

import pytest

from hf_iomt.optim import PRESETS, list_families, parse_candidates, scale_rates

RATES = (0.1, 0.01, 0.001)
DECAYS = (1e-2, 1e-3, 1e-4)
NINTHS = (0.5, 0.6, 0.7, 0.8, 0.9)


def members(preset):
    return [(candidate.family, candidate.settings) for candidate in parse_candidates(PRESETS[preset])]


def grid(family, **axes):
    return [(family, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def assert_same(preset, expected):
    def key(member):
        return member[0], sorted(member[1].items())

    assert sorted(members(preset), key=key) == sorted(expected, key=key)


def test_auto_depends_on_the_range_test():
    assert {candidate.family for candidate in parse_candidates(scale_rates(PRESETS["auto"], 1e-3))} == {"nadamw"}
    with pytest.raises(ValueError, match="1x"):
        parse_candidates(PRESETS["auto"])


def test_paper_is_section_5_1():
    expected = []
    for family in ("sgd", "sgdm", "adagrad", "rmsprop", "adam"):
        expected += grid(family, lr=RATES)
    assert len(expected) == 15
    assert_same("paper", expected)


def test_paper_wide_is_appendix_d():
    assert_same(
        "paper_wide",
        [
            *grid("sgd", lr=RATES, weight_decay=DECAYS),
            *grid("sgdm", lr=RATES, momentum=NINTHS),
            *grid("adagrad", lr=RATES, weight_decay=DECAYS),
            *grid("rmsprop", lr=RATES, weight_decay=DECAYS, alpha=NINTHS),
            *grid("adam", lr=RATES, weight_decay=DECAYS),
        ],
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_list_of_different_candidates(preset):
    candidates = parse_candidates(scale_rates(PRESETS[preset], 1.0))
    assert len(candidates) >= 2
    written = sum(
        len(list(itertools.product(*(part.split("|") for part in item.partition(":")[2].split(",")))))
        for item in PRESETS[preset].split(";")
    )
    assert len(candidates) == written
    assert {candidate.family for candidate in candidates} <= set(list_families())


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "auto"])
def test_every_preset_has_several_families(preset):
    assert len({candidate.family for candidate in parse_candidates(scale_rates(PRESETS[preset], 1.0))}) >= 3


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_name_is_not_a_candidate_list(preset):
    # Otherwise a name could not be told from a list.
    with pytest.raises(ValueError, match="Cannot read"):
        parse_candidates(preset)
