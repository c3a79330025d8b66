"""Model cards from the files of a run alone, and the command that writes them."""

from __future__ import annotations

import re

import hub
import peft
import pytest
import tiny
from card_runs import ADAPTER, PAPER, RECORD, write_run
from cards import assert_valid, part, read, table
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image

from hf_iomt.card_evaluation import merge_results
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


def test_a_relative_folder_is_no_id_on_the_hub_where_it_is_not(tmp_path):
    record = {**RECORD, "model": "models/minilm", "model_is_folder": True}
    adapter = {**ADAPTER, "base_model_name_or_path": "models/minilm"}
    folder = write_run(tmp_path / "run", iomt_run=record, adapter=adapter)
    tags = "tags:\n- base_model:adapter:models/minilm\nbase_model: models/minilm"
    (folder / "README.md").write_text(f"---\n{tags}\n---\n", encoding="utf-8")
    write_model_card(folder)
    text, metadata = assert_valid(folder)
    assert "`minilm`, from a local folder" in text and "base_model" not in metadata and metadata["tags"] == ["iomt"]
    write_model_card(folder, CardDetails(base_model="org/minilm"))
    assert assert_valid(folder)[1]["tags"] == ["base_model:adapter:org/minilm", "iomt"]


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


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("datasets: nyu-mll/glue", "glue"),
        ("datasets:\n- a/x\n- b/y", ["a/x", "b/y", "glue"]),
        ("datasets:\n- glue", ["glue"]),
        ("license: mit", "glue"),
    ],
)
def test_data_sets_of_the_card(known, expected, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "README.md").write_text(f"---\n{known}\n---\n\n# Mine\n", encoding="utf-8")
    write_model_card(folder, CardDetails(dataset="glue"))
    assert assert_valid(folder)[1]["datasets"] == expected


def test_a_list_over_several_lines_is_one_row(tmp_path):
    settings = {**RECORD["settings"], "iomt_candidates": "adamw:lr=0.001;\n  sgdm:lr=0.1|0.2"}
    folder = write_run(tmp_path / "run", iomt_run={**RECORD, "settings": settings})
    write_model_card(folder)
    rows = [row for row in part(read(folder), "Settings").splitlines() if row.startswith("|")]
    assert "| `iomt_candidates` | `adamw:lr=0.001; sgdm:lr=0.1\\|0.2` | `auto` |" in rows


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        # Of a shorter run before, or of the model before training, or of this very evaluation.
        ({"epoch": 1.0, "eval_accuracy": 0.3, "eval_f1": 0.2}, {"accuracy": 0.9}),
        ({"eval_accuracy": 0.3}, {"accuracy": 0.9}),
        ({"epoch": 3.0, "eval_accuracy": 0.9, "eval_perplexity": 7.0}, {"accuracy": 0.9, "perplexity": 7.0}),
        ({"epoch": 3.0, "eval_accuracy": 0.3, "eval_perplexity": 7.0}, {"accuracy": 0.9, "perplexity": 7.0}),
        ({"epoch": 4.0, "eval_accuracy": 0.95}, {"accuracy": 0.95}),
    ],
)
def test_the_newest_evaluation_counts(written, expected, tmp_path):
    logs = [
        {"eval_accuracy": 0.5, "epoch": 2.0, "step": 40},
        {"eval_accuracy": 0.9, "epoch": 3.0, "step": 80},
    ]
    folder = write_run(tmp_path / "run", trainer_state={"log_history": logs}, eval_results=written)
    write_model_card(folder)
    _, metadata = assert_valid(folder)
    (result,) = metadata["model-index"][0]["results"]
    assert {item["type"]: item["value"] for item in result["metrics"]} == expected


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (None, {("org/a", "validation"): 0.88, ("org/b", "test"): 0.71}),
        ("org/a", {("org/a", "validation"): 0.75, ("org/b", "test"): 0.71}),
        ("org/c", {("org/a", "validation"): 0.88, ("org/b", "test"): 0.71, ("org/c", None): 0.75}),
    ],
)
def test_results_on_other_data_sets_stay(dataset, expected, tmp_path):
    known = [
        EvalResult("text-classification", name, name, "accuracy", value, dataset_split=split)
        for name, split, value in (("org/a", "validation", 0.88), ("org/b", "test", 0.71))
    ]
    folder = write_run(tmp_path / "run")
    ModelCard(f"---\n{ModelCardData(model_name='mine', eval_results=known)}\n---\n\n# Mine\n").save(
        folder / "README.md"
    )
    for _ in range(2):
        write_model_card(folder, CardDetails(dataset=dataset))
        results = ModelCard.load(folder / "README.md").data.eval_results
        found = {
            (item.dataset_type, item.dataset_split): item.metric_value
            for item in results
            if item.metric_type == "accuracy"
        }
        assert found == expected


def test_two_splits_of_the_data_set_stay_and_the_run_has_its_own_entry(tmp_path):
    known = [
        EvalResult("text-classification", "org/a", "A", "accuracy", value, dataset_split=split)
        for split, value in (("validation", 0.88), ("test", 0.71))
    ]
    first = merge_results(known, {"accuracy": 0.75}, None, "org/a")
    second = merge_results(first, {"accuracy": 0.8}, None, "org/a")
    assert [(item.dataset_split, item.metric_value) for item in first] == [
        ("validation", 0.88),
        ("test", 0.71),
        (None, 0.75),
    ]
    assert [item.metric_value for item in second] == [0.88, 0.71, 0.8]


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
        (["WhisperForConditionalGeneration"], "automatic-speech-recognition"),
        (["Wav2Vec2ForCTC"], "automatic-speech-recognition"),
        (["Qwen2VLForConditionalGeneration"], "image-text-to-text"),
        (["T5ForConditionalGeneration", "MarianMTModel"], "text2text-generation"),
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
