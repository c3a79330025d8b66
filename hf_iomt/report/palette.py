"""Colours: one for each optimizer family, a shade of it for each learning rate. All of them colour-blind safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .names import learning_rate, split_candidate

# The palette of Okabe and Ito without black, which is the ink, and yellow last, which is hard to see on white.
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442")
# What went wrong: rollbacks, and values that are off the scale.
ALARM = OKABE_ITO[3]
# Families keep their colours from run to run, as far as others have not taken them.
_FAVOURITES = {
    "adamw": 0,
    "adam": 0,
    "rmsprop": 1,
    "adagrad": 2,
    "sgdm": 3,
    "sgd": 4,
    "nag": 4,
    "nadam": 5,
    "nadamw": 5,
    "radam": 5,
    "adafactor": 5,
}
_SURPLUS = ("#7f7f7f", "#a65628", "#8dd3c7", "#4d4d4d")
# How far a shade is mixed with white (positive) or black (negative), from the least learning rate to the largest.
_LIGHT_RANGE = (0.55, -0.35)
_DARK_RANGE = (0.7, -0.05)


@dataclass(frozen=True)
class Colour:
    """
    A colour on white and on black paper, as hexadecimal numbers in small letters.

    Args:
        light (`str`): On white.
        dark (`str`): On black.
    """

    light: str
    dark: str


INK = Colour("#1b1f24", "#e6e8eb")
MUTED = Colour("#5c6570", "#a4acb5")
GRID = Colour("#dfe3e8", "#343b43")
SHADE = Colour("#eef1f4", "#22282f")
PAPER = Colour("#fdfdfe", "#14181d")


def candidate_colours(names: Sequence[str]) -> dict[str, Colour]:
    """
    The colour of each candidate: its family gives the hue, and the larger its learning rate the darker the shade.

    Args:
        names (`Sequence[str]`): All candidates that are shown together.
    """
    hues = family_hues(list(dict.fromkeys(split_candidate(name)[0] for name in names)))
    colours = {}
    for name in names:
        family = split_candidate(name)[0]
        rates = sorted({learning_rate(other) for other in names if split_candidate(other)[0] == family})
        # A single learning rate has the pure colour.
        place = rates.index(learning_rate(name)) / (len(rates) - 1) if len(rates) > 1 else None
        shades = [
            mix(hues[family], 0.0 if place is None else first + place * (last - first))
            for first, last in (_LIGHT_RANGE, _DARK_RANGE)
        ]
        colours[name] = Colour(*shades)
    return colours


def run_colours(count: int) -> list[Colour]:
    """Colours for several runs in one picture."""
    hues = (*OKABE_ITO[:6], *_SURPLUS)
    return [Colour(mix(hue, -0.1), mix(hue, 0.25)) for hue in (hues[index % len(hues)] for index in range(count))]


def family_hues(families: Sequence[str]) -> dict[str, str]:
    """A colour for each family, all of them different for up to eleven."""
    free = [*OKABE_ITO, *_SURPLUS]
    hues: dict[str, str] = {}
    for family in families:
        if family in _FAVOURITES and (hue := OKABE_ITO[_FAVOURITES[family]]) in free:
            hues[family] = hue
            free.remove(hue)
    # What no family in sight is fond of comes first.
    for index, family in enumerate(item for item in families if item not in hues):
        hues[family] = free.pop(0) if free else _SURPLUS[index % len(_SURPLUS)]
    return {family: hues[family] for family in families}


def mix(colour: str, amount: float) -> str:
    """A colour mixed with white, where `amount` is positive, or with black; from -1 to 1."""
    target = 255 if amount > 0 else 0
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(value + abs(amount) * (target - value)):02x}" for value in channels)
