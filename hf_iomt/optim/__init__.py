"""Optimizers: families, candidates and the optimizer that interleaves them. Knows torch only."""

from .adabound import AdaBound
from .candidates import Candidate, format_candidates, make_candidate, parse_candidates
from .families import Family, get_family, list_families, register_family
from .interleaved import InterleavedOptimizer
from .padam import Padam
from .presets import PRESETS
from .relative_rates import has_only_relative_rates, has_relative_rates, scale_rates
from .snapshot import ParameterAverage, Snapshot, count_broken, local_part, trainable_tensors
from .storage import IN_PLACE, Kept, Place, Storage
from .swats import SWATS

__all__ = [
    "IN_PLACE",
    "PRESETS",
    "SWATS",
    "AdaBound",
    "Candidate",
    "Family",
    "InterleavedOptimizer",
    "Kept",
    "Padam",
    "ParameterAverage",
    "Place",
    "Snapshot",
    "Storage",
    "count_broken",
    "format_candidates",
    "get_family",
    "has_only_relative_rates",
    "has_relative_rates",
    "list_families",
    "local_part",
    "make_candidate",
    "parse_candidates",
    "register_family",
    "scale_rates",
    "trainable_tensors",
]
