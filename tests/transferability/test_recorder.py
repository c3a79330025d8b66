from __future__ import annotations

import peft
import pytest
import tiny
import torch
from torch import nn
from transformers import BertConfig, BertModel

from hf_iomt.transferability import ForwardRecorder, inner_model

IDS = tiny.Texts(5).ids


class Classifier(nn.Module):
    """No model of transformers; its last linear layer sees the features."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(tiny.LENGTH, 8), nn.Linear(8, 3)

    def forward(self, x):
        return {"loss": torch.zeros(()), "logits": self.last(self.first(x).relu())}


def wrapped(kind):
    model = tiny.bert()
    if kind == "lora":
        return tiny.lora(), "base_model.model"
    if kind == "compiled":
        return torch.compile(model, backend="eager"), "_orig_mod"
    if kind == "parallel":
        return nn.DataParallel(model), "module"
    if kind == "compiled lora":
        return torch.compile(tiny.lora(), backend="eager"), "_orig_mod.base_model.model"
    return model, ""


@pytest.mark.parametrize("kind", ["bare", "lora", "compiled", "parallel", "compiled lora"])
def test_the_inner_model(kind):
    model, path = wrapped(kind)
    assert inner_model(model) is model.get_submodule(path)


@pytest.mark.parametrize("kind", ["bare", "lora"])
def test_backbone_and_logits_are_those_of_the_pass(kind):
    model, _ = wrapped(kind)
    model.eval()
    with torch.no_grad(), ForwardRecorder(model) as recorder:
        assert recorder.logits is None
        output = model(input_ids=IDS)
        assert torch.equal(recorder.logits, output.logits)
        expected = inner_model(model).bert(input_ids=IDS)
        torch.testing.assert_close(recorder.backbone_output.pooler_output, expected.pooler_output)
        assert recorder.model is inner_model(model)


def test_prompt_tuning():
    model = peft.get_peft_model(tiny.bert(), peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)).eval()
    with torch.no_grad(), ForwardRecorder(model) as recorder:
        output = model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
        assert torch.equal(recorder.logits, output.logits)
        assert recorder.backbone_output.last_hidden_state.shape[:2] == (5, tiny.LENGTH + 2)


def test_a_bare_backbone_is_its_own():
    model = BertModel(BertConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).eval()
    with torch.no_grad(), ForwardRecorder(model) as recorder:
        output = model(input_ids=IDS)
        assert recorder.backbone_output is output


def test_without_a_backbone_the_features_are_what_the_last_layer_sees():
    model = Classifier()
    with torch.no_grad(), ForwardRecorder(model) as recorder:
        output = model(IDS.float())
        assert torch.equal(recorder.logits, output["logits"])
        assert torch.equal(recorder.backbone_output, model.first(IDS.float()).relu())


def test_an_adapter_of_the_last_layer_is_no_layer_of_its_own():
    model = Classifier()
    with torch.no_grad():
        features = model.first(IDS.float()).relu()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["first", "last"]))
    with torch.no_grad(), ForwardRecorder(adapted) as recorder:
        adapted(IDS.float())
        torch.testing.assert_close(recorder.backbone_output, features)


@pytest.mark.parametrize(
    "output, logits",
    [
        ((torch.zeros(()), torch.ones(2, 3), torch.zeros(2)), (2, 3)),
        ([torch.ones(2, 3)], (2, 3)),
        (torch.ones(2, 3), (2, 3)),
        ({"loss": torch.zeros(())}, None),
        ({"logits": (torch.ones(2), torch.ones(2))}, None),
        (torch.zeros(()), None),
        ("text", None),
    ],
)
def test_forms_of_output(output, logits):
    class Fixed(nn.Module):
        def forward(self):
            return output

    model = Fixed()
    with ForwardRecorder(model) as recorder:
        model()
        assert (None if recorder.logits is None else tuple(recorder.logits.shape)) == logits


@pytest.mark.parametrize("model", [tiny.bert, tiny.lora, Classifier])
def test_afterwards_nothing_is_left(model):
    model = model()
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), ForwardRecorder(model) as recorder:
        assert hooks != [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        raise RuntimeError("stop")
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert recorder.output is None and recorder.backbone_output is None
