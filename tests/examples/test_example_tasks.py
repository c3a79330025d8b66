"""The examples of a task each, run on tiny models and data made here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from scripts import TRAINING, WORDS, check_history, load_example, save_tokenizer
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)


def test_text_classification(tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    # A module of the form that the Hub has, and a name that scikit-learn must stand in for.
    metric = tmp_path / "accuracy"
    metric.mkdir()
    (metric / "accuracy.py").write_text(LOCAL_METRIC)
    load_example("01_text_classification_lora").main(
        [
            *reviews,
            f"--output_dir={output}",
            *("--metrics", str(metric), "f1"),
            *TRAINING,
        ]
    )
    printed = capsys.readouterr().out
    assert re.search(r"loss [\d.]+, accuracy [\d.]+, f1 [\d.]+ on 32 rows", printed)
    assert "share of steps" in printed and "adamw:lr=0.01" in printed
    assert (output / "adapter_model.safetensors").exists()
    assert json.loads((output / "eval_results.json").read_text())["eval_accuracy"] >= 0.7
    check_history(output)


LOCAL_METRIC = """
import datasets
import evaluate


class Accuracy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(p == r for p, r in zip(predictions, references)) / len(references)}
"""


def write_pictures(folder: Path, kind: str) -> None:
    """Dark and bright pictures, as parquet, as NumPy arrays or as files in folders by class."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split, rows in (("train", 48), ("test", 16)):
        labels = np.arange(rows) % 2
        pixels = (generator.integers(0, 128, (rows, 8, 8)) + 127 * labels[:, None, None]).astype(np.uint8)
        pictures = [PillowImage.fromarray(item) for item in pixels]
        if kind == "npz":
            np.savez(folder / f"{split}.npz", image=pixels, label=labels)
        elif kind == "parquet":
            features = Features({"image": Image(), "label": ClassLabel(names=["dark", "bright"])})
            data = Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)
            data.to_parquet(folder / f"{split}.parquet")
        else:
            for number, picture in enumerate(pictures):
                target = folder / split / ("bright" if labels[number] else "dark") / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.save(target)


@pytest.mark.parametrize(("tuning", "kind"), [("head", "parquet"), ("full", "npz"), ("head", "imagefolder")])
def test_image_classification(tmp_path: Path, capsys: pytest.CaptureFixture[str], tuning: str, kind: str) -> None:
    model, data, output = tmp_path / "model", tmp_path / "data", tmp_path / "run"
    # A bare backbone, which gets a new head.
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    ViTModel(config).save_pretrained(model)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (model / "preprocessor_config.json").write_text(json.dumps(processor))
    write_pictures(data, kind)
    load_example("02_image_classification").main(
        [f"--model={model}", f"--dataset={data}", f"--output_dir={output}", f"--tuning={tuning}", *TRAINING]
    )
    printed = capsys.readouterr().out
    assert "48 pictures of 2 classes" in printed
    # A frozen backbone leaves the 2 × 32 weights and 2 biases of the head.
    assert ("66 trainable parameters" in printed) == (tuning == "head")
    assert "on 16 rows" in printed and "share of steps" in printed
    assert (output / "model.safetensors").exists() and (output / "preprocessor_config.json").exists()
    assert json.loads((output / "eval_results.json").read_text())["eval_accuracy"] >= 0.7
    check_history(output)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Dropout())
    load_example("02_image_classification").freeze_batch_norm(model)
    model.train()
    model(torch.randn(4, 1, 8, 8) + 3)
    assert torch.equal(model[1].running_mean, torch.zeros(2))
    assert model[2].training


def test_causal_lm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output, text = tmp_path / "model", tmp_path / "run", tmp_path / "text.txt"
    size = save_tokenizer(model)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(model)
    text.write_text("the film was good and we liked it\n" * 200)
    load_example("03_causal_lm_lora").main(
        [f"--model={model}", f"--dataset={text}", f"--output_dir={output}", "--block_size=16", *TRAINING]
    )
    printed = capsys.readouterr().out
    match = re.search(r"perplexity ([\d.]+) before, ([\d.]+) after, on 10 blocks of 16 tokens", printed)
    assert match is not None
    assert float(match[2]) < 0.9 * float(match[1])
    assert "share of steps" in printed
    assert (output / "adapter_model.safetensors").exists()
    check_history(output)


def save_llama(folder: Path) -> None:
    size = save_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_rows(file: Path, columns: dict[str, list[str] | list[float]]) -> None:
    Dataset.from_dict(columns).to_json(file)


def test_seq2seq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output, data = tmp_path / "model", tmp_path / "run", tmp_path / "pairs.jsonl"
    size = save_tokenizer(model)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=size, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2, **sizes)
    T5ForConditionalGeneration(config).save_pretrained(model)
    texts = [WORDS[number % len(WORDS)] for number in range(80)]
    write_rows(data, {"source": texts, "target": texts})
    load_example("05_seq2seq").main(
        [
            *(f"--model={model}", f"--dataset={data}", f"--output_dir={output}", "--predict_with_generate"),
            *("--eval_strategy=steps", "--eval_steps=20", "--max_target_length=8", *TRAINING),
        ]
    )
    printed = capsys.readouterr().out
    assert re.search(r"loss [\d.]+, exact match [\d.]+ on 8 rows", printed)
    assert "share of steps" in printed
    assert (output / "adapter_model.safetensors").exists()
    check_history(output)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    model, output, data = tmp_path / "model", tmp_path / "run", tmp_path / "texts.jsonl"
    save_llama(model)
    write_rows(data, {"text": ["the film was good and we liked it"] * 80})
    load_example("06_sft").main([f"--model={model}", f"--dataset={data}", f"--output_dir={output}", *TRAINING])
    match = re.search(r"loss per token ([\d.]+) before, ([\d.]+) after, on 8 rows", capsys.readouterr().out)
    assert match is not None and float(match[2]) < 0.9 * float(match[1])
    assert (output / "adapter_model.safetensors").exists()
    check_history(output)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_preferences(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    pytest.importorskip("trl")
    model, output, data = tmp_path / "model", tmp_path / "run", tmp_path / "pairs.jsonl"
    save_llama(model)
    prompts = [f"we {WORDS[number % 5]}" for number in range(80)]
    write_rows(data, {"prompt": prompts, "chosen": [" it was good"] * 80, "rejected": [" it was bad"] * 80})
    load_example("07_preferences").main(
        [method, f"--model={model}", f"--dataset={data}", f"--output_dir={output}", *TRAINING]
    )
    printed = capsys.readouterr().out
    match = re.search(r"loss [\d.]+, accuracy of the rewards ([\d.]+) on 8 pairs", printed)
    assert match is not None and float(match[1]) > 0.9
    assert (output / "adapter_model.safetensors").exists()
    check_history(output)


def test_preferences_need_a_method() -> None:
    pytest.importorskip("trl")
    with pytest.raises(SystemExit, match="must be one of dpo, reward, but is 'ppo'"):
        load_example("07_preferences").main(["ppo"])


@pytest.mark.parametrize("score", ["score", "none"])
def test_sentence_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str], score: str) -> None:
    pytest.importorskip("sentence_transformers")
    model, output, data = tmp_path / "model", tmp_path / "run", tmp_path / "pairs.jsonl"
    size = save_tokenizer(model)
    BertModel(
        BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(model)
    first, second = [WORDS[i % 12] for i in range(80)], [WORDS[(i * i) % 12] for i in range(80)]
    scores = [float(a == b) for a, b in zip(first, second, strict=True)]
    write_rows(data, {"sentence1": first, "sentence2": second, "score": scores})
    load_example("08_sentence_embeddings").main(
        [f"--model={model}", f"--dataset={data}", f"--output_dir={output}", f"--score_column={score}", *TRAINING]
    )
    printed = capsys.readouterr().out
    assert re.search(r"eval_loss [\d.]+ before, [\d.]+ after, on 8 pairs", printed)
    assert ("eval_spearman_cosine" in printed) == (score == "score")
    assert (output / "modules.json").exists()
    check_history(output)
