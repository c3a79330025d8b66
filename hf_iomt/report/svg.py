"""Pictures within a page: text stays text, and colours follow the reader's light or dark mode."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .palette import GRID, INK, MUTED, PAPER, SHADE, Colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEME = {"ink": INK, "muted": MUTED, "grid": GRID, "shade": SHADE, "paper": PAPER}


def colour_variables(colours: Mapping[str, Colour]) -> dict[str, Colour]:
    """A name of a CSS variable for each colour, equal ones together, with those of the theme."""
    variables = dict(THEME)
    for colour in dict.fromkeys(colours.values()):
        variables[f"c-{colour.light[1:]}"] = colour
    return variables


def inline_svg(figure: Figure, prefix: str, description: str, variables: Mapping[str, Colour]) -> str:
    """
    A figure as an `svg` element of an HTML page.

    Args:
        figure (`Figure`): The figure, drawn in the light colours.
        prefix (`str`): Begins all identifiers, so that several pictures in a page do not share any.
        description (`str`): What there is to see, for those who do not see it.
        variables (`Mapping[str, Colour]`): CSS variables that take the place of the light colours.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{prefix}-', text)
    # The reader's own font; the sizes stay. DejaVu Sans, which the layout was made for, is wider than most.
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", text)
    names = {colour.light: name for name, colour in variables.items()}
    text = re.sub(
        r"#[0-9a-f]{6}\b", lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0], text
    )
    # A hundredth of a pixel is enough, and the file is smaller by a third. Between the tags are labels of the axes.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+\b", r"\1", tag[0]), text)
    text = re.sub(r"\n\s*", "\n", text).strip()
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(description)}" focusable="false">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
