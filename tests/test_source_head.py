from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_iomt.source_head import CheckpointHead
from hf_iomt.transferability import ForwardRecorder

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
PICTURES = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.manual_seed(0))}
TEXTS = {
    "input_ids": torch.randint(3, 40, (3, 7), generator=torch.manual_seed(0)),
    "attention_mask": torch.ones(3, 7, dtype=torch.long),
}
POSITIONS = torch.tensor([[0, 6], [3, 1], [2, 2]])


def vit():
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=5))


def mobilenet():
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.1, num_labels=5)
    return MobileNetV2ForImageClassification(config)


def roberta(**kwargs):
    config = RobertaConfig(**SIZES, vocab_size=40, max_position_embeddings=12, num_labels=5, pad_token_id=1)
    config.update(kwargs)
    return RobertaForSequenceClassification(config)


def llama(tied):
    config = LlamaConfig(**SIZES, vocab_size=40, tie_word_embeddings=tied, pad_token_id=0)
    return LlamaForCausalLM(config)


def dinov2():
    config = Dinov2Config(**{**SIZES, "intermediate_size": None}, image_size=32, patch_size=8, num_labels=5)
    return Dinov2ForImageClassification(config)


def opt():
    config = OPTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, ffn_dim=24, word_embed_proj_dim=16, vocab_size=40
    )
    return OPTForCausalLM(config)


def gpt2():
    config = GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=40, n_positions=12, pad_token_id=0)
    return GPT2LMHeadModel(config)


def masked():
    return BertForMaskedLM(BertConfig(**SIZES, vocab_size=40, max_position_embeddings=12))


def tagger():
    return BertForTokenClassification(BertConfig(**SIZES, vocab_size=40, max_position_embeddings=12, num_labels=5))


def saved(model, folder, **kwargs):
    torch.manual_seed(0)
    source = model().eval()
    source.save_pretrained(folder, **kwargs)
    return source


def apply(model, inputs, positions=POSITIONS):
    """The checkpoint's head on what the model's backbone makes of the inputs."""
    head = CheckpointHead(model)
    model.eval()
    with torch.no_grad(), ForwardRecorder(model) as recorder:
        model(**inputs)
        return head, head(recorder.backbone_output, inputs, positions)


def at(logits, positions=POSITIONS):
    return torch.stack([row[index] for row, index in zip(logits, positions, strict=True)])


class TestHeads:
    @pytest.mark.parametrize("labels", [5, 2, 9])
    @pytest.mark.parametrize(
        "source, auto, inputs",
        [
            (vit, AutoModelForImageClassification, PICTURES),
            (mobilenet, AutoModelForImageClassification, PICTURES),
            (roberta, AutoModelForSequenceClassification, TEXTS),
        ],
    )
    def test_of_samples_whatever_the_new_number_of_labels(self, tmp_path, source, auto, inputs, labels):
        expected = saved(source, tmp_path)(**inputs).logits
        model = auto.from_pretrained(tmp_path, num_labels=labels, ignore_mismatched_sizes=True)
        head, logits = apply(model, inputs)
        assert not head.per_token and logits.shape == (3, 5)
        torch.testing.assert_close(logits, expected)

    @pytest.mark.parametrize("source", [lambda: llama(True), lambda: llama(False), gpt2, masked])
    def test_of_language_models_that_became_classifiers(self, tmp_path, source):
        expected = saved(source, tmp_path)(**TEXTS).logits
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
        head, logits = apply(model, TEXTS)
        assert head.per_token and logits.shape == (3, 2, 40)
        torch.testing.assert_close(logits, at(expected), rtol=1e-4, atol=1e-5)

    def test_of_taggers(self, tmp_path):
        expected = saved(tagger, tmp_path)(**TEXTS).logits
        model = AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
        head, logits = apply(model, TEXTS)
        assert head.per_token and logits.shape == (3, 2, 5)
        torch.testing.assert_close(logits, at(expected))

    def test_in_several_files(self, tmp_path):
        expected = saved(vit, tmp_path, max_shard_size="5KB")(**PICTURES).logits
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        model = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
        torch.testing.assert_close(apply(model, PICTURES)[1], expected)

    def test_in_half_precision(self, tmp_path):
        expected = saved(vit, tmp_path)(**PICTURES).logits
        model = AutoModelForImageClassification.from_pretrained(
            tmp_path, num_labels=2, ignore_mismatched_sizes=True, dtype=torch.bfloat16
        )
        _, logits = apply(model, {"pixel_values": PICTURES["pixel_values"].bfloat16()})
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)

    def test_labels_of_the_new_task_are_not_its(self, tmp_path):
        saved(vit, tmp_path)
        model = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
        # A label that the source task does not have would be an error.
        assert apply(model, {**PICTURES, "labels": torch.tensor([8, 8, 8])})[1].shape == (3, 5)

    def test_only_one_layer_is_loaded_and_the_backbone_is_not_kept(self, tmp_path, monkeypatch):
        saved(lambda: llama(True), tmp_path)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
        layers = []
        load = LlamaForCausalLM.from_pretrained

        def spy(*args, **kwargs):
            loaded = load(*args, **kwargs)
            layers.append(len(loaded[0].model.layers))
            return loaded

        monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", spy)
        head, _ = apply(model, TEXTS)
        assert layers == [1]
        assert sum(item.numel() for item in head._source.parameters()) == 40 * 16

    @pytest.mark.parametrize("source", [dinov2, opt])
    def test_of_configurations_that_cannot_be_cut_and_heads_that_call_a_part(self, tmp_path, source):
        expected = saved(source, tmp_path)
        pictures = source is dinov2
        auto = AutoModelForImageClassification if pictures else AutoModelForSequenceClassification
        model = auto.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
        inputs = PICTURES if pictures else TEXTS
        _, logits = apply(model, inputs)
        wanted = expected(**inputs).logits
        torch.testing.assert_close(logits, wanted if pictures else at(wanted), rtol=1e-4, atol=1e-5)

    def test_the_model_is_left_alone(self, tmp_path):
        saved(roberta, tmp_path)
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path, num_labels=2, ignore_mismatched_sizes=True
        )
        config, values = model.config.to_dict(), {name: item.clone() for name, item in model.state_dict().items()}
        apply(model, TEXTS)
        assert model.config.to_dict() == config
        assert all(torch.equal(values[name], item) for name, item in model.state_dict().items())


class TestWithoutOne:
    @pytest.mark.parametrize("model", [vit, lambda: nn.Linear(2, 2)])
    def test_no_checkpoint(self, model):
        with pytest.raises(ValueError, match="the model does not come from a checkpoint"):
            CheckpointHead(model())

    def load(self, folder):
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)

    def test_a_bare_backbone(self, tmp_path):
        saved(lambda: BertModel(BertConfig(**SIZES, vocab_size=40, max_position_embeddings=12)), tmp_path)
        with pytest.raises(ValueError, match="the checkpoint is of BertModel, which has no head that predicts"):
            CheckpointHead(self.load(tmp_path))

    @pytest.mark.parametrize("kwargs", [{"num_labels": 1}, {"problem_type": "multi_label_classification"}])
    def test_a_head_for_something_else(self, tmp_path, kwargs):
        saved(lambda: roberta(**kwargs), tmp_path)
        with pytest.raises(ValueError, match="the checkpoint's head does not predict one class of several"):
            CheckpointHead(self.load(tmp_path))

    def test_an_architecture_of_somebody_else(self, tmp_path):
        saved(roberta, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["TheirForCausalLM"]}))
        with pytest.raises(ValueError, match="transformers has no architecture 'TheirForCausalLM'"):
            CheckpointHead(self.load(tmp_path))

    def test_an_incomplete_head(self, tmp_path):
        saved(lambda: BertModel(BertConfig(**SIZES, vocab_size=40, max_position_embeddings=12)), tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForTokenClassification"]}))
        with pytest.raises(ValueError, match=r"the checkpoint's head is incomplete .*classifier\.weight"):
            CheckpointHead(self.load(tmp_path))

    def test_a_folder_that_is_gone(self, tmp_path):
        saved(roberta, tmp_path / "model")
        model = self.load(tmp_path / "model")
        shutil.rmtree(tmp_path / "model")
        with pytest.raises(OSError):
            CheckpointHead(model)
