"""The examples, run on tiny models and data made here."""

from __future__ import annotations

import importlib.util
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import evaluate
import hub
import huggingface_hub
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    ViTConfig,
    ViTModel,
    set_seed,
)

from hf_iomt.optim import families

ROOT = Path(__file__).parent.parent
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


def test_text_classification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, output = tmp_path / "model", tmp_path / "data", tmp_path / "run"
    size = save_tokenizer(model)
    BertModel(
        BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(model)
    write_reviews(data)
    # A module of the form that the Hub has, and a name that scikit-learn must stand in for.
    metric = tmp_path / "accuracy"
    metric.mkdir()
    (metric / "accuracy.py").write_text(LOCAL_METRIC)
    load_example("01_text_classification_lora").main(
        [
            f"--model={model}",
            f"--dataset={data}",
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


def test_deterministic_functions(tmp_path: Path) -> None:
    # As a process of its own, because that is how it is used.
    picture = tmp_path / "functions.png"
    finished = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / "04_deterministic_functions.py")),
            *("--output", str(picture), "--steps", "40", "--seeds", "1"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    for name in ("Rosenbrock", "Himmelblau", "Griewank", "Ackley", "RMSprop, best lr", "interleaved, median"):
        assert name in finished.stdout
    with PillowImage.open(picture) as opened:
        assert np.asarray(opened.convert("L")).std() > 1


def test_push_to_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, output = tmp_path / "model", tmp_path / "data", tmp_path / "run"
    size = save_tokenizer(model)
    BertModel(
        BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(model)
    write_reviews(data)
    with hub.serve() as served:
        hub.connect(served, monkeypatch, tmp_path / "home")
        load_example("09_push_to_hub").main(
            [
                *(f"--model={model}", "--base_model=org/base", f"--dataset={data}", "--dataset_name=org/data"),
                *("--text_columns", "sentence1", "sentence2"),
                *(f"--output_dir={output}", "--hub_model_id=tester/shared", "--hub_token=hf_x", *TRAINING),
            ]
        )
        files = served.files("tester/shared")
    printed = capsys.readouterr().out
    assert re.search(r"loss [\d.]+, accuracy [\d.]+, f1 [\d.]+ on 32 rows", printed)
    assert "Pushed to tester/shared" in printed
    assert files["adapter_model.safetensors"] == (output / "adapter_model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert "base_model: org/base" in card and "type: org/data" in card and str(tmp_path) not in card
    assert {"iomt_history.json", "iomt_run.json", "iomt_run.png", "tokenizer.json"} <= set(files)
    check_history(output)


def test_unlabelled_rows_are_refused() -> None:
    import splits

    train, evaluation = Dataset.from_dict({"label": [0, 1]}), Dataset.from_dict({"label": [-1, -1]})
    with pytest.raises(ValueError, match="Choose a labelled split with `--eval_split`"):
        splits.encode_labels(train, evaluation, "label")


def test_words_become_numbers() -> None:
    import splits

    train, evaluation = Dataset.from_dict({"kind": ["no", "yes", "no"]}), Dataset.from_dict({"kind": ["yes"]})
    train, evaluation, names = splits.encode_labels(train, evaluation, "kind")
    assert (train["label"][:], evaluation["label"][:], names) == ([0, 1, 0], [1], ["no", "yes"])


def test_the_end_of_a_text_is_held_out(tmp_path: Path) -> None:
    import splits

    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {number}\n" for number in range(20)))
    train, evaluation = splits.load_splits(splits.DataArguments(str(file), max_train_samples=2), shuffle=False)
    assert train["text"][:] == ["line 0\n", "line 1\n"]
    assert evaluation["text"][:] == ["line 18\n", "line 19\n"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "{data}", "eval_split": "dev"}, "`--eval_split` can be train, test"),
        ({"dataset": "{data}/test.parquet", "eval_split": "test"}, "`--eval_split` can be train"),
        ({"dataset": "{data}/notes.md"}, "Files may end in .txt"),
    ],
)
def test_data_that_is_not_there(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    import splits

    write_reviews(tmp_path / "data")
    (tmp_path / "data" / "notes.md").touch()
    filled = {name: value.format(data=tmp_path / "data") for name, value in arguments.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        splits.load_splits(splits.DataArguments(**filled))


def test_a_metric_that_cannot_be_had() -> None:
    import metrics

    with pytest.raises(ValueError, match="'bleu' is neither a local path nor to be had from the Hub now"):
        metrics.classification_metrics(["bleu"], 2)


def test_columns_are_asked_for_where_none_has_a_usual_name() -> None:
    import splits

    assert splits.find_text_columns(None, ["idx", "question2", "question1"]) == ("question1", "question2")
    with pytest.raises(ValueError, match="Say which of headline, body to read, with `--text_columns`"):
        splits.find_text_columns(None, ["headline", "body"])
    with pytest.raises(ValueError, match="must be one or two of headline, body"):
        splits.find_text_columns(["title"], ["headline", "body"])


@pytest.fixture
def reviews(tmp_path: Path) -> list[str]:
    """The flags of a tiny model and its data."""
    size = save_tokenizer(tmp_path / "model")
    BertModel(
        BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path / "model")
    write_reviews(tmp_path / "data")
    return [f"--model={tmp_path / 'model'}", f"--dataset={tmp_path / 'data'}"]


def test_resume(tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*reviews, *(item for item in TRAINING if item != "--save_strategy=no"), "--save_steps=10"]
    command = [*arguments, f"--output_dir={tmp_path / 'killed'}", "--kill_at_step=27"]
    example = load_example("10_resume")
    # A fork starts quickly.
    process = multiprocessing.get_context("fork").Process(target=example.main, args=(command,))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    folders = {path.name for path in (tmp_path / "killed").glob("checkpoint-*")}
    assert folders == {"checkpoint-10", "checkpoint-20"}
    example.main(command)
    assert "Going on in" in capsys.readouterr().out
    example.main([*arguments, f"--output_dir={tmp_path / 'whole'}"])
    check_history(tmp_path / "killed")
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


# Three processes import all of transformers; test_distributed.py launches in the same way.
@pytest.mark.slow
def test_several_processes(tmp_path: Path, reviews: list[str]) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        ["bash", str(EXAMPLES / "11_distributed.sh"), *reviews, *TRAINING, f"--output_dir={output}"],
        env={
            **os.environ,
            # Where `torchrun` is.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            **{"PROCESSES": "2", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "share of steps" in done.stdout
    assert json.loads((output / "eval_results.json").read_text())["eval_accuracy"] >= 0.5
    check_history(output)


def test_the_launcher_can_be_read_and_finds_its_script() -> None:
    script = EXAMPLES / "11_distributed.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert (EXAMPLES / re.findall(r"/(\w+\.py)\"", script.read_text())[0]).is_file()
    assert os.access(script, os.X_OK)


def test_own_optimizer(tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    known = dict(families._FAMILIES)
    arguments = [item for item in TRAINING if not item.startswith("--iomt_candidates")]
    try:
        load_example("12_own_optimizer").main(
            [*reviews, *arguments, f"--output_dir={tmp_path / 'run'}", "--iomt_selection=cyclical"]
        )
    finally:
        families._FAMILIES.clear()
        families._FAMILIES.update(known)
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "lion:lr=0.0001" in printed and "adamw:lr=0.001" in printed
    check_history(tmp_path / "run")


def test_the_optimizer_of_the_example_is_lion() -> None:
    first, second = torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.tensor([1.0, -2.0])
    optimizer = load_example("12_own_optimizer").Lion([first], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    mean = torch.zeros(2)
    for step in range(5):
        first.grad = torch.tensor([math.sin(step), -math.cos(step)])
        optimizer.step()
        second = second - 0.1 * (torch.sign(0.9 * mean + 0.1 * first.grad) + 0.5 * second)
        mean = 0.99 * mean + 0.01 * first.grad
    torch.testing.assert_close(first.detach(), second)


def test_compare_with_adamw(
    tmp_path: Path, reviews: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example, used, output = load_example("13_compare_with_adamw"), [], tmp_path / "run"

    class Recorded(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            result = super().train(*args, **kwargs)
            group = self.optimizer.param_groups[0]
            used.append((type(self.optimizer.optimizer), group["initial_lr"], self.args.seed))
            return result

    monkeypatch.setattr(example, "Trainer", Recorded)
    example.main(
        [*reviews, *TRAINING, f"--output_dir={output}", "--max_steps=12", "--rates", "5e-5", "0.03", "--seeds=2"]
    )
    table = (output / "comparison.md").read_text()
    assert table in capsys.readouterr().out
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == 3 and rows[1][0] == "| AdamW 5e-05, Trainer's default"
    assert [row[3:5] for row in rows] == [["2", "24"], ["1", "12"], ["1", "12"]]
    outcomes = json.loads((output / "comparison.json").read_text())
    assert len(outcomes) == 6
    assert used == [(torch.optim.AdamW, rate, seed) for seed in (42, 43) for rate in (5e-5, 0.03)]


def test_the_validation_data_chooses_and_the_test_data_is_shown() -> None:
    example = load_example("13_compare_with_adamw")
    outcomes = [
        example.Outcome("AdamW 0.001", 0, validation=0.9, test=0.6, steps=100, seconds=2.0),
        example.Outcome("AdamW 0.01", 0, validation=0.8, test=0.7, steps=100, seconds=3.0),
        example.Outcome("IOMT", 0, validation=0.7, test=0.65, steps=90, seconds=4.0),
    ]
    assert example.make_table(outcomes, ["AdamW 0.001", "AdamW 0.01"]).splitlines()[2:] == [
        "| AdamW 0.001, the best of 2 on the validation data | 90.0 | 60.0 | 2 | 200 | 5 |",
        "| IOMT | 70.0 | 65.0 | 1 | 90 | 4 |",
    ]


def test_every_script_is_in_the_readme() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for script in EXAMPLES.glob("[0-9]*"):
        assert f"{'bash' if script.suffix == '.sh' else 'python'} examples/{script.name} " in text
