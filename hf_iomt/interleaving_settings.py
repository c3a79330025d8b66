"""How the loop of Algorithm 1 scores cycles and when it undoes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class InterleavingSettings:
    """Settings of the loop; [`IOMTTrainingArguments`] documents each under the same name with the prefix `iomt_`."""

    switch_steps: int = 25
    alpha: float = 0.1
    score: Literal["losses", "trend", "probe"] = "losses"
    rollback: bool = False
    patience: int = 0
    takeover_steps: int = 0
