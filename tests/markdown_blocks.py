"""Blocks of code and commands in Markdown, for the tests that execute what the documentation says."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Before a block that is not executed, with the reason.
MARK = re.compile(r"<!-- not executed: (?P<reason>\S.*?) -->\s*$", re.DOTALL)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
_COMMAND_IN_A_TABLE = re.compile(r"`((?:python|bash) examples/[^`]+)`")


@dataclass(frozen=True)
class Block:
    """One block, and the reason why it is not executed."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page with something to execute, as a path in the repository."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]
    return sorted(str(file.relative_to(ROOT)) for file in [*files, ROOT / "benchmarks" / "README.md"])


def read_blocks(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        mark = MARK.search(text[: match.start()])
        reason = mark["reason"] if mark is not None else None
        indent = match["indent"]
        lines = [line.removeprefix(indent) for line in match["text"].splitlines()]
        place = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(page, place, match["language"], "\n".join(lines), reason))
    return blocks


def commands_in_tables(page: str) -> list[list[str]]:
    """The commands that stand in cells, split into words."""
    return [shlex.split(text) for text in _COMMAND_IN_A_TABLE.findall((ROOT / page).read_text(encoding="utf-8"))]


def split_commands(text: str) -> list[tuple[list[str], str]]:
    """
    Simple commands of a block, split into words, with the output that is shown below.

    A block with prompts (`$ `) shows output, one without does not.
    """
    lines = text.replace("\\\n", " ").splitlines()
    prompts = any(line.startswith("$ ") for line in lines)
    commands: list[tuple[list[str], str]] = []
    for line in lines:
        if prompts and not line.startswith("$ "):
            words, output = commands[-1]
            commands[-1] = (words, f"{output}{line}\n")
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            commands.append((words[:end], ""))
            words = words[end + 1 :]
    return commands
