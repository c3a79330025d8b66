"""The figures of a page, each in two widths: letters must be as large on a telephone as on a desk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .markup import escape
from .palette import Colour
from .style import figure_style, make_figure
from .svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches of 72 CSS pixels.
_WIDE, _HALF, _NARROW = 11.0, 7.0, 4.3

# Draws into a figure; the second argument says whether it is narrow.
Draw = Callable[["Figure", bool], None]


class Pictures:
    """
    Makes `figure` elements.

    Args:
        variables (`Mapping[str, Colour]`): The CSS variables of the page.
    """

    def __init__(self, variables: Mapping[str, Colour]) -> None:
        self._variables = variables
        self._count = 0

    def make(
        self, draw: Draw, description: str, caption: str, height: float, narrow_height: float, half: bool = False
    ) -> str:
        """
        Draw a figure twice; a style sheet shows the one that fits.

        Args:
            draw (`Draw`): Draws it.
            description (`str`): What there is to see, for those who do not see it.
            caption (`str`): How to read it, for everybody.
            height (`float`): Height of the wide one, in inches.
            narrow_height (`float`): Height of the narrow one, in inches.
            half (`bool`, *optional*): Whether it needs no more than half of a wide page.
        """
        self._count += 1
        drawings = []
        for kind, width, tall in (("wide", _HALF if half else _WIDE, height), ("narrow", _NARROW, narrow_height)):
            with figure_style():
                figure = make_figure(width, tall, transparent=True)
                draw(figure, kind == "narrow")
                svg = inline_svg(figure, f"f{self._count}{kind[0]}", description, self._variables)
            drawings.append(f'<div class="{kind}">{svg}</div>')
        shape = ' class="half"' if half else ""
        return f"<figure{shape}>{''.join(drawings)}<figcaption>{escape(caption)}</figcaption></figure>"
