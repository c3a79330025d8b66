"""How well a pre-trained model suits a task: Eq. 6 and its metrics. Knows no optimizer, no Trainer, no checkpoint."""

from .collector import Collector
from .h_score import h_score
from .leep import leep
from .log_me import Evidence, log_me, max_evidence
from .metrics import DISTRIBUTION_METRICS, Sample
from .performance import choose_metric, map_metric
from .pooling import Pooling, choose_pooling, pool
from .record import TRANSFERABILITY_NAME, Transferability
from .recorder import ForwardRecorder, inner_model
from .source import SourceHead
from .task import Task, find_task
from .weight import transferability_weight

__all__ = [
    "DISTRIBUTION_METRICS",
    "TRANSFERABILITY_NAME",
    "Collector",
    "Evidence",
    "ForwardRecorder",
    "Pooling",
    "Sample",
    "SourceHead",
    "Task",
    "Transferability",
    "choose_metric",
    "choose_pooling",
    "find_task",
    "h_score",
    "inner_model",
    "leep",
    "log_me",
    "map_metric",
    "max_evidence",
    "pool",
    "transferability_weight",
]
