"""Candidate lists by name. The first of a list is the one to trust most: racing and selection favour it."""

from __future__ import annotations

# Section 5.1: five families with the learning rates 0.1, 0.01 and 0.001, everything else as PyTorch has it.
_PAPER = "; ".join(f"{family}:lr=0.001|0.01|0.1" for family in ("adam", "rmsprop", "adagrad", "sgdm", "sgd"))

# Appendix D, "The optimizer space": the same learning rates with weight decay, momentum and alpha added.
_DECAY = "weight_decay=0.01|0.001|0.0001"
_PAPER_WIDE = "; ".join(
    (
        f"adam:lr=0.001|0.01|0.1,{_DECAY}",
        f"rmsprop:lr=0.001|0.01|0.1,alpha=0.9|0.8|0.7|0.6|0.5,{_DECAY}",
        f"adagrad:lr=0.001|0.01|0.1,{_DECAY}",
        "sgdm:lr=0.001|0.01|0.1,momentum=0.9|0.8|0.7|0.6|0.5",
        f"sgd:lr=0.001|0.01|0.1,{_DECAY}",
    )
)

PRESETS: dict[str, str] = {
    # `x` is what the range test finds. One family, because another one that takes over in the middle of a run has no
    # moments yet, and its first steps are several times too large.
    "auto": "nadamw:lr=1x|1.5x|0.7x",
    "paper": _PAPER,
    "paper_wide": _PAPER_WIDE,
    # Ranges that suit adapters: B starts at zero, so step sizes are larger than for the pre-trained weights.
    "lora": "adamw:lr=1e-3|3e-3|3e-4; rmsprop:lr=1e-3; adagrad:lr=0.01; sgdm:lr=0.1",
    # A new classifier on frozen features is close to a convex problem: larger steps are safe.
    "head": "adamw:lr=3e-3|1e-2|1e-3; sgdm:lr=0.1|0.01; adagrad:lr=0.1|0.01",
    # All the pre-trained weights move: small steps.
    "full": "adamw:lr=5e-5|1e-4|2e-5; nadam:lr=5e-5; rmsprop:lr=3e-5; sgdm:lr=0.01|0.003",
}
"""Candidate lists by name, in the grammar of `parse_candidates`."""
