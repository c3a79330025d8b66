"""Model cards through the trainers, and the cards that are shown."""

from __future__ import annotations

from pathlib import Path

import hub
import peft
import pytest
import tiny
from cards import TITLE, assert_valid, part, read, table
from PIL import Image
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.model_card import write_model_card

CARDS = Path(__file__).parents[1] / "model_cards"

pytestmark = pytest.mark.usefixtures("small_heap")


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch):
    """Drawing takes a second; that it is done is tested with the card from the files."""
    monkeypatch.setattr("hf_iomt.model_card.draw_run", lambda _, path: Image.new("RGB", (8, 8)).save(path))


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
