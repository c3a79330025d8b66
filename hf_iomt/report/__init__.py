"""Reading a run: what it did, in words, tables and pictures. Only drawing needs matplotlib (extra `plots`)."""

from __future__ import annotations

from .calibration import Calibration, Prediction, calibrate, predictions
from .figure import draw_comparison, draw_run
from .page import REPORT_NAME, write_report
from .run import Run, read_run
from .shares import CandidateShare, candidate_shares
from .summary import summarize_run
from .times import time_parts

__all__ = [
    "REPORT_NAME",
    "Calibration",
    "CandidateShare",
    "Prediction",
    "Run",
    "calibrate",
    "candidate_shares",
    "draw_comparison",
    "draw_run",
    "predictions",
    "read_run",
    "summarize_run",
    "time_parts",
    "write_report",
]
