"""The scripts of the examples, and tiny models and data for them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
WORDS = ("the", "film", "was", "good", "bad", "and", "long", "short", "we", "liked", "it", "not")
STEPS = 40
TRAINING = [
    f"--max_steps={STEPS}",
    "--per_device_train_batch_size=8",
    "--per_device_eval_batch_size=16",
    "--iomt_candidates=adamw:lr=0.01|0.03; sgdm:lr=0.1",
    "--iomt_switch_steps=4",
    "--iomt_race_steps=4",
    "--save_strategy=no",
    "--report_to=none",
    "--disable_tqdm=true",
    "--use_cpu",
]


def load_example(name: str) -> ModuleType:
    """Import a script, whose name begins with a digit."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where `HfArgumentParser` looks up the types of a dataclass.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def save_tokenizer(folder: Path) -> int:
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[EOS]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", model_max_length=32
    ).save_pretrained(folder)
    return len(vocabulary)


def check_history(folder: Path) -> None:
    history = json.loads((folder / "iomt_history.json").read_text())
    assert sum(record["last_step"] - record["first_step"] + 1 for record in history) == STEPS


def write_reviews(folder: Path) -> None:
    """Pairs of sentences that are labelled by whether the second has the word "good"."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split, rows in (("train", 64), ("test", 32)):
        first = [" ".join(generator.choice(WORDS[:3], 3)) for _ in range(rows)]
        labels = generator.integers(2, size=rows).tolist()
        second = [" ".join([*generator.choice(WORDS[5:], 3), "good" if label else "bad"]) for label in labels]
        data = {"sentence1": first, "sentence2": second, "label": labels}
        Dataset.from_dict(data).to_parquet(folder / f"{split}.parquet")
