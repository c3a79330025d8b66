"""Candidate lists by name."""

from __future__ import annotations

# Section 5.1: five families with the learning rates 0.1, 0.01 and 0.001, everything else as PyTorch has it.
_PAPER = "; ".join(f"{family}:lr=0.1|0.01|0.001" for family in ("sgd", "sgdm", "adagrad", "rmsprop", "adam"))

# Appendix D, "The optimizer space": the same learning rates with weight decay, momentum and alpha added.
_DECAY = "weight_decay=0.01|0.001|0.0001"
_PAPER_WIDE = "; ".join(
    (
        f"sgd:lr=0.1|0.01|0.001,{_DECAY}",
        "sgdm:lr=0.1|0.01|0.001,momentum=0.5|0.6|0.7|0.8|0.9",
        f"adagrad:lr=0.1|0.01|0.001,{_DECAY}",
        f"rmsprop:lr=0.1|0.01|0.001,alpha=0.5|0.6|0.7|0.8|0.9,{_DECAY}",
        f"adam:lr=0.1|0.01|0.001,{_DECAY}",
    )
)

PRESETS: dict[str, str] = {
    "paper": _PAPER,
    "paper_wide": _PAPER_WIDE,
    # Ranges that suit adapters: B starts at zero, so step sizes are larger than for the pre-trained weights.
    "lora": "sgdm:lr=0.1|0.03; adagrad:lr=0.01; rmsprop:lr=1e-3; adamw:lr=3e-3|1e-3|3e-4; nadam:lr=1e-3",
    # A new classifier on frozen features is close to a convex problem: larger steps are safe.
    "head": "sgdm:lr=0.1|0.01; nag:lr=0.03; adagrad:lr=0.1|0.01; adamw:lr=1e-2|3e-3|1e-3",
    # All the pre-trained weights move: small steps.
    "full": "sgdm:lr=0.01|0.003; rmsprop:lr=3e-5; adamw:lr=1e-4|5e-5|2e-5; nadam:lr=5e-5",
}
