"""What is known of the transferability of a pre-trained model before it is tuned."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

TRANSFERABILITY_NAME = "iomt_transferability.json"

_TITLES = {"log_me": "LogME", "leep": "LEEP", "h_score": "H-score"}


@dataclass(frozen=True)
class Transferability:
    """
    The parts of Eq. 6. A part that does not apply is `None`, and `left_out` says why.

    Args:
        weight (`float`): Transferability weight ω_t, in [0, 1].
        performance (`float`, *optional*): ω_p in [0, 1], how the model does before it is tuned.
        performance_metric (`str`, *optional*): What ω_p is: a metric of `compute_metrics`, or what stands for it.
        log_me (`float`, *optional*): LogME of the pooled features.
        leep (`float`, *optional*): LEEP of the source task's predictions, at most 0.
        h_score (`float`, *optional*): H-score of the pooled features.
        task (`str`, *optional*): The kind of labels that were found, see [`~transferability.Task`].
        split (`str`, *optional*): The data that was read: `"train"` or `"eval"`; `None` where ω_t was set.
        samples (`int`): How many samples were read.
        seconds (`float`): How long it took.
        left_out (`dict[str, str]`): The reason for each part that was asked for and is missing.
    """

    weight: float
    performance: float | None = None
    performance_metric: str | None = None
    log_me: float | None = None
    leep: float | None = None
    h_score: float | None = None
    task: str | None = None
    split: str | None = None
    samples: int = 0
    seconds: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Transferability | None:
        """What was written as JSON; `None` where there is no such file, or something else in it."""
        try:
            found = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
            return found if 0 <= found.weight <= 1 else None
        except (OSError, ValueError, TypeError):
            return None

    @property
    def parts(self) -> dict[str, float]:
        """ω_t and the parts that apply, by name."""
        names = ("weight", "performance", *_TITLES)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __str__(self) -> str:
        if self.split is None:
            return f"ω_t = {self.weight:.3f}, as set"
        found = [f"{self.performance_metric} {self.performance:.3f}"] if self.performance is not None else []
        found += [f"{title} {getattr(self, name):.3f}" for name, title in _TITLES.items() if name in self.parts]
        left_out = "".join(f"; no {_TITLES.get(name, name)}: {reason}" for name, reason in self.left_out.items())
        return (
            f"ω_t = {self.weight:.3f} ({', '.join(found) or 'nothing applies'}; {self.samples:,} samples of the "
            f"{self.split} data, {self.seconds:.1f} s){left_out}"
        )
