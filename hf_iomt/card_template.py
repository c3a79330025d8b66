"""The template of the model card, and the places of a card that it fills."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from string import Template

_BEGIN = "<!-- hf-iomt: what stands"
_END = "<!-- hf-iomt: end mark -->"
# A new card as huggingface_hub makes it, which PEFT saves beside every adapter: headings with nothing under them.
_BLANK_TITLE = "# Model Card for Model ID"
_PLACEHOLDER = "[More Information Needed]"
_FEWEST_PLACEHOLDERS = 10
_LAST_HEADING = "### Framework versions"


def fill_template(values: Mapping[str, str]) -> tuple[str, str]:
    """
    Fill the template; what is left without text goes with its heading.

    Args:
        values (`Mapping[str, str]`): Texts by their names in the template. Those that are missing are empty.

    Returns:
        `tuple[str, str]`: The beginning of a new card, and the section between the marks, marks included.
    """
    text = resources.files(__package__).joinpath("templates", "model_card.md").read_text(encoding="utf-8")
    blocks = []
    for block in re.split(r"\n(?=### )", text):
        names = re.findall(r"\$(\w+)", block)
        if block.startswith("### ") and not any(values.get(name) for name in names):
            continue
        blocks.append(Template(block).substitute({name: values.get(name, "") for name in names}))
    filled = "\n".join(blocks)
    filled = filled if _END in filled else f"{filled}\n{_END}"
    beginning, mark, section = re.sub(r"\n{3,}", "\n\n", filled).partition(_BEGIN)
    return beginning.strip(), (mark + section).strip()


def place_section(text: str, section: str, beginning: str) -> str:
    """
    Put the section into the text of a card: in the place of an older one, or at its end.

    Args:
        text (`str`): The card without its metadata. Where it is empty, or has no more than the headings of a card that
            nobody has filled in, `beginning` is put in its place.
        section (`str`): What to put in, with its marks.
        beginning (`str`): The beginning of a new card.

    Raises:
        ValueError: The older section has no end mark.
    """
    before, mark, rest = text.partition(_BEGIN)
    if mark:
        if _END not in rest:
            raise ValueError(
                f"The card has no end mark for the section of hf-iomt. Write {_END} where the section ends, or delete "
                "the section."
            )
        return f"{before}{section}{rest.partition(_END)[2]}"
    if is_blank(text):
        versions = text.partition(_LAST_HEADING)
        text = beginning + ("\n\n" + "".join(versions[1:]).strip() if versions[1] else "")
    return f"\n{text.strip()}\n\n{section}\n"


def outside_section(text: str) -> str:
    """What a card says besides the section."""
    before, _, rest = text.partition(_BEGIN)
    return before + rest.partition(_END)[2]


def is_blank(text: str) -> bool:
    """Whether a card is empty, or has nothing but headings yet."""
    return not text.strip() or (_BLANK_TITLE in text and text.count(_PLACEHOLDER) >= _FEWEST_PLACEHOLDERS)
