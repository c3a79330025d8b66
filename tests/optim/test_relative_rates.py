from __future__ import annotations

import pytest

from hf_iomt.optim import has_only_relative_rates, has_relative_rates, parse_candidates, scale_rates


@pytest.mark.parametrize(
    "text, expected",
    [
        ("adamw:lr=1x|3x|0.3x; adagrad:lr=10x", "adamw:lr=0.002|0.006|0.0006; adagrad:lr=0.02"),
        ("adamw:lr=1x|1e-3,weight_decay=0.1", "adamw:lr=0.002|1e-3,weight_decay=0.1"),
        ("adamw: lr = 1X | 1e1x , betas=0.9/0.99", "adamw: lr =0.002|0.02, betas=0.9/0.99"),
        ("sgdm:lr=0.1", "sgdm:lr=0.1"),
        ("lrx:lr=3x", "lrx:lr=0.006"),
    ],
)
def test_multiples_become_numbers(text, expected):
    assert scale_rates(text, 2e-3) == expected
    assert has_relative_rates(text) == (text != expected)


def test_the_result_is_a_candidate_list():
    names = [candidate.name for candidate in parse_candidates(scale_rates("adamw:lr=1x|0.3x; sgd:lr=0.1", 1 / 3))]
    assert names == ["adamw:lr=0.333", "adamw:lr=0.1", "sgd:lr=0.1"]


@pytest.mark.parametrize(
    "text, only",
    [("adamw:lr=1x|3x; sgd:lr=9x", True), ("adamw:lr=1x|1e-3", False), ("adamw:lr=1x; sgd:lr=0.1", False)],
)
def test_some_rates_or_all(text, only):
    assert has_only_relative_rates(text) == only


@pytest.mark.parametrize("text", ["adamw:lr=x", "adamw:lr=1e-3|twox"])
def test_what_cannot_be_read_is_named(text):
    with pytest.raises(ValueError, match="write a number before the x, as in lr=3x"):
        scale_rates(text, 1e-3)
