"""JSON files that a crash cannot break."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(value: Any, path: str | os.PathLike[str], indent: int | None = 1) -> None:
    """Write a value as JSON, so that a reader finds the old file or the new one and nothing in between."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A push to the Hub that is reading the folder leaves names with an underscore out.
    temporary = target.with_name(f"_{target.name}.tmp")
    temporary.write_text(json.dumps(value, indent=indent, allow_nan=False), encoding="utf-8")
    temporary.replace(target)
