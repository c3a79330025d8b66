"""The decision: scores, surrogates and the choice of the next candidate. Knows no optimizer and no Trainer."""

from .history import HISTORY_NAME, PHASES, CycleRecord, as_dictionaries, as_metrics
from .parameter_state import ParameterProjection, compress, select_parameters
from .scoring import score
from .selector import Choice, Selector, SelectorSettings

__all__ = [
    "HISTORY_NAME",
    "PHASES",
    "Choice",
    "CycleRecord",
    "ParameterProjection",
    "Selector",
    "SelectorSettings",
    "as_dictionaries",
    "as_metrics",
    "compress",
    "score",
    "select_parameters",
]
