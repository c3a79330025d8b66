"""mkdocs hook: formulas become MathML, which browsers show without a script and without a network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What `pymdownx.arithmatex` leaves, with `generic` on.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Replace the formulas of a page; the LaTeX stays in the text alternative."""
    return _FORMULA.sub(_render, content)


def _render(match: re.Match[str]) -> str:
    inline, block = match[2], match[3]
    latex = html.unescape(inline if block is None else block).strip()
    formula = convert(latex, display="inline" if block is None else "block")
    tag = match[1]
    return f'<{tag} class="formula" title="{html.escape(latex, quote=True)}">{formula}</{tag}>'
