"""The trainer of sentence-transformers that interleaves optimizers."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from dataclasses import fields

import pytest
import tiny
import torch
from datasets import Dataset
from test_checkpoint import kill
from tiny_language import sentences, word_tokenizer
from transformers import BertConfig, BertModel, HfArgumentParser

sentence_transformers = pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments  # noqa: E402
from sentence_transformers.sentence_transformer import losses  # noqa: E402
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer  # noqa: E402

from hf_iomt.probe import Probe  # noqa: E402
from hf_iomt.sentence_transformers import (  # noqa: E402
    LOSS_NAME,
    IOMTSentenceTransformerTrainer,
    IOMTSentenceTransformerTrainingArguments,
)

CANDIDATES = "adamw:lr=0.003; sgdm:lr=0.05; adagrad:lr=0.01"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of one layer with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(folder):
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


def scored(count=32):
    """Pairs of sentences, alike where they begin with the same letter."""
    first, second = sentences(count), sentences(count, seed=1)
    scores = [float(a[0] == b[0]) for a, b in zip(first, second, strict=True)]
    return Dataset.from_dict({"sentence1": first, "sentence2": second, "score": scores})


def followed(count=24):
    return Dataset.from_dict({"anchor": sentences(count, seed=2), "positive": sentences(count, seed=3)})


def classes(count=32):
    pairs = scored(count)
    return pairs.remove_columns("score").add_column("label", [number % 2 for number in range(count)])


def make(path, folder, data=None, loss=None, callbacks=None, eval_dataset=None, evaluator=None, **settings):
    args = IOMTSentenceTransformerTrainingArguments(
        **tiny.quiet(
            path, **{"iomt_candidates": CANDIDATES, "iomt_switch_steps": 4, "iomt_transferability": "0.5", **settings}
        )
    )
    model = encoder(folder)
    return IOMTSentenceTransformerTrainer(
        model,
        args,
        train_dataset=scored() if data is None else data,
        loss=losses.CoSENTLoss(model) if loss is None else loss(model),
        callbacks=callbacks,
        eval_dataset=eval_dataset,
        evaluator=evaluator,
    )


def two_losses(model):
    return {"scored": losses.CoSENTLoss(model), "followed": losses.MultipleNegativesRankingLoss(model)}


def softmax_loss(model):
    return losses.SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=2)


KINDS = {
    "one": (scored, None),
    "two": (lambda: {"scored": scored(), "followed": followed()}, two_losses),
    "softmax": (classes, softmax_loss),
}


class TestArguments:
    def test_the_command_line_gives_the_defaults_of_both(self, tmp_path):
        arguments = [f"--output_dir={tmp_path}", "--use_cpu", "--batch_sampler=no_duplicates", "--iomt_race_steps=3"]
        (args,) = HfArgumentParser(IOMTSentenceTransformerTrainingArguments).parse_args_into_dataclasses(arguments)
        expected = SentenceTransformerTrainingArguments(str(tmp_path), use_cpu=True, batch_sampler="no_duplicates")
        plain = (str, int, float, bool, list, dict, type(None))
        for item in fields(SentenceTransformerTrainingArguments):
            if isinstance(getattr(expected, item.name), plain):
                assert getattr(args, item.name) == getattr(expected, item.name), item.name
        assert (args.iomt_race_steps, args.iomt_switch_steps, args.prediction_loss_only) == (3, 25, True)

    def test_learning_rates_by_name_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"the candidates say the learning rates\. Leave it out"):
            IOMTSentenceTransformerTrainingArguments(str(tmp_path), use_cpu=True, learning_rate_mapping={"x": 0.1})

    def test_the_signature_is_theirs_and_other_arguments_are_refused(self, tmp_path, folder):
        theirs = sentence_transformers.SentenceTransformerTrainer
        assert inspect.signature(IOMTSentenceTransformerTrainer) == inspect.signature(theirs)
        args = SentenceTransformerTrainingArguments(str(tmp_path), use_cpu=True)
        with pytest.raises(ValueError, match="IOMTSentenceTransformerTrainingArguments"):
            IOMTSentenceTransformerTrainer(encoder(folder), args, train_dataset=scored())

    def test_without_the_library_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        monkeypatch.delitem(sys.modules, "hf_iomt.sentence_transformers")
        with pytest.raises(ImportError, match=r"not installed.*pip install 'hf-iomt\[sentence-transformers\]'"):
            importlib.import_module("hf_iomt.sentence_transformers")


@pytest.mark.parametrize("kind", ["two", "softmax"])
def test_killed_in_the_race_and_in_a_cycle(tmp_path, folder, kind):
    data, loss = KINDS[kind]
    settings = {"max_steps": 30, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}

    def maker(path, **settings):
        return make(path, folder, data(), loss, **settings)

    # The parameters of a loss are drawn when it is made.
    torch.manual_seed(0)
    whole = maker(tmp_path / "whole", **{**settings, "save_strategy": "no"})
    whole.train()
    assert [record["last_step"] for record in whole.iomt_history if record["phase"] == "race"][-1] == 3
    torch.manual_seed(0)
    kill(tmp_path / "killed", settings, "step", 3, maker)
    kill(tmp_path / "killed", settings, "step", 12, maker)
    assert (tmp_path / "killed" / "checkpoint-13").exists()
    torch.manual_seed(7)
    resumed = maker(tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=True)
    tiny.assert_same_outcome(tiny.outcome(whole), tiny.outcome(resumed))
    tiny.assert_same(tiny.values(whole.trained_module()), tiny.values(resumed.trained_module()))


class TestParametersOfALoss:
    def test_they_are_trained(self, tmp_path, folder):
        trainer = make(tmp_path, folder, classes(), softmax_loss, max_steps=8)
        before = tiny.values(trainer.loss)
        trainer.train()
        moved = {name for name, item in tiny.values(trainer.loss).items() if not torch.equal(item, before[name])}
        assert {"classifier.weight", "classifier.bias"} < moved

    def test_damage_to_them_is_undone(self, tmp_path, folder):
        settings = {"iomt_candidates": "sgd:lr=1e14|1e15", "iomt_race_steps": 0, "max_steps": 8}
        trainer = make(tmp_path, folder, classes(), softmax_loss, **settings)
        before = tiny.values(trainer.loss)
        trainer.train()
        assert all(record["rolled_back"] for record in trainer.iomt_history)
        tiny.assert_same(tiny.values(trainer.loss), before)

    def test_a_checkpoint_of_weights_alone_says_that_it_lacks_them(self, tmp_path, folder, caplog):
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_only_model": True}
        make(tmp_path, folder, classes(), softmax_loss, **settings).train()
        with caplog.at_level(logging.WARNING):
            make(tmp_path, folder, classes(), softmax_loss, **settings).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-2")
            )
        assert f"has no {LOSS_NAME}: the parameters of the loss start afresh" in caplog.text

    def test_a_guide_is_none_of_them(self, tmp_path, folder):
        trainer = make(tmp_path, folder, followed(), lambda model: losses.GISTEmbedLoss(model, encoder(folder)))
        assert trainer.trained_module() is trainer.model


class TestProbe:
    def probe(self, trainer, samples):
        trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
        trainer.model_wrapped = trainer.model
        return float(Probe(trainer, samples)()[0])

    def test_several_data_sets_have_losses_of_their_own(self, tmp_path, folder):
        data = {"scored": scored(8), "followed": followed(4)}
        # These losses compare the texts of a batch, so it matters that a batch holds all.
        trainer = make(tmp_path, folder, data, two_losses, per_device_train_batch_size=8)

        def loss(name):
            rows = [trainer.train_dataset[name][index] for index in range(len(data[name]))]
            with torch.no_grad():
                return float(trainer.compute_loss(trainer.model.eval(), dict(trainer.data_collator(rows))))

        expected = (8 * loss("scored") + 4 * loss("followed")) / 12
        assert self.probe(trainer, 12) == pytest.approx(expected, rel=1e-4)

    def test_parts_of_losses_that_are_logged_are_those_of_training_alone(self, tmp_path, folder):
        class Parts(losses.CoSENTLoss):
            def forward(self, sentence_features, labels):
                value = super().forward(sentence_features, labels)
                return {"whole": value, "count": torch.ones(())}

        trainer = make(
            *(tmp_path, folder, None, Parts),
            eval_dataset=scored(8),
            iomt_transferability="auto",
            iomt_candidates="sgd:lr=1e-12|1e-13",
            iomt_score="probe",
            iomt_switch_steps=1,
            max_steps=8,
            eval_strategy="steps",
            logging_strategy="steps",
            logging_steps=4,
            eval_steps=4,
        )
        trainer.assess_transferability(8)
        trainer.train()
        logged = trainer.state.log_history
        evaluations = [entry for entry in logged if "eval_whole" in entry]
        assert [entry["count"] for entry in logged if "count" in entry] == [1.0, 1.0]
        assert len(evaluations) == 2
        for entry in evaluations:
            assert entry["eval_whole"] + 1 == pytest.approx(entry["eval_loss"], abs=1e-3)


class TestTransferability:
    @pytest.mark.parametrize("kind", KINDS)
    def test_pairs_have_no_metrics(self, tmp_path, folder, kind):
        data, loss = KINDS[kind]
        found = make(tmp_path, folder, data(), loss).assess_transferability(8)
        assert (found.weight, found.left_out["performance"]) == (0.5, "the data has no labels")

    def test_the_evaluator_is_asked_only_by_name(self, tmp_path, folder):
        asked = []

        class Seeing(EmbeddingSimilarityEvaluator):
            def __call__(self, *args, **kwargs):
                asked.append(super().__call__(*args, **kwargs))
                return asked[-1]

        pairs = scored(16)
        evaluator = Seeing(pairs["sentence1"], pairs["sentence2"], pairs["score"], name="held-out")
        trainer = make(tmp_path, folder, evaluator=evaluator)
        assert trainer.assess_transferability(8).weight == 0.5
        assert not asked and not (tmp_path / "eval").exists()
        trainer.args.iomt_performance_metric = "held-out_spearman_cosine"
        found = trainer.assess_transferability(8)
        assert len(asked) == 1
        assert found.performance == pytest.approx(min(max(asked[0]["eval_held-out_spearman_cosine"], 0), 1))


def test_it_learns_with_an_evaluator(tmp_path, folder):
    pairs = scored(64)
    evaluator = EmbeddingSimilarityEvaluator(pairs["sentence1"], pairs["sentence2"], pairs["score"])
    trainer = make(
        *(tmp_path, folder, pairs),
        evaluator=evaluator,
        eval_strategy="steps",
        eval_steps=30,
        max_steps=60,
        iomt_transferability="auto",
        per_device_train_batch_size=16,
    )
    before = evaluator(trainer.model)["spearman_cosine"]
    trainer.train()
    found = [entry["eval_spearman_cosine"] for entry in trainer.state.log_history if "eval_runtime" in entry]
    assert len(found) == 2 and found[-1] > before + 0.2
    assert trainer.iomt_history[-1]["last_step"] == 60
