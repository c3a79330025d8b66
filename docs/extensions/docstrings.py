"""Griffe extension: docstrings in the style of transformers become Markdown, with links between them."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Alias, Extension, Module, Object

# Headings whose indented lines are named entries, and headings whose indented lines are prose.
_ENTRIES = ("Args", "Attributes", "Raises")
_PROSE = ("Returns", "Yields", "Example", "Examples")
_HEADING = re.compile(rf"({'|'.join(_ENTRIES + _PROSE)}):$")
# `name (type):`, `name:` or `name, other (type):`, and what follows on the same line.
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<type>.*?)\))?:(?:\s+(?P<text>.*))?$")
_GROUP = re.compile(r"> (?P<title>\S.*)$")
# Packages that docstrings refer to with `~`; the site of none can be assumed to be at hand.
_OTHER_PACKAGES = ("transformers", "trl", "sentence_transformers", "torch", "peft")
_REFERENCE = re.compile(r"\[`(?P<path>~?[\w.]+)`\](?!\(|\[)")


class TransformersDocstrings(Extension):
    """
    Rewrites every docstring of a package once it is loaded.

    Sections such as `Args:` become lists, and ``[`~optim.Candidate`]`` a link to the object of that name: a path from
    the module where it stands or from the package, else the only object of that name. Names of other packages become
    code. A name of this package that cannot be found stays a link without a target, which a strict build refuses.
    """

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Rewrite the docstrings of a package."""
        objects = dict(_walk(pkg))
        for item in objects.values():
            if item.docstring is not None:
                item.docstring.value = to_markdown(item.docstring.value)
                item.docstring.value = link(item.docstring.value, item.module.path, pkg.path, objects)


def to_markdown(docstring: str) -> str:
    """The docstring with its sections as Markdown lists."""
    lines: list[str] = []
    section: list[str] | None = None
    heading = ""
    for line in docstring.splitlines():
        if section is not None and (not line.strip() or line.startswith(" ")):
            section.append(line)
            continue
        if section is not None:
            lines += _format_section(heading, section)
            section = None
        if match := _HEADING.match(line):
            heading, section = match[1], []
        elif match := _GROUP.match(line):
            lines += [f"**{match['title']}**", ""]
        else:
            lines.append(line)
    if section is not None:
        lines += _format_section(heading, section)
    return "\n".join(lines)


def link(text: str, module: str, package: str, objects: dict[str, Object]) -> str:
    """The text with its references as links for mkdocs-autorefs."""

    def replace(match: re.Match[str]) -> str:
        path = match["path"]
        name = path.removeprefix("~")
        found = find_object(name, module, package, objects)
        if found is None and path.startswith("~") and name.partition(".")[0] in _OTHER_PACKAGES:
            return f"`{name}`"
        # `~` shows the last part only.
        shown = name.rpartition(".")[2] if path.startswith("~") else name
        return f"[`{shown}`][{found or name}]"

    return _REFERENCE.sub(replace, text)


def find_object(name: str, module: str, package: str, objects: dict[str, Object]) -> str | None:
    """Full path of what a docstring in `module` calls `name`, or `None`."""
    for path in (f"{module}.{name}", f"{package}.{name}"):
        if path in objects:
            return path
    # `optim.Candidate` is defined in `optim.candidates`, and `Candidate` somewhere in the package.
    prefix, _, last = name.rpartition(".")
    inside = f"{package}.{prefix}" if prefix else package
    found = [path for path in objects if path.startswith(f"{inside}.") and path.endswith(f".{last}")]
    return found[0] if len(found) == 1 else None


def _format_section(heading: str, body: list[str]) -> list[str]:
    text = textwrap.dedent("\n".join(body)).strip("\n")
    if heading in _PROSE:
        return [f"**{heading}:**", "", *text.splitlines(), ""]
    lines = [f"**{heading}:**", ""]
    for line in text.splitlines():
        match = None if line.startswith(" ") else _ENTRY.match(line)
        if match is None:
            # What belongs to the entry before lies below its bullet.
            lines.append(f"    {line.strip()}" if line.strip() else "")
            continue
        names = ", ".join(f"`{name}`" for name in match["names"].split(", "))
        kind = f" ({match['type']})" if match["type"] else ""
        lines.append(f"- **{names}**{kind}:")
        if match["text"]:
            lines.append(f"    {match['text']}")
    return [*lines, ""]


def _walk(item: Object) -> list[tuple[str, Object]]:
    """Every object below, by its path; what a module only imports is left out."""
    found: list[tuple[str, Object]] = [(item.path, item)]
    for member in item.members.values():
        if not isinstance(member, Alias):
            found += _walk(member)
    return found
