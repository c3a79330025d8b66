"""Odd parameters, adapters and models."""

from __future__ import annotations

import peft
import pytest
import tiny
import torch
from odd import FAMILIES, assert_resumes, check, failing, make
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.usefixtures("small_heap")


class Branches(nn.Module):
    """Two branches of which a batch uses one, by its first token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(32, 4)
        self.branches = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, input_ids, attention_mask=None, labels=None):
        # The third is never used.
        logits = self.branches[int(input_ids[0, 0]) % 2](self.embedding(input_ids).mean(1))
        return nn.functional.cross_entropy(logits, labels), logits


class TestParameters:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_without_gradients_in_some_steps(self, tmp_path, family):
        """Families make the state of a parameter when it first has a gradient."""
        settings = {"iomt_candidates": f"{family}:lr=0.01; sgd:lr=0.02", "per_device_train_batch_size": 1}
        unused = Branches().branches[2].weight
        whole = assert_resumes(
            tmp_path, Branches, steps=(12,), save_steps=12, max_steps=24, iomt_switch_steps=3, **settings
        )
        check(whole, 24)
        assert torch.equal(whole.model.branches[2].weight, unused)
        assert not torch.equal(whole.model.branches[0].weight, Branches().branches[0].weight)

    def test_frozen_ones_stay(self, tmp_path):
        model = tiny.bert()
        model.bert.embeddings.requires_grad_(False)
        frozen = {name: item.clone() for name, item in model.bert.embeddings.state_dict().items()}
        trainer = make(tmp_path, model)
        trainer.train()
        check(trainer)
        tiny.assert_same(frozen, model.bert.embeddings.state_dict())
        assert not torch.equal(model.classifier.weight, tiny.bert().classifier.weight)

    def test_tied_ones_count_once(self, tmp_path):
        def model():
            torch.manual_seed(0)
            config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0)
            return GPT2LMHeadModel(config)

        class Sequences(tiny.Texts):
            def __getitem__(self, index):
                return {"input_ids": self.ids[index], "labels": self.ids[index]}

        settings = {
            "data": Sequences(),
            "iomt_candidates": "adam:lr=0.01; sgdm:lr=1e6; adagrad:lr=0.02",
            "iomt_selection": "cyclical",
            "iomt_race_steps": 0,
        }
        trainer = assert_resumes(tmp_path, model, **settings)
        history = check(trainer)
        assert trainer.model.lm_head.weight is trainer.model.transformer.wte.weight
        parameters = [item for group in trainer.interleaved_optimizer.param_groups for item in group["params"]]
        assert len(parameters) == len(set(map(id, parameters))) == len(list(trainer.model.parameters()))
        assert {item["rolled_back"] for item in history if item["family"] == "sgdm"} == {True}
        assert not torch.equal(trainer.model.lm_head.weight, model().lm_head.weight)

    def test_all_in_bfloat16(self, tmp_path):
        trainer = assert_resumes(tmp_path, lambda: tiny.bert().bfloat16(), bf16=True)
        check(trainer)
        assert {item.dtype for item in trainer.model.parameters()} == {torch.bfloat16}


def adapted(config, seed=0):
    torch.manual_seed(1)
    return peft.get_peft_model(tiny.bert(seed=seed), config)


ADAPTERS = {
    "dora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], use_dora=True),
    "rslora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], use_rslora=True),
    "modules to save": lambda: peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"]),
    "some tokens": lambda: peft.LoraConfig(
        r=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [3, 4]}
    ),
    "ia3": lambda: peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
}


class TestAdapters:
    @pytest.mark.parametrize("kind", ADAPTERS)
    def test_kinds(self, tmp_path, kind):
        trainer = assert_resumes(tmp_path, lambda: adapted(ADAPTERS[kind]()), iomt_candidates="auto")
        check(trainer)
        before, after = tiny.values(adapted(ADAPTERS[kind]())), tiny.values(trainer.model)
        # The initial A of an adapter has no gradient before B has moved, all else has.
        assert all(not torch.equal(before[name], item) for name, item in after.items())

    def test_a_b_of_zeros_and_nothing_that_moves(self, tmp_path):
        """States that are all alike have no principal components."""
        config = peft.LoraConfig(r=2, target_modules=["query", "value"])
        trainer = make(tmp_path, adapted(config), iomt_candidates="adam:lr=1e-30; sgd:lr=1e-30; adagrad:lr=1e-30")
        trainer.train()
        assert {"surrogate"} <= {record["phase"] for record in check(trainer)}
        assert all(item.abs().max() < 1e-20 for name, item in trainer.model.named_parameters() if "lora_B" in name)

    def two(self):
        model = adapted(peft.LoraConfig(r=2, target_modules=["query"]))
        model.add_adapter("second", peft.LoraConfig(r=3, target_modules=["value"]))
        return model

    def of(self, model, adapter):
        return {name: item.detach().clone() for name, item in model.named_parameters() if f".{adapter}." in name}

    def test_one_of_two_is_trained(self, tmp_path):
        trainer = assert_resumes(tmp_path, self.two)
        check(trainer)
        tiny.assert_same(self.of(self.two(), "second"), self.of(trainer.model, "second"))
        before, after = self.of(self.two(), "default"), self.of(trainer.model, "default")
        assert not any(torch.equal(item, after[name]) for name, item in before.items())

    def test_the_other_one_is_trained_next(self, tmp_path):
        model = self.two()
        trainer = make(tmp_path, model)
        trainer.train()
        first, second = self.of(model, "default"), self.of(model, "second")
        model.set_adapter("second")
        trainer.train()
        check(trainer)
        tiny.assert_same(first, self.of(model, "default"))
        assert not any(torch.equal(item, second[name]) for name, item in self.of(model, "second").items())

    def test_resuming_needs_the_same_one(self, tmp_path):
        make(tmp_path, self.two(), save_strategy="steps", save_steps=20).train()
        model = self.two()
        model.set_adapter("second")
        with pytest.raises(ValueError, match=r"other trainable parameters: .*default.* is gone"):
            make(tmp_path, model).train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))

    @pytest.mark.parametrize("bits", [8, 4])
    def test_on_quantised_weights(self, tmp_path, bits):
        bitsandbytes = pytest.importorskip("bitsandbytes")

        def model():
            torch.manual_seed(0)
            # The kernels of four bits ask for multiples of 64.
            sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
            base = BertForSequenceClassification(BertConfig(vocab_size=32, max_position_embeddings=8, **sizes))
            kind = bitsandbytes.nn.Linear8bitLt if bits == 8 else bitsandbytes.nn.Linear4bit
            part = base.bert.encoder.layer[0].attention.self
            for name in ("query", "value"):
                linear = getattr(part, name)
                quantised = kind(64, 64, **({"has_fp16_weights": False} if bits == 8 else {}))
                quantised.load_state_dict(linear.state_dict())
                setattr(part, name, quantised.to("cpu"))
            base.is_loaded_in_8bit, base.is_loaded_in_4bit = bits == 8, bits == 4
            base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
            torch.manual_seed(1)
            return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query", "value"]))

        trainer = make(tmp_path, model())
        assert {torch.int8 if bits == 8 else torch.uint8} <= {item.dtype for item in trainer.model.parameters()}
        before = tiny.values(trainer.model)
        trainer.train()
        check(trainer)
        assert any(not torch.equal(before[name], item) for name, item in tiny.values(trainer.model).items())


class Tuple(nn.Module):
    """A model of plain PyTorch with batch normalisation, which returns a tuple."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(32, 8)
        self.norm = nn.BatchNorm1d(8)
        self.linear = nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.linear(self.norm(self.embedding(input_ids[:, 0])))
        return nn.functional.cross_entropy(logits, labels), logits


class TestModels:
    @pytest.mark.parametrize("score", ["trend", "probe"])
    def test_a_tuple_and_batch_normalisation(self, tmp_path, score):
        trainer = assert_resumes(tmp_path, Tuple, iomt_score=score)
        check(trainer)
        texts = tiny.Texts()
        loss = [float(model.eval()(texts.ids, labels=texts.labels)[0]) for model in (Tuple(), trainer.model)]
        assert loss[1] < loss[0]

    def test_running_statistics_come_back_too(self, tmp_path):
        trainer = make(tmp_path, Tuple(), failing(lambda *_: True, "gradients"), iomt_race_steps=0)
        trainer.train()
        assert {record["rolled_back"] for record in check(trainer)} == {True}
        tiny.assert_same(tiny.values(Tuple()), tiny.values(trainer.model))
        assert 0 < trainer.model.norm.num_batches_tracked < 40

    @pytest.mark.parametrize("score", ["trend", "probe"])
    def test_a_loss_function_that_needs_the_number_of_items(self, tmp_path, score):
        def loss(outputs, labels, num_items_in_batch):
            return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

        settings = {"iomt_score": score, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
        trainer = make(tmp_path, tiny.bert(), loss=loss, **settings)
        trainer.train()
        check(trainer)
        plain = make(tmp_path, tiny.bert(), **settings)
        plain.train()
        assert [item["score"] for item in trainer.iomt_history[:3]] == pytest.approx(
            [item["score"] for item in plain.iomt_history[:3]], abs=1e-3
        )
