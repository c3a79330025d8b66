"""Model cards: from the files of a run alone, and through the trainers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hub
import peft
import pytest
import tiny
from huggingface_hub import ModelCard, metadata_load
from PIL import Image
from transformers import Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.cli import main
from hf_iomt.model_card import CardDetails, find_task, hub_id, write_model_card

pytestmark = pytest.mark.usefixtures("small_heap")


@pytest.fixture(autouse=True)
def quick_figure(request, monkeypatch):
    """Drawing takes seconds; the tests that need the real figure are marked so."""
    if "real_figure" not in request.fixturenames:
        monkeypatch.setattr("hf_iomt.model_card.draw_run", lambda _, path: Image.new("RGB", (8, 8)).save(path))


@pytest.fixture
def real_figure():
    """For tests that draw the figure."""


CARDS = Path(__file__).parents[1] / "model_cards"
PAPER = "https://openreview.net/forum?id=uApm5otXfH"
TITLE = "## How the optimizer was chosen"


def cycle(number, first, last, candidate, phase="surrogate", score=0.1, rolled_back=False):
    return {
        "cycle": number,
        "first_step": first,
        "last_step": last,
        "candidate": candidate,
        "family": candidate.partition(":")[0],
        "learning_rate": float(candidate.partition("lr=")[2]),
        "phase": phase,
        "score": score,
        "predicted_mean": None,
        "predicted_std": None,
        "gain": None,
        "rolled_back": rolled_back,
        "seconds": 0.1,
    }


HISTORY = [
    cycle(0, 1, 4, "adamw:lr=0.001", "race", 0.2),
    cycle(1, 5, 8, "sgdm:lr=0.1", "race", -1.0, True),
    cycle(2, 9, 12, "adam:lr=0.01", "race", 0.1),
    cycle(3, 13, 37, "adamw:lr=0.001", "initial", 0.3),
    cycle(4, 38, 62, "adam:lr=0.01", score=-1.0, rolled_back=True),
    cycle(5, 63, 80, "adamw:lr=0.001", score=None),
]
RECORD = {
    "format": 1,
    "versions": {"python": "3.11.7", "hf-iomt": "0.1.0", "torch": "2.13.0"},
    "model": "/somewhere/private/minilm",
    "peft": True,
    "trainer": "IOMTTrainer",
    "candidates": ["adamw:lr=0.001", "adam:lr=0.01", "sgdm:lr=0.1"],
    "settings": {
        "iomt_preset": "default",
        "iomt_candidates": "adamw:lr=1e-3; adam:lr=1e-2; sgdm:lr=0.1",
        "iomt_switch_steps": 25,
        "iomt_beta": 0.7,
        "iomt_distribution_metrics": ["log_me", "leep"],
    },
    "arguments": {"max_steps": 80, "weight_decay": 0.01, "push_to_hub": True, "hub_model_id": "somebody/x"},
    "seconds": {"training": 40.0, "selection": 2.0, "assessment": 1.0, "total": 43.0},
    "steps": 80,
}
LOGS = [
    {"loss": 0.9, "step": 40, "epoch": 0.5},
    {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_runtime": 1.0, "step": 40},
    {"loss": 0.5, "step": 80, "epoch": 1.0},
    {"eval_loss": 0.61234567, "eval_accuracy": 0.75, "eval_runtime": 1.0, "eval_samples_per_second": 9.0, "step": 80},
]
TRANSFERABILITY = {
    "weight": 0.452,
    "performance": 0.562,
    "performance_metric": "accuracy",
    "log_me": -0.653,
    "task": "classification",
    "split": "train",
    "samples": 192,
    "seconds": 3.6,
    "left_out": {"leep": "nothing is in /somewhere/private/minilm any more"},
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "/somewhere/private/minilm",
    "auto_mapping": None,
}


def write_run(folder, history=HISTORY, adapter=ADAPTER, **others):
    files = {"iomt_run": RECORD, "iomt_transferability": TRANSFERABILITY, "trainer_state": {"log_history": LOGS}}
    files |= {"iomt_history": history, "adapter_config": adapter, **others}
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def read(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def part(text, heading):
    """The text under a heading, up to the next one."""
    return text.partition(f"\n### {heading}\n")[2].partition("\n### ")[0].strip()


def table(text):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return rows[2:]


def assert_valid(folder):
    """Metadata that the Hub takes, and a text without holes, paths or what was left empty."""
    text = read(folder)
    metadata = metadata_load(folder / "README.md")
    card = ModelCard.load(folder / "README.md")
    assert "iomt" in metadata["tags"] and metadata["library_name"]
    for entry in metadata.get("model-index") or []:
        for result in entry["results"]:
            assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            assert all(isinstance(metric["value"], float) and metric["type"] for metric in result["metrics"])
    base = card.data.base_model
    assert base is None or isinstance(base, list) or hub_id(base) == base
    assert text.count(TITLE) == text.count("<!-- hf-iomt: end mark -->") == 1
    section = text.partition(TITLE)[2]
    assert "\n\n\n" not in section
    assert not re.search(r"None|\$\w", re.sub(r"```.*?```", "", section, flags=re.DOTALL))
    assert not re.search(r"(?<![\w:/.])/(?:home|tmp|work|root|usr|somewhere|private|var|mnt|data)\b", text)
    for line in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert line.startswith("http") or (folder / line).exists()
    return text, metadata


def test_a_card_from_the_files_alone(tmp_path):
    folder = write_run(tmp_path / "paraphrases")
    assert write_model_card(folder) == folder / "README.md"
    text, metadata = assert_valid(folder)
    assert (
        "# paraphrases\n\nA LoRA adapter of rank 8 for `minilm`, from a local folder, for text classification." in text
    )
    rows = table(part(text, "Candidates"))
    assert [row[:4] for row in rows] == [
        ["`adamw:lr=0.001`", "47", "58.8%", "2"],
        ["`adam:lr=0.01`", "29", "36.2%", "1"],
        ["`sgdm:lr=0.1`", "4", "5.0%", "0"],
    ]
    assert [row[4] for row in rows] == ["0.300", "-1.000", ""]
    assert table(part(text, "Rolled back")) == [
        ["`adam:lr=0.01`", "1", "25", ""],
        ["`sgdm:lr=0.1`", "0", "0", "out"],
    ]
    told = part(text, "Transferability")
    assert told.startswith("ω_t = 0.452 (accuracy 0.562, LogME -0.653; 192 samples") and "nothing is in … any" in told
    assert table(part(text, "Evaluation")) == [["Accuracy", "0.75"], ["Loss", "0.6123"]]
    assert table(part(text, "Settings")) == [
        ["`iomt_candidates`", "`adamw:lr=1e-3; adam:lr=1e-2; sgdm:lr=0.1`", "`auto`"],
        ["`iomt_beta`", "`0.7`", "`0.5`"],
    ]
    assert part(text, "Versions") == "python 3.11.7, hf-iomt 0.1.0, torch 2.13.0"
    assert PAPER in part(text, "Citation")
    assert metadata["library_name"] == "peft" and metadata["pipeline_tag"] == "text-classification"
    assert metadata["metrics"] == ["accuracy"] and "base_model" not in metadata
    assert metadata["model-index"] == [
        {
            "name": "paraphrases",
            "results": [
                {
                    "task": {"type": "text-classification"},
                    "dataset": {"type": "unknown", "name": "unknown"},
                    "metrics": [
                        {"type": "accuracy", "value": 0.75, "name": "Accuracy"},
                        {"type": "loss", "value": 0.612346, "name": "Loss"},
                    ],
                }
            ],
        }
    ]


def test_the_figure_is_in_the_folder_and_in_the_card(tmp_path, real_figure):
    folder = write_run(tmp_path / "run")
    write_model_card(folder)
    with Image.open(folder / "iomt_run.png") as picture:
        assert picture.width > 300
    assert "(iomt_run.png)" in read(folder)
    assert [item.name for item in folder.glob("_*")] == []


def test_without_matplotlib_there_is_no_figure(tmp_path, monkeypatch, capsys):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr("hf_iomt.model_card.draw_run", missing)
    folder = write_run(tmp_path / "run")
    assert main(["card", str(folder)]) == 0
    assert "pip install 'hf-iomt[plots]'" in capsys.readouterr().out
    text, _ = assert_valid(folder)
    assert "iomt_run.png" not in text


def test_how_to_reproduce_makes_the_same_arguments(tmp_path):
    folder = write_run(tmp_path / "run")
    write_model_card(folder)
    code = part(read(folder), "How to reproduce").partition("```python\n")[2].partition("trainer =")[0]
    made = {}
    exec(code.replace('output_dir="run"', f"output_dir={str(tmp_path / 'other')!r}, use_cpu=True"), made)
    args = made["args"]
    assert (args.max_steps, args.weight_decay, args.seed) == (80, 0.01, 42)
    assert (args.iomt_candidates, args.iomt_beta) == ("adamw:lr=1e-3; adam:lr=1e-2; sgdm:lr=0.1", 0.7)
    assert not args.push_to_hub and "somebody" not in code


def test_what_the_files_do_not_tell_can_be_told(tmp_path):
    folder = write_run(tmp_path / "run")
    details = CardDetails("my name", "org/minilm", "nyu-mll/glue", license="apache-2.0", tags=["mine"])
    write_model_card(folder, details)
    text, metadata = assert_valid(folder)
    assert "# my name\n" in text
    assert (
        "for [org/minilm](https://huggingface.co/org/minilm) for text classification, trained on [nyu-mll/glue]"
        in text
    )
    assert metadata["base_model"] == "org/minilm" and metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == "nyu-mll/glue"
    assert metadata["tags"] == ["base_model:adapter:org/minilm", "mine", "iomt"]
    assert metadata["model-index"][0]["results"][0]["dataset"] == {"type": "nyu-mll/glue", "name": "nyu-mll/glue"}


def test_renewing_keeps_what_others_have_written(tmp_path):
    folder = write_run(tmp_path / "run")
    write_model_card(folder)
    first = read(folder)
    write_model_card(folder)
    assert read(folder) == first
    edited = (
        first.replace("# run\n", "# Mine\n\nMy words.\n").replace("- iomt", "- iomt\n- kept")
        + "\n## Below\n\nMore words.\n"
    )
    (folder / "README.md").write_text(edited, encoding="utf-8")
    write_run(folder, trainer_state={"log_history": [{"eval_accuracy": 0.875, "step": 80}]})
    write_model_card(folder)
    text, metadata = assert_valid(folder)
    assert "# Mine\n\nMy words.\n" in text and text.endswith("\n## Below\n\nMore words.\n")
    assert "kept" in metadata["tags"]
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == 0.875 and table(part(text, "Evaluation")) == [["Accuracy", "0.875"]]


def test_results_of_others_keep_their_task_and_data(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "README.md").write_text(
        "---\nmodel-index:\n- name: theirs\n  results:\n  - task:\n      type: similarity\n    dataset:\n"
        "      type: sts\n      name: STS\n    metrics:\n    - type: pearson\n      value: 0.5\n"
        "    - type: accuracy\n      value: 0.1\n---\n\n# Theirs\n",
        encoding="utf-8",
    )
    write_model_card(folder)
    _, metadata = assert_valid(folder)
    assert metadata["model-index"][0]["name"] == "theirs"
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["name"] == "STS" and result["task"]["type"] == "similarity"
    assert {item["type"]: item["value"] for item in result["metrics"]} == {"pearson": 0.5, "accuracy": 0.75}


def test_another_data_set_takes_the_place_of_the_one_before(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("org/first", "org/second"):
        write_model_card(folder, CardDetails(dataset=name))
        _, metadata = assert_valid(folder)
        assert [result["dataset"]["type"] for result in metadata["model-index"][0]["results"]] == [name]
        assert metadata["datasets"] == name


def test_empty_headings_are_replaced(tmp_path):
    folder = write_run(tmp_path / "run")
    tiny.lora().create_or_update_model_card(str(folder))
    assert read(folder).count("[More Information Needed]") > 20
    write_model_card(folder)
    text, metadata = assert_valid(folder)
    assert "More Information Needed" not in text and "# run\n" in text
    # What PEFT knows stays.
    assert f"### Framework versions\n\n- PEFT {peft.__version__}" in text
    assert "lora" in metadata["tags"] and metadata["library_name"] == "peft"


def test_only_the_history_is_needed(tmp_path):
    folder = write_run(tmp_path / "run", adapter=None, iomt_run=None, iomt_transferability=None, trainer_state=None)
    write_model_card(folder)
    text, metadata = assert_valid(folder)
    assert "# run\n\nA model.\n" in text
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert headings == ["Candidates", "Rolled back", "Citation"]
    assert metadata == {"library_name": "transformers", "tags": ["iomt"]}


def test_a_checkpoint_has_a_card_too(tmp_path):
    (tmp_path / "run").mkdir()
    write_model_card(write_run(tmp_path / "run" / "checkpoint-80"))
    assert_valid(tmp_path / "run" / "checkpoint-80")


def test_written_results_come_before_logged_ones(tmp_path):
    folder = write_run(tmp_path / "run", eval_results={"eval_f1": 0.5, "eval_samples": 9, "eval_loss": float("nan")})
    write_model_card(folder)
    assert table(part(read(folder), "Evaluation")) == [["F1", "0.5"]]


def test_the_hub_takes_the_card(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    write_model_card(folder)
    with hub.serve() as served:
        hub.connect(served, monkeypatch, tmp_path / "home")
        ModelCard.load(folder / "README.md").validate()
        assert ("POST", "/api/validate-yaml") in served.requests


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (["BertForSequenceClassification", "SEQ_CLS"], "text-classification"),
        (["ViTForImageClassification"], "image-classification"),
        (["LlamaForCausalLM", "GPT2LMHeadModel", "CAUSAL_LM"], "text-generation"),
        (["T5ForConditionalGeneration", "SEQ_2_SEQ_LM"], "text2text-generation"),
        (["BertModel", "Linear"], None),
    ],
)
def test_tasks(names, task):
    assert {find_task(name) for name in names} == {task}


@pytest.mark.parametrize("name", ["/a/b", "~/models/x", "./x", "a/b/c", "C:\\models", "", None, "x" * 200])
def test_what_is_no_id_on_the_hub(name):
    assert hub_id(name) is None


def test_a_folder_is_no_id_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert hub_id("runs/base") is None and hub_id("org/model") == "org/model"


def test_a_figure_that_cannot_be_drawn_is_left_out(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ValueError("no font")

    monkeypatch.setattr("hf_iomt.model_card.draw_run", fail)
    write_model_card(write_run(tmp_path / "run"))
    assert "The figure of the card could not be drawn." in caplog.text and "no font" in caplog.text
    assert "iomt_run.png" not in read(tmp_path / "run")


# The command


def test_the_command(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    options = ["--name", "n", "--base-model", "org/base", "--dataset", "org/data", "--license", "mit"]
    assert main(["card", str(folder), *options]) == 0
    assert capsys.readouterr().out == f"{folder / 'README.md'}\n"
    _, metadata = assert_valid(folder)
    assert (metadata["base_model"], metadata["datasets"], metadata["license"]) == ("org/base", "org/data", "mit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{run}/nowhere"], "has no iomt_history.json"),
        (["{run}", "--base-model", "/a/folder"], "`base_model` must be an id on the Hub, such as 'google-bert"),
        (["{run}", "--dataset", "/a/folder"], "`dataset` must be an id on the Hub"),
        (["{run}/broken"], "has metadata that cannot be read"),
        (["{run}/endless"], "has no end mark"),
    ],
)
def test_what_the_command_cannot_use(options, message, tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    broken, endless = write_run(folder / "broken"), write_run(folder / "endless")
    (broken / "README.md").write_text("---\ntags: [\n---\n", encoding="utf-8")
    (endless / "README.md").write_text("<!-- hf-iomt: what stands -->\nmy words\n", encoding="utf-8")
    assert main(["card", *(option.format(run=folder) for option in options)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("hf-iomt card: error: ") and message in printed.err
    assert read(endless) == "<!-- hf-iomt: what stands -->\nmy words\n"


# The trainers


def train(path, model, cls=IOMTTrainer, **settings):
    given = {
        "max_steps": 8,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "iomt_candidates": "adamw:lr=1e-2; sgd:lr=0.1",
        "iomt_switch_steps": 2,
        "iomt_race_steps": 0,
        "iomt_transferability": 0.5,
        **settings,
    }
    args = IOMTTrainingArguments(**tiny.quiet(path, **given))
    trainer = cls(model, args, train_dataset=tiny.Texts(), eval_dataset=tiny.Texts(seed=1))
    trainer.train()
    return trainer


def test_an_adapter_without_a_card_before(tmp_path):
    trainer = train(tmp_path / "run", tiny.lora())
    trainer.create_model_card(
        tags="mine", finetuned_from="org/base", dataset_tags="org/data", license="mit", model_name="called"
    )
    text, metadata = assert_valid(tmp_path / "run")
    assert metadata["library_name"] == "peft" and metadata["base_model"] == "org/base"
    assert {"mine", "iomt", "lora", "base_model:adapter:org/base"} <= set(metadata["tags"])
    assert metadata["license"] == "mit" and "# called\n" in text
    assert f"- PEFT {peft.__version__}" in text
    assert metadata["model-index"][0]["results"][0]["task"]["type"] == "text-classification"
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "org/data"
    loss = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert [(item["type"], item["value"]) for item in metrics] == [("loss", pytest.approx(loss, rel=1e-5))]
    assert table(part(text, "Candidates"))[0][0] in ("`adamw:lr=0.01`", "`sgd:lr=0.1`")
    # What was not used is not said to have been.
    assert "5e-05" not in text and "adamw_torch" not in text
    assert "- learning_rate: chosen while training" in text and "- optimizer: chosen while training" in text


def test_the_rest_is_the_card_of_trainer(tmp_path):
    trainer = train(tmp_path / "run", tiny.bert())
    trainer.create_model_card()
    text, metadata = assert_valid(tmp_path / "run")
    assert metadata["library_name"] == "transformers" and "generated_from_trainer" in metadata["tags"]
    plain = Trainer(
        tiny.bert(), TrainingArguments(output_dir=str(tmp_path / "run"), max_steps=8), eval_dataset=tiny.Texts()
    )
    plain.state = trainer.state
    plain.args = trainer.args
    plain.create_model_card()
    rest = text.partition("\n---\n")[2].partition("<!-- hf-iomt")[0].splitlines()
    theirs = read(tmp_path / "run").partition("\n---\n")[2].splitlines()
    differing = [line for line in theirs if line and line not in rest]
    assert [line.partition(":")[0] for line in differing if line.startswith("- ")] == [
        "- learning_rate",
        "- optimizer",
    ]
    assert len(differing) == 3 and differing[0].startswith("This model is a fine-tuned version of [](")


def test_what_trainer_knows_of_the_data_is_kept(tmp_path):
    class Accurate(IOMTTrainer):
        def log(self, logs, *args, **kwargs):
            super().log({**logs, **({"eval_accuracy": 0.5} if "eval_loss" in logs else {})}, *args, **kwargs)

    trainer = train(tmp_path / "run", tiny.bert(), Accurate)
    trainer.create_model_card(
        dataset_tags=["glue", "other"],
        dataset=["GLUE MRPC", "Other"],
        dataset_args=["mrpc", None],
        tasks="text-classification",
        finetuned_from="a model of mine",
    )
    _, metadata = assert_valid(tmp_path / "run")
    results = metadata["model-index"][0]["results"]
    assert [result["dataset"].get("args") for result in results] == ["mrpc", None]
    assert [result["dataset"]["name"] for result in results] == ["GLUE MRPC", "Other"]
    assert [result["metrics"][0]["value"] for result in results] == [0.5, 0.5]
    assert metadata["datasets"] == ["glue", "other"] and "base_model" not in metadata


def test_a_model_from_a_folder_was_not_trained_from_scratch(tmp_path):
    tiny.bert().save_pretrained(tmp_path / "pretrained")
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(tmp_path / "pretrained")
    train(tmp_path / "run", model).create_model_card()
    text, metadata = assert_valid(tmp_path / "run")
    assert "trained from scratch" not in text and "base_model" not in metadata
    assert "This model is a fine-tuned version of `pretrained`, from a local folder, on an unknown dataset." in text


def test_an_evaluation_after_training_is_told(tmp_path):
    trainer = train(tmp_path / "run", tiny.lora())
    trainer.create_model_card()
    trainer.evaluate(tiny.Texts(count=8, seed=5))
    trainer.create_model_card()
    _, metadata = assert_valid(tmp_path / "run")
    loss = trainer.state.log_history[-1]["eval_loss"]
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(loss, rel=1e-5)
    # The folder alone tells the same.
    before = read(tmp_path / "run")
    write_model_card(tmp_path / "run")
    assert read(tmp_path / "run") == before


def test_before_training_the_card_is_that_of_trainer(tmp_path):
    args = IOMTTrainingArguments(**tiny.quiet(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    IOMTTrainer(tiny.bert(), args, train_dataset=tiny.Texts()).create_model_card()
    assert TITLE not in read(tmp_path / "run")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_card_of_trl_is_kept(tmp_path):
    pytest.importorskip("trl")
    from test_trl import make_sft

    trainer = make_sft(tmp_path / "run", max_steps=4, iomt_race_steps=0)
    trainer.train()
    trainer.create_model_card(model_name="stories", dataset_name="org/stories", tags=["mine"])
    text, metadata = assert_valid(tmp_path / "run")
    assert {"sft", "trl", "mine", "iomt"} <= set(metadata["tags"]) and metadata["datasets"] == "org/stories"
    assert "This model was trained with SFT." in text and "vonwerra2020trl" in text
    assert "huggingface.co/None" not in text
    assert "from hf_iomt.trl import IOMTSFTTrainer, IOMTSFTConfig" in text


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_card_of_sentence_transformers_is_kept_in_every_push(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    import test_sentence_transformers as encoders
    from sentence_transformers.sentence_transformer import losses
    from tiny_language import word_tokenizer
    from transformers import BertConfig, BertModel

    tokenizer = word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    model = encoders.encoder(tmp_path / "bert")
    with hub.serve() as served:
        hub.connect(served, monkeypatch, tmp_path / "home")
        given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "push_to_hub": True, "hub_token": "hf_x"}
        given |= {"hub_model_id": "tester/encoder", "hub_always_push": True, "iomt_race_steps": 0}
        given |= {"iomt_candidates": encoders.CANDIDATES, "iomt_transferability": "0.5", "iomt_switch_steps": 2}
        args = encoders.IOMTSentenceTransformerTrainingArguments(**tiny.quiet(tmp_path / "run", **given))
        trainer = encoders.IOMTSentenceTransformerTrainer(
            model, args, train_dataset=encoders.scored(), loss=losses.CoSENTLoss(model)
        )
        trainer.train()
        for _, files in served.commits["tester/encoder"]:
            assert TITLE in files["README.md"].decode() and "iomt_state.pt" not in files
        trainer.push_to_hub()
    text, metadata = assert_valid(tmp_path / "run")
    assert metadata["library_name"] == "sentence-transformers" and "sentence-transformers" in metadata["tags"]
    assert "CoSENTLoss" in text and TITLE in text


# The cards that are shown


@pytest.mark.parametrize(
    "folder", sorted(item for item in CARDS.iterdir() if item.is_dir()), ids=lambda item: item.name
)
def test_shown_cards(folder):
    text, metadata = assert_valid(folder)
    assert metadata["model-index"][0]["results"] and table(part(text, "Candidates"))
    assert (folder / "iomt_run.png").stat().st_size < 200_000
    assert folder.name in (CARDS / "README.md").read_text(encoding="utf-8")
