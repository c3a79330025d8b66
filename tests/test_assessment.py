"""The assessment of transferability, through real trainers, against the same numbers computed by hand."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import tiny
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ProgressCallback,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
)

from hf_iomt import IOMTTrainer, IOMTTrainerMixin, IOMTTrainingArguments
from hf_iomt.assessment import take_samples
from hf_iomt.transferability import TRANSFERABILITY_NAME, leep, log_me

THREE = "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class Rows(Dataset):
    """Any columns of equal length."""

    def __init__(self, **columns):
        self.columns = columns
        self.read = []

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index):
        self.read.append(index)
        return {name: column[index] for name, column in self.columns.items()}


def make(path, model=None, data=None, evaluation=None, cls=IOMTTrainer, parts=None, **settings):
    args = IOMTTrainingArguments(**tiny.quiet(path, **{"max_steps": 30, "iomt_candidates": THREE, **settings}))
    data = tiny.Texts() if data is None else data
    return cls(
        tiny.bert() if model is None else model, args, train_dataset=data, eval_dataset=evaluation, **(parts or {})
    )


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def by_hand(model, texts):
    """Pooled features and logits of all texts, without dropout."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    training = model.training
    model.eval()
    with torch.no_grad():
        inputs = {"input_ids": texts.ids, "attention_mask": torch.ones_like(texts.ids)}
        features, logits = base.bert(**inputs).pooler_output, model(**inputs).logits
    model.train(training)
    return features, logits


class TestParts:
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_classification(self, tmp_path, model):
        texts = tiny.Texts(50)
        trainer = make(tmp_path, model(), texts)
        features, logits = by_hand(trainer.model, texts)
        found = trainer.assess_transferability()
        expected = float((logits.argmax(1) == texts.labels).float().mean())
        assert found.performance == pytest.approx(expected) and found.performance_metric == "accuracy"
        assert found.log_me == pytest.approx(log_me(features.numpy(), texts.labels.numpy()), rel=1e-4)
        assert (found.leep, found.h_score) == (None, None)
        assert found.left_out == {"leep": "the model does not come from a checkpoint"}
        assert (found.task, found.split, found.samples) == ("classification", "train", 50)
        assert found.weight == pytest.approx(0.5 * expected + 0.5 / (1 + math.exp(-found.log_me)))
        assert 0 < found.seconds < 60

    @pytest.mark.parametrize("labels", [5, 2])
    @pytest.mark.parametrize("adapt", [False, True])
    def test_the_head_of_the_checkpoint(self, tmp_path, labels, adapt):
        texts = tiny.Texts(40)
        source = tiny.bert(labels=5, seed=3)
        source.save_pretrained(tmp_path / "source")
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "source", num_labels=labels, ignore_mismatched_sizes=True
        )
        if adapt:
            model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
        _, logits = by_hand(source, texts)
        found = make(tmp_path, model, texts).assess_transferability()
        assert found.leep == pytest.approx(leep(logits.softmax(-1).numpy(), texts.labels.numpy()), rel=1e-4)
        assert found.left_out == {}

    def test_the_metrics_that_are_asked_for(self, tmp_path):
        trainer = make(tmp_path, iomt_distribution_metrics=["h_score"], iomt_beta=0.25)
        found = trainer.assess_transferability()
        assert found.h_score is not None and (found.log_me, found.leep, found.left_out) == (None, None, {})
        expected = 0.25 * found.performance + 0.75 / (1 + math.exp(-found.h_score))
        assert found.weight == pytest.approx(expected)

    def test_none_of_them(self, tmp_path):
        found = make(tmp_path, iomt_distribution_metrics=[]).assess_transferability()
        assert found.weight == found.performance

    def test_images(self, tmp_path):
        config = ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
        model = ViTForImageClassification(config).eval()
        pixels = torch.randn(30, 3, 8, 8, generator=torch.manual_seed(0))
        labels = torch.arange(30) % 3
        with torch.no_grad():
            features = model.vit(pixel_values=pixels).last_hidden_state[:, 0]
        found = make(tmp_path, model, Rows(pixel_values=pixels, labels=labels)).assess_transferability()
        assert found.log_me == pytest.approx(log_me(features.numpy(), labels.numpy()), rel=1e-4)

    def test_a_model_of_ones_own(self, tmp_path):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

            def forward(self, x, labels):
                logits = self.last(self.first(x).relu())
                return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

        torch.manual_seed(0)
        model, x = Own(), torch.randn(40, 3)
        labels = (x[:, 0] > 0).long()
        trainer = make(tmp_path, model, Rows(x=x, labels=labels))
        with torch.no_grad():
            features = model.first(x).relu()
        trainer.train()
        found = trainer.transferability
        assert found.log_me == pytest.approx(log_me(features.numpy(), labels.numpy()), rel=1e-4)
        assert found.left_out == {"leep": "the model does not come from a checkpoint"}


def regression():
    return tiny.bert(labels=1), tiny.Texts(regression=True), {}


def several_labels():
    texts = tiny.Texts()
    labels = torch.stack([texts.labels, 1 - texts.labels, texts.ids[:, 1] % 2], dim=1).float()
    return tiny.bert(labels=3), Rows(input_ids=texts.ids, labels=labels), {}


def tokens():
    texts = tiny.Texts()
    labels = texts.ids % 3
    labels[:, 0] = -100
    model = BertForTokenClassification(BertConfig(**SIZES, vocab_size=32, num_labels=3))
    return model, Rows(input_ids=texts.ids, labels=labels), {}


def causal_lm():
    texts = tiny.Texts()
    model = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=32))
    return model, Rows(input_ids=texts.ids, labels=texts.ids), {}


def lora_causal_lm():
    model, data, parts = causal_lm()
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])), data, parts


def masked_lm():
    texts = tiny.Texts()

    def collate(rows):
        ids = torch.stack([row["input_ids"] for row in rows])
        masked = torch.rand(ids.shape) < 0.3
        return {"input_ids": ids.masked_fill(masked, 1), "labels": ids.masked_fill(~masked, -100)}

    model = BertForMaskedLM(BertConfig(**SIZES, vocab_size=32))
    return model, Rows(input_ids=texts.ids, labels=texts.ids), {"data_collator": collate}


def translation():
    texts = tiny.Texts()
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    return T5ForConditionalGeneration(config), Rows(input_ids=texts.ids, labels=texts.ids.flip(1)), {}


VOCABULARY = "the labels are the tokens of a vocabulary, most of which are too rare"
NO_CHECKPOINT = "the model does not come from a checkpoint"


class TestTasks:
    """Each kind of task trains with the parts that apply."""

    @pytest.mark.parametrize(
        "build, task, metric, left_out",
        [
            (regression, "regression", "R²", {"leep": "the labels are not one class of several"}),
            (several_labels, "multi_label", "micro F1", {"leep": "the labels are not one class of several"}),
            (tokens, "tokens", "token accuracy", {"leep": NO_CHECKPOINT}),
            (causal_lm, "language_model", "token accuracy", {"log_me": VOCABULARY}),
            (lora_causal_lm, "language_model", "token accuracy", {"log_me": VOCABULARY}),
            (masked_lm, "language_model", "token accuracy", {"log_me": VOCABULARY}),
            (translation, "language_model", "token accuracy", {"log_me": VOCABULARY}),
        ],
    )
    def test_training(self, tmp_path, build, task, metric, left_out):
        torch.manual_seed(0)
        model, data, parts = build()
        trainer = make(tmp_path, model, data, parts=parts)
        trainer.train()
        found = trainer.transferability
        assert (found.task, found.performance_metric, found.left_out) == (task, metric, left_out)
        assert 0 <= found.performance <= 1 and 0 < found.weight < 1
        asked = {"log_me", "leep"}
        assert all(math.isfinite(getattr(found, name)) for name in asked - set(left_out))
        assert trainer.interleaving.selector.settings.transferability == found.weight

    def test_token_labels_are_samples_of_their_own(self, tmp_path):
        torch.manual_seed(0)
        model, data, _ = tokens()
        found = make(tmp_path, model, data).assess_transferability()
        with torch.no_grad():
            model.eval()
            output = model(input_ids=data.columns["input_ids"])
            hidden = model.bert(input_ids=data.columns["input_ids"]).last_hidden_state
        labels = data.columns["labels"]
        real = labels != -100
        # 2,000 of 64 × 5: all of them.
        assert found.log_me == pytest.approx(log_me(hidden[real].numpy(), labels[real].numpy()), rel=1e-4)
        assert found.performance == pytest.approx(float((output.logits.argmax(-1) == labels)[real].float().mean()))

    def test_a_language_model_predicts_the_next_token_with_its_own_head(self, tmp_path):
        torch.manual_seed(0)
        model, data, _ = causal_lm()
        found = make(tmp_path, model, data).assess_transferability()
        ids = data.columns["input_ids"]
        with torch.no_grad():
            logits, following = model.eval()(input_ids=ids).logits[:, :-1], ids[:, 1:]
        assert found.performance == pytest.approx(float((logits.argmax(-1) == following).float().mean()))
        expected = leep(logits.softmax(-1).flatten(0, 1).numpy(), following.flatten().numpy())
        assert found.leep == pytest.approx(expected, rel=1e-4)

    def test_what_a_language_model_was_before_it_was_a_classifier(self, tmp_path):
        torch.manual_seed(0)
        source, data, _ = causal_lm()
        source.config.pad_token_id = 0
        source.save_pretrained(tmp_path / "source")
        ids = data.columns["input_ids"]
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "source", num_labels=2)
        found = make(tmp_path, model, Rows(input_ids=ids, labels=tiny.Texts().labels)).assess_transferability()
        with torch.no_grad():
            source.eval()
            logits, hidden = source(input_ids=ids).logits[:, -1], source.model(input_ids=ids).last_hidden_state[:, -1]
        labels = tiny.Texts().labels.numpy()
        assert found.leep == pytest.approx(leep(logits.softmax(-1).numpy(), labels), rel=1e-4)
        assert found.log_me == pytest.approx(log_me(hidden.numpy(), labels), rel=1e-4)

    @pytest.mark.parametrize("labels", [torch.zeros(64, dtype=torch.long), torch.full((64,), -100)])
    def test_labels_that_say_nothing(self, tmp_path, labels):
        texts = tiny.Texts()
        trainer = make(tmp_path, data=Rows(input_ids=texts.ids, labels=labels))
        found = trainer.assess_transferability()
        assert found.log_me is None and "log_me" in found.left_out
        assert math.isfinite(found.weight)

    def test_without_labels(self, tmp_path):
        class Unlabelled(IOMTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                output = model(**inputs)
                loss = output.logits.square().mean()
                return (loss, output) if return_outputs else loss

        trainer = make(tmp_path, data=Rows(input_ids=tiny.Texts().ids), cls=Unlabelled)
        trainer.train()
        found, reason = trainer.transferability, "the data has no labels"
        assert found.weight == 0.5 and found.left_out == {"performance": reason, "log_me": reason, "leep": reason}

    def test_several_kinds_of_labels(self, tmp_path):
        ids = tiny.Texts().ids
        model = BertForQuestionAnswering(BertConfig(**SIZES, vocab_size=32))
        data = Rows(input_ids=ids, start_positions=ids[:, 0] % 3, end_positions=ids[:, 1] % 3 + 3)
        trainer = make(tmp_path, model, data)
        trainer.train()
        reason = "the data has several kinds of labels"
        assert trainer.transferability.left_out == {"performance": reason, "log_me": reason, "leep": reason}
        assert trainer.transferability.samples == 64

    def test_multiple_choice_has_other_rows_of_features(self, tmp_path):
        BertForMaskedLM(BertConfig(**SIZES, vocab_size=32)).save_pretrained(tmp_path / "source")
        model = BertForMultipleChoice.from_pretrained(tmp_path / "source")
        ids = tiny.Texts(120).ids.reshape(60, 2, tiny.LENGTH)
        found = make(tmp_path, model, Rows(input_ids=ids, labels=torch.arange(60) % 2)).assess_transferability()
        assert found.performance is not None and (found.log_me, found.leep) == (None, None)
        assert found.left_out["log_me"] == "the backbone gave 8 rows of features for 4 samples"
        assert found.left_out["leep"] == "the checkpoint's head made 8 rows of predictions for 4 samples"

    def test_sound_is_averaged_over_time(self, tmp_path):
        config = Wav2Vec2Config(
            **SIZES,
            conv_dim=(8, 8),
            conv_stride=(4, 4),
            conv_kernel=(4, 4),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=8,
            num_labels=2,
        )
        torch.manual_seed(0)
        sound, labels = torch.randn(40, 400), torch.arange(40) % 2
        model = Wav2Vec2ForSequenceClassification(config).eval()
        with torch.no_grad():
            features = model.wav2vec2(sound).last_hidden_state.mean(1)
        found = make(tmp_path, model, Rows(input_values=sound, labels=labels)).assess_transferability()
        assert found.log_me == pytest.approx(log_me(features.numpy(), labels.numpy()), rel=1e-3)
        recognised = Wav2Vec2ForCTC(config)
        data = Rows(input_values=sound, labels=torch.randint(1, 30, (40, 5)))
        assert "not aligned" in make(tmp_path, recognised, data).assess_transferability().left_out["performance"]

    def test_an_encoder_and_a_decoder_that_classify(self, tmp_path):
        torch.manual_seed(0)
        config = BartConfig(
            vocab_size=32,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_labels=2,
        )
        texts = tiny.Texts(40)
        texts.ids[:, -1] = config.eos_token_id
        texts.ids[:, :-1].clamp_(min=3)
        model = BartForSequenceClassification(config).eval()
        with torch.no_grad():
            features = model.model(input_ids=texts.ids).last_hidden_state[:, -1]
        found = make(tmp_path, model, Rows(input_ids=texts.ids, labels=texts.labels)).assess_transferability()
        assert found.log_me == pytest.approx(log_me(features.numpy(), texts.labels.numpy()), rel=1e-3)


class TestPerformance:
    def test_the_users_metric(self, tmp_path):
        def compute(prediction):
            return {"score": 0.375, "accuracy": 0.25, "error": 0.75}

        def found(**settings):
            return make(tmp_path, parts={"compute_metrics": compute}, **settings).assess_transferability()

        assert (found().performance, found().performance_metric) == (0.25, "accuracy")
        assert found(iomt_performance_metric="score").performance == 0.375
        assert found(iomt_performance_metric="eval_error").performance == 0.25
        assert found(metric_for_best_model="score").performance_metric == "score"
        lower = found(metric_for_best_model="score", greater_is_better=False)
        assert lower.performance == pytest.approx(1 / 1.375)

    def test_the_loss(self, tmp_path):
        trainer = make(tmp_path, iomt_performance_metric="loss")
        loss = trainer.evaluate(tiny.Texts())["eval_loss"]
        assert trainer.assess_transferability().performance == pytest.approx(math.exp(-loss), rel=1e-4)

    def test_metrics_that_fail_give_way_to_the_logits(self, tmp_path):
        def compute(prediction):
            raise KeyError("answers")

        trainer = make(tmp_path, parts={"compute_metrics": compute})
        trainer.train()
        found = trainer.transferability
        assert found.performance_metric == "accuracy" and found.performance is not None
        assert found.left_out["compute_metrics"] == "`compute_metrics` failed: KeyError: 'answers'"
        assert trainer.compute_metrics is compute

    def test_metrics_in_batches(self, tmp_path):
        right = []

        def compute(prediction, compute_result):
            right.extend((prediction.predictions.argmax(-1) == prediction.label_ids).tolist())
            return {"accuracy": sum(right) / len(right)} if compute_result else {}

        texts = tiny.Texts(50)
        trainer = make(tmp_path, data=texts, parts={"compute_metrics": compute}, batch_eval_metrics=True)
        _, logits = by_hand(trainer.model, texts)
        expected = float((logits.argmax(1) == texts.labels).float().mean())
        assert trainer.assess_transferability().performance == pytest.approx(expected)

    def test_a_name_that_is_not_there_ends_training_before_it_begins(self, tmp_path):
        trainer = make(tmp_path, parts={"compute_metrics": accuracy}, iomt_performance_metric="bleu")
        message = r"`iomt_performance_metric='bleu'` must be a number that the evaluation returns: .*accuracy"
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_a_name_without_metrics(self, tmp_path):
        trainer = make(tmp_path, iomt_performance_metric="f1")
        with pytest.raises(ValueError, match=r"`iomt_performance_metric='f1'` needs `compute_metrics`"):
            trainer.train()

    def test_metrics_that_would_keep_every_logit_are_not_used_unless_asked_for(self, tmp_path):
        model, data, _ = causal_lm()
        shapes = []

        def compute(prediction):
            shapes.append(prediction.predictions.shape)
            return {"score": 0.5}

        parts = {"compute_metrics": compute}
        found = make(tmp_path, model, data, parts=parts).assess_transferability()
        assert found.performance_metric == "token accuracy" and not shapes
        assert found.left_out["compute_metrics"] == "it would need the logits of every token"
        assert (
            make(tmp_path, model, data, parts=parts, iomt_performance_metric="score")
            .assess_transferability()
            .performance
            == 0.5
        )
        reduced = {**parts, "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
        assert make(tmp_path, model, data, parts=reduced).assess_transferability().performance == 0.5

    def test_a_metric_that_is_no_number_gives_way_to_the_logits(self, tmp_path):
        parts = {"compute_metrics": lambda prediction: {"accuracy": math.nan}}
        found = make(tmp_path, parts=parts).assess_transferability()
        assert found.performance_metric == "accuracy" and math.isfinite(found.performance)

    def test_predictions_of_another_number_keep_the_users_metric(self, tmp_path):
        class Doubled(IOMTTrainer):
            """Sees each batch twice, as R-Drop does."""

            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                output = model(**{name: torch.cat([value, value]) for name, value in inputs.items()})
                loss, output = output.loss, {"logits": output.logits[: len(output.logits) // 2]}
                return (loss, {"loss": loss, **output}) if return_outputs else loss

        found = make(tmp_path, cls=Doubled, parts={"compute_metrics": accuracy}).assess_transferability()
        assert found.performance is not None
        assert found.left_out["log_me"] == "the model made 8 rows of predictions for 4 labels"

    def test_an_evaluation_that_fails_is_no_end(self, tmp_path, caplog):
        class Failing(IOMTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                if return_outputs:
                    raise NotImplementedError("no outputs")
                return super().compute_loss(model, inputs)

        trainer = make(tmp_path, cls=Failing, disable_tqdm=False)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        reason = "the evaluation failed: NotImplementedError: no outputs"
        assert trainer.transferability.left_out == {"performance": reason, "log_me": reason, "leep": reason}
        assert trainer.transferability.weight == 0.5 and trainer.state.global_step == 30
        assert "the evaluation failed" in caplog.text
        (bar,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, ProgressCallback)]
        assert bar.prediction_bar is None

    def test_labels_that_the_trainer_takes_away(self, tmp_path):
        class Taking(IOMTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                labels = inputs.pop("labels")
                output = model(**inputs)
                loss = nn.functional.cross_entropy(output.logits, labels)
                return (loss, output) if return_outputs else loss

        expected = make(tmp_path).assess_transferability()
        found = make(tmp_path, cls=Taking).assess_transferability()
        smoothed = make(tmp_path, label_smoothing_factor=0.1).assess_transferability()
        assert found.parts == pytest.approx(expected.parts)
        assert smoothed.parts == pytest.approx(expected.parts)


class TestData:
    def test_training_reads_a_share(self, tmp_path):
        texts = tiny.Texts(4000)
        trainer = make(tmp_path, data=texts, max_steps=1000, gradient_accumulation_steps=2)
        trainer.add_callback(StopAtOnce())
        trainer.train()
        assert trainer.transferability.samples == round(0.03 * 1000 * 8)

    @pytest.mark.parametrize("samples, expected", [(2000, 64), (20, 20)])
    def test_short_runs_read_some(self, tmp_path, samples, expected):
        trainer = make(tmp_path, data=tiny.Texts(300), max_steps=2, iomt_transferability_samples=samples)
        trainer.train()
        assert trainer.transferability.samples == expected

    def test_the_samples_are_random_and_the_same_every_time(self):
        rows = [take_samples(tiny.Texts(100), 20, seed).indices for seed in (0, 0, 1)]
        assert rows[0] == rows[1] != rows[2]
        assert rows[0] == sorted(set(rows[0])) and len(rows[0]) == 20 and rows[0] != list(range(20))

    def test_the_split_that_is_read(self, tmp_path):
        train, evaluation = Rows(**columns(40, 0)), Rows(**columns(30, 1))
        found = make(tmp_path, data=train, evaluation=evaluation).assess_transferability()
        assert (found.split, found.samples, evaluation.read) == ("train", 40, [])
        train.read.clear()
        settings = {"iomt_transferability_split": "eval"}
        found = make(tmp_path, data=train, evaluation=evaluation, **settings).assess_transferability()
        assert (found.split, found.samples, train.read) == ("eval", 30, [])
        several = {"first": evaluation, "second": train}
        assert make(tmp_path, data=train, evaluation=several, **settings).assess_transferability().samples == 30

    @pytest.mark.parametrize("evaluation", [None, {}])
    def test_a_split_that_is_not_there(self, tmp_path, evaluation):
        trainer = make(tmp_path, evaluation=evaluation, iomt_transferability_split="eval")
        with pytest.raises(ValueError, match=r"`iomt_transferability_split='eval'` needs `eval_dataset`"):
            trainer.train()

    def test_a_stream(self, tmp_path):
        texts = tiny.Texts(40)
        expected = make(tmp_path, data=texts).assess_transferability()
        found = make(tmp_path, data=tiny.Stream(texts)).assess_transferability()
        assert found.parts == pytest.approx(expected.parts)
        assert make(tmp_path, data=tiny.Stream(texts)).assess_transferability(10).samples == 10

    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_data_set_with_other_columns(self, tmp_path, streaming):
        datasets = pytest.importorskip("datasets")
        texts = tiny.Texts(40)
        data = datasets.Dataset.from_dict(
            {"input_ids": texts.ids.tolist(), "label": texts.labels.tolist(), "text": ["words"] * 40}
        )
        data = data.to_iterable_dataset() if streaming else data
        expected = make(tmp_path, data=Rows(input_ids=texts.ids, labels=texts.labels)).assess_transferability()
        assert make(tmp_path, data=data).assess_transferability().parts == pytest.approx(expected.parts)
        assert make(tmp_path, data=data).assess_transferability(15).samples == 15

    def test_a_stream_that_knows_its_length(self, tmp_path):
        class Counted(tiny.Stream):
            def __len__(self):
                return len(self.texts)

        texts = tiny.Texts(100)
        trainer = make(tmp_path, data=Counted(texts), iomt_transferability_samples=20)
        # The race's probe reads it too.
        trainer.train()
        assert trainer.transferability.samples == 20 and trainer.transferability.log_me is not None

    def test_a_trainer_that_makes_its_own_loader(self, tmp_path):
        class Own(IOMTTrainer):
            def get_train_dataloader(self):
                return torch.utils.data.DataLoader(tiny.Texts(40), batch_size=4)

        args = IOMTTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=8, iomt_candidates=THREE
        )
        trainer = Own(tiny.bert(), args)
        assert trainer.assess_transferability().left_out["log_me"].endswith("there is no `train_dataset`")
        trainer.train()
        assert trainer.transferability.samples == 40 and trainer.transferability.log_me is not None

    def test_the_last_batch_is_not_dropped(self, tmp_path):
        settings = {"dataloader_drop_last": True, "per_device_train_batch_size": 48, "per_device_eval_batch_size": 48}
        trainer = make(tmp_path, **settings)
        found = trainer.assess_transferability()
        assert found.samples == 64 and found.log_me is not None and trainer.args.dataloader_drop_last

    def test_the_number_that_is_asked_for_counts(self, tmp_path):
        texts = tiny.Texts(50)
        features, _ = by_hand(tiny.bert(), texts)
        found = make(tmp_path, data=texts, iomt_transferability_samples=20).assess_transferability(50)
        assert found.log_me == pytest.approx(log_me(features.numpy(), texts.labels.numpy()), rel=1e-4)

    def test_it_is_one_pass_in_batches_no_larger_than_those_of_training(self, tmp_path):
        sizes = []

        class Counting(IOMTTrainer):
            def compute_loss(self, model, inputs, *args, **kwargs):
                sizes.append(len(inputs["labels"]))
                return super().compute_loss(model, inputs, *args, **kwargs)

        rows = Rows(**columns(30, 0))
        trainer = make(
            tmp_path, data=rows, cls=Counting, parts={"compute_metrics": accuracy}, per_device_eval_batch_size=16
        )
        trainer.assess_transferability()
        assert sizes == [4] * 7 + [2] and sorted(rows.read) == list(range(30))
        assert trainer.args.per_device_eval_batch_size == 16
        sizes.clear()
        make(tmp_path, data=rows, cls=Counting, per_device_eval_batch_size=3).assess_transferability()
        assert max(sizes) == 3


def columns(count, seed):
    texts = tiny.Texts(count, seed)
    return {"input_ids": texts.ids, "labels": texts.labels}


class StopAtOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


class TestTraces:
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_training_is_that_with_the_same_number(self, tmp_path, model):
        measured = make(tmp_path, model(), iomt_race_steps=0, iomt_switch_steps=3)
        measured.train()
        given = make(
            tmp_path,
            model(),
            iomt_race_steps=0,
            iomt_switch_steps=3,
            iomt_transferability=repr(measured.transferability.weight),
        )
        given.train()
        tiny.assert_same(tiny.values(measured.model), tiny.values(given.model))
        histories = [[{**record, "seconds": 0} for record in item.iomt_history] for item in (measured, given)]
        assert histories[0] == histories[1]
        assert given.transferability.left_out == {} and given.transferability.split is None

    def test_generators_modes_and_settings_are_as_before(self, tmp_path):
        class Noisy(Rows):
            def __getitem__(self, index):
                random.random(), np.random.rand(), torch.rand(())
                return super().__getitem__(index)

        trainer = make(tmp_path, tiny.lora(), Noisy(**columns(20, 0)), parts={"compute_metrics": accuracy})
        trainer.model.train()
        trainer.model.base_model.model.bert.pooler.eval()
        modes = [module.training for module in trainer.model.modules()]
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        trainer.assess_transferability()
        assert [module.training for module in trainer.model.modules()] == modes
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
        assert trainer.compute_metrics is accuracy and trainer.callback_handler.eval_dataloader is None
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())

    def test_modules_that_change_with_their_mode_change_back(self, tmp_path):
        class Merging(nn.Dropout):
            merged = False

            def train(self, mode=True):
                self.merged = not mode
                return super().train(mode)

        trainer = make(tmp_path)
        trainer.model.dropout = Merging(0.1)
        trainer.model.train()
        trainer.assess_transferability()
        assert trainer.model.dropout.training and not trainer.model.dropout.merged

    def test_later_evaluations_see_their_own_data(self, tmp_path):
        trainer = make(
            tmp_path,
            evaluation=tiny.Texts(23, seed=5),
            parts={"compute_metrics": lambda prediction: {"count": len(prediction.label_ids)}},
            dataloader_num_workers=1,
            dataloader_persistent_workers=True,
        )
        trainer.train()
        assert trainer.transferability.samples == 64 and trainer.evaluate()["eval_count"] == 23

    def test_metrics_that_a_trainer_keeps_of_batches_are_those_of_its_own_evaluations(self, tmp_path):
        class Keeping(IOMTTrainer):
            """As trainers of TRL do."""

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._metrics = {"train": [], "eval": []}

            def compute_loss(self, model, *args, **kwargs):
                self._metrics["train" if model.training else "eval"].append(1)
                return super().compute_loss(model, *args, **kwargs)

        trainer = make(tmp_path, cls=Keeping)
        trainer.assess_transferability()
        assert trainer._metrics == {"train": [], "eval": []}

    def test_it_is_no_evaluation_for_callbacks(self, tmp_path):
        events = []

        class Listening(TrainerCallback):
            def on_evaluate(self, args, state, control, **kwargs):
                events.append("evaluate")

            def on_log(self, args, state, control, logs, **kwargs):
                events.append(dict(logs))

        trainer = make(tmp_path)
        trainer.add_callback(Listening())
        trainer.train()
        (logged,) = [item for item in events if "iomt/transferability/weight" in item]
        parts = {f"iomt/transferability/{name}": value for name, value in trainer.transferability.parts.items()}
        assert parts.items() <= logged.items() and "evaluate" not in events
        assert "iomt/transferability/log_me" in logged and "iomt/transferability/leep" not in logged
        assert trainer.state.log_history[0]["step"] == 0

    def test_the_bar_is_closed(self, tmp_path):
        trainer = make(tmp_path, disable_tqdm=False)
        trainer.train()
        (bar,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, ProgressCallback)]
        assert bar.prediction_bar is None


class TestSettings:
    @pytest.mark.parametrize("value, weight", [("off", 0.0), ("0.25", 0.25), (1, 1.0)])
    def test_set_by_hand(self, tmp_path, value, weight):
        rows = Rows(**columns(64, 0))
        trainer = make(tmp_path, data=rows, iomt_transferability=value, iomt_race_steps=0, max_steps=4)
        trainer.train()
        assert trainer.transferability.weight == weight == trainer.interleaving.selector.settings.transferability
        assert json.loads((tmp_path / TRANSFERABILITY_NAME).read_text())["weight"] == weight

    @pytest.mark.parametrize(
        "settings", [{"iomt_candidates": "adam:lr=0.01"}, {"iomt_selection": "random"}, {"iomt_selection": "cyclical"}]
    )
    def test_where_nothing_depends_on_it(self, tmp_path, settings):
        trainer = make(tmp_path, iomt_race_steps=0, **settings)
        trainer.train()
        assert trainer.transferability is None
        assert not any("iomt/transferability/weight" in item for item in trainer.state.log_history)
        assert trainer.assess_transferability().performance is not None

    @pytest.mark.parametrize("settings", [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}])
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_precision_and_compilation(self, tmp_path, model, settings):
        expected = make(tmp_path, model()).assess_transferability()
        trainer = make(tmp_path, model(), **settings)
        trainer.train()
        assert trainer.transferability.parts == pytest.approx(expected.parts, abs=0.03)

    def test_a_mixin_over_a_trainer_of_ones_own(self, tmp_path):
        class Own(Trainer):
            pass

        class Mixed(IOMTTrainerMixin, Own):
            pass

        trainer = make(tmp_path, cls=Mixed)
        trainer.train()
        assert trainer.transferability.log_me is not None


SAVING = {"save_strategy": "steps", "save_steps": 10}


class TestCheckpoints:
    def test_the_result_is_written(self, tmp_path):
        trainer = make(tmp_path, **SAVING)
        trainer.train()
        written = json.loads((tmp_path / TRANSFERABILITY_NAME).read_text())
        assert written == vars(trainer.transferability)
        assert json.loads((tmp_path / "checkpoint-10" / TRANSFERABILITY_NAME).read_text()) == written

    def test_a_resumed_run_does_not_repeat_it(self, tmp_path):
        class Forbidden(IOMTTrainer):
            def assess_transferability(self, samples=None):
                raise AssertionError("a second pass")

        first = make(tmp_path, **SAVING)
        first.train()
        resumed = make(tmp_path, tiny.bert(seed=4), cls=Forbidden, **SAVING)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
        assert resumed.transferability == first.transferability
        assert resumed.interleaving.selector.settings.transferability == first.transferability.weight

    @pytest.mark.parametrize("content", [None, "{", '{"weight": 0.5}'])
    def test_a_checkpoint_without_it(self, tmp_path, content, caplog):
        make(tmp_path, **SAVING).train()
        path = tmp_path / "checkpoint-10" / TRANSFERABILITY_NAME
        path.unlink() if content is None else path.write_text(content)
        resumed = make(tmp_path, **SAVING)
        with caplog.at_level(logging.WARNING):
            resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
        assert resumed.transferability.log_me is not None
        assert f"The checkpoint has no {TRANSFERABILITY_NAME}" in caplog.text

    def test_training_again_measures_again(self, tmp_path):
        trainer = make(tmp_path)
        trainer.train()
        first = trainer.transferability
        trainer.train()
        assert trainer.transferability != first


PROCESS = """
import json, sys, torch, tiny
from hf_iomt import IOMTTrainer, IOMTTrainingArguments

torch.set_num_threads(1)
model = type(tiny.bert()).from_pretrained(sys.argv[1] + "/source", num_labels=2, ignore_mismatched_sizes=True)
torch.manual_seed(0)
torch.nn.init.normal_(model.classifier.weight)
args = IOMTTrainingArguments(
    output_dir=sys.argv[1], use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=8,
    per_device_train_batch_size=int(sys.argv[2]), iomt_candidates="adam:lr=0.01; sgdm:lr=0.05", iomt_race_steps=0,
)
# Not a multiple of the batches: the last one is filled up with samples that must not count twice.
class Failing(IOMTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs and self.args.process_index == 1:
            raise RuntimeError("only here")
        return super().compute_loss(model, inputs, return_outputs)

trainer = (Failing if len(sys.argv) > 3 else IOMTTrainer)(model, args, train_dataset=tiny.Texts(51))
trainer.train()
found = vars(trainer.transferability)
# Lines that two processes print may run into each other.
with open(f"{sys.argv[1]}/found{args.process_index}.json", "w") as file:
    json.dump([found, trainer.interleaving.selector.settings.transferability], file)
"""


def test_processes_agree_and_find_what_one_finds(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(PROCESS)
    tiny.bert(labels=5, seed=3).save_pretrained(tmp_path / "source")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}

    def run(launcher, batch, *extra):
        command = [sys.executable, *launcher, str(script), str(tmp_path), str(batch), *extra]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    def found(result, rank=0):
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads((tmp_path / f"found{rank}.json").read_text())

    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    alone, _ = found(run([], 8))
    result = run(two, 4)
    together, weight = found(result)
    assert [together, weight] == found(result, rank=1) and weight == together["weight"]
    assert alone["samples"] == together["samples"] == 51 and together["left_out"] == {}
    for part in ("weight", "performance", "log_me", "leep"):
        assert together[part] == pytest.approx(alone[part], rel=1e-5)
    # A process that goes on alone would leave the other waiting.
    failed = run(two, 4, "fail")
    assert failed.returncode != 0 and "RuntimeError: only here" in failed.stderr
