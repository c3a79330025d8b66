from __future__ import annotations

import itertools

import pytest

from hf_iomt.optim import PRESETS, list_families, parse_candidates
from hf_iomt.report.palette import INK, MUTED, OKABE_ITO, PAPER, candidate_colours, family_hues, mix, run_colours

NAMES = [candidate.name for candidate in parse_candidates(PRESETS["paper"])]


def luminance(colour):
    """Relative luminance of WCAG 2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_colour_for_each_of_fifteen():
    colours = candidate_colours(NAMES)
    assert len({colour.light for colour in colours.values()}) == 15
    assert len({colour.dark for colour in colours.values()}) == 15


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_larger_the_rate_the_darker_the_shade(mode):
    colours = candidate_colours(NAMES)
    for family in ("adam", "rmsprop", "adagrad", "sgdm", "sgd"):
        shades = [luminance(getattr(colours[f"{family}:lr={rate}"], mode)) for rate in ("0.001", "0.01", "0.1")]
        assert shades == sorted(shades, reverse=True)
        # Neighbours can be told apart.
        assert all(first / second > 1.25 for first, second in itertools.pairwise(shades))


def test_a_family_with_one_rate_has_the_pure_colour():
    assert candidate_colours(["rmsprop:lr=0.001"])["rmsprop:lr=0.001"].light == OKABE_ITO[1]


def test_families_keep_their_colours():
    assert family_hues(["sgdm", "adam"])["adam"] == family_hues(["adam", "rmsprop"])["adam"] == OKABE_ITO[0]
    # Two that like the same one differ.
    assert len(set(family_hues(["adam", "adamw", "nadam", "radam"]).values())) == 4


def test_many_families_have_colours():
    families = list(list_families())
    hues = family_hues(families)
    assert list(hues) == families and len(set(hues.values())) == min(11, len(families))


def test_text_can_be_read():
    for text in (INK, MUTED):
        assert contrast(text.light, PAPER.light) > 4.5 and contrast(text.dark, PAPER.dark) > 4.5


def test_lines_of_runs_can_be_seen():
    colours = run_colours(6)
    assert len({colour.light for colour in colours}) == 6
    assert all(contrast(colour.dark, PAPER.dark) > 3 for colour in colours)
    assert all(contrast(colour.light, PAPER.light) > 2.3 for colour in colours)
    assert len(run_colours(30)) == 30


def test_mixing():
    assert mix("#0072b2", 0) == "#0072b2"
    assert (mix("#0072b2", 1), mix("#0072b2", -1)) == ("#ffffff", "#000000")
    assert mix("#0064c8", 0.5) == "#80b2e4"
