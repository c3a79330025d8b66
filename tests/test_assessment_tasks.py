"""Each kind of task is assessed by the parts that apply to it."""

from __future__ import annotations

import math

import peft
import pytest
import tiny
import torch
from assessed import SIZES, Rows, causal_lm, make
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
)

from hf_iomt import IOMTTrainer
from hf_iomt.transferability import leep, log_me


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
