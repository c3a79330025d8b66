from __future__ import annotations

import gc
import os

# Read when numpy and torch load their BLAS, so it has to come before either of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# Their failures show values, as those of the test files do.
pytest.register_assert_rewrite("features", "cards", "odd", "problem", "tiny", "trainers")
torch.set_num_threads(1)

# The time of one example says nothing on a busy machine; fixed examples keep a run repeatable.
settings.register_profile("hf_iomt", deadline=None, derandomize=True)
settings.load_profile("hf_iomt")


@pytest.fixture(scope="module")
def small_heap():
    """Trainer collects garbage in every run, which takes most of a short one where many modules are loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
