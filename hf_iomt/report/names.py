"""What candidates and families are called in pictures and sentences."""

from __future__ import annotations

from collections.abc import Sequence

_FAMILIES = {
    "sgd": "SGD",
    "sgdm": "SGDM",
    "nag": "NAG",
    "asgd": "ASGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "adamax": "Adamax",
    "nadam": "NAdam",
    "nadamw": "NAdamW",
    "radam": "RAdam",
    "swats": "SWATS",
    "padam": "Padam",
    "adabound": "AdaBound",
    "adafactor": "Adafactor",
}
_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def split_candidate(name: str) -> tuple[str, dict[str, str]]:
    """Family and hyperparameters of a candidate's name, such as `adamw:lr=0.001,weight_decay=0.01`."""
    family, _, body = name.partition(":")
    pairs = (item.partition("=") for item in body.split(",") if item)
    return family, {key: value for key, _, value in pairs}


def learning_rate(name: str) -> float:
    """The learning rate in a candidate's name; 0 where there is none."""
    try:
        return float(split_candidate(name)[1].get("lr", 0))
    except ValueError:
        return 0.0


def format_rate(value: float) -> str:
    """A learning rate as people write it: 0.1, 0.003 as 3e-3."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """
    A short name for each candidate, such as `adam · 1e-3`.

    Other hyperparameters follow only where candidates of a family and a learning rate differ by them.

    Args:
        names (`Sequence[str]`): All candidates that are shown together.
    """
    return {name: " · ".join([split_candidate(name)[0], *_parts(name, names)]) for name in names}


def spoken_names(names: Sequence[str]) -> dict[str, str]:
    """The same for sentences, such as `Adam at 1e-3`."""
    spoken = {}
    for name in names:
        family = split_candidate(name)[0]
        rate, *others = _parts(name, names)
        extra = f" with {', '.join(others)}" if others else ""
        spoken[name] = f"{_FAMILIES.get(family, family)} at {rate}{extra}"
    return spoken


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things, small ones in words: `four cycles`."""
    word = _NUMBERS[number] if number < len(_NUMBERS) else f"{number:,}"
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def per_cent(share: float, digits: int = 0) -> str:
    """A share as people write it: 62 %."""
    return f"{100 * share:.{digits}f} %"


def capitalize(sentence: str) -> str:
    """A sentence with a capital at its beginning and all else as it is."""
    return sentence[:1].upper() + sentence[1:]


def _parts(name: str, names: Sequence[str]) -> list[str]:
    family, settings = split_candidate(name)
    rate = learning_rate(name)
    twins = [
        split_candidate(other)[1]
        for other in names
        if split_candidate(other)[0] == family and learning_rate(other) == rate
    ]
    differing = [key for key in settings if key != "lr" and len({twin.get(key) for twin in twins}) > 1]
    return [format_rate(rate), *(f"{key.replace('_', ' ')} {settings[key]}" for key in differing)]
