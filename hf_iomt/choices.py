"""The values that settings of a few words can have."""

from __future__ import annotations

from transformers.utils.generic import ExplicitEnum


class IOMTPreset(ExplicitEnum):
    """Where unset settings come from."""

    DEFAULT = "default"
    PAPER = "paper"


class IOMTSelection(ExplicitEnum):
    """How the next candidate is chosen once the initial cycles are over."""

    SURROGATE = "surrogate"
    RANDOM = "random"
    CYCLICAL = "cyclical"
    COMMIT = "commit"


class IOMTInitialSampling(ExplicitEnum):
    """How candidates are drawn in the initial cycles."""

    WEIGHTED = "weighted"
    UNIFORM = "uniform"


class IOMTVarianceWeight(ExplicitEnum):
    """Reading of Eq. 7."""

    TEXT = "text"
    PRINTED = "printed"


class IOMTStateCompression(ExplicitEnum):
    """How parameter states are compressed."""

    PCA = "pca"
    RP = "rp"
    UMAP = "umap"
    NONE = "none"


class IOMTScore(ExplicitEnum):
    """Which losses Eq. 2 sees."""

    LOSSES = "losses"
    TREND = "trend"
    PROBE = "probe"


class IOMTIdleState(ExplicitEnum):
    """What happens to the state of a family that is not active."""

    KEEP = "keep"
    RESET = "reset"


class IOMTOffload(ExplicitEnum):
    """Where copies of the trainable parameters, and optimizer states, are kept that are not in use."""

    NONE = "none"
    CPU = "cpu"
    DISK = "disk"


class IOMTTransferabilitySplit(ExplicitEnum):
    """The data that the transferability is measured on."""

    TRAIN = "train"
    EVAL = "eval"
