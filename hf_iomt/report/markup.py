"""Pieces of an HTML page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from .names import count

Cell = str | int | float | None


def escape(text: object) -> str:
    """Text within HTML."""
    return html.escape(str(text))


def paragraphs(sentences: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str, colours: Sequence[str] = ()) -> str:
    """
    A table that scrolls by itself where it is too wide.

    Args:
        titles (`Sequence[str]`): Headings of the columns.
        rows (`Sequence[Sequence]`): Cells; the first of a row is its heading. `None` is a dash.
        caption (`str`): What the table holds.
        colours (`Sequence[str]`, *optional*): CSS colours of small squares before the headings of the rows.
    """
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = []
    for index, (first, *cells) in enumerate(rows):
        square = f'<span class="square" style="background: {colours[index]}"></span>' if colours else ""
        others = "".join(f"<td{_class(cell)}>{escape(format_cell(cell))}</td>" for cell in cells)
        body.append(f'<tr><th scope="row">{square}{escape(format_cell(first))}</th>{others}</tr>')
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def details(title: str, content: str) -> str:
    """Something that is shown when it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def format_cell(value: Cell) -> str:
    """A value in a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def legend(names: Sequence[str], colours: Sequence[str], most: int) -> str:
    """Names with squares of their colours, no more than `most`."""
    items = [
        f'<li><span class="square" style="background: {colour}"></span>{escape(name)}</li>'
        for name, colour in list(zip(names, colours, strict=True))[:most]
    ]
    if len(names) > most:
        items.append(f"<li>and {count(len(names) - most, 'more candidate')}</li>")
    return f'<ul class="legend" aria-label="Colours">{"".join(items)}</ul>'


def _class(cell: Cell) -> str:
    return ' class="number"' if isinstance(cell, (int, float)) or cell is None else ""
