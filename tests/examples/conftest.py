"""What the tests of all examples begin with."""

from __future__ import annotations

from pathlib import Path

import datasets
import evaluate
import huggingface_hub
import pytest
from scripts import EXAMPLES, save_tokenizer, write_reviews
from transformers import BertConfig, BertModel, set_seed


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing that earlier runs left in a cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # These were read when the packages were imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    set_seed(0)


@pytest.fixture
def reviews(tmp_path: Path) -> list[str]:
    """The flags of a tiny model and its data."""
    size = save_tokenizer(tmp_path / "model")
    BertModel(
        BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path / "model")
    write_reviews(tmp_path / "data")
    return [f"--model={tmp_path / 'model'}", f"--dataset={tmp_path / 'data'}"]
