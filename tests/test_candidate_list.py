from __future__ import annotations

import peft
import pytest
import tiny
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_iomt.candidate_list import kind_of_tuning, nominal_unit, trains_linear_head


def of_size(count):
    """A model of so many parameters, which take no memory."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(int(count), device="meta"))
    return model


@pytest.mark.parametrize(
    "count, rate", [(110e6, 5e-5), (880e6, 2.5e-5), (7e9, 1.3e-5), (13.75e6, 1e-4), (1e5, 5e-4), (10, 5e-4)]
)
def test_the_usual_rate_falls_with_the_third_root_of_the_size(count, rate):
    assert nominal_unit(of_size(count)) == pytest.approx(rate, rel=1e-9)


def test_it_falls_as_the_rates_of_gpt3_do():
    """Sizes and learning rates of table 2.1 of Brown et al. (2020)."""
    rates = {
        125e6: 6e-4,
        350e6: 3e-4,
        760e6: 2.5e-4,
        1.3e9: 2e-4,
        2.7e9: 1.6e-4,
        6.7e9: 1.2e-4,
        13e9: 1e-4,
        175e9: 6e-5,
    }
    shares = [rate / nominal_unit(of_size(count)) for count, rate in rates.items()]
    assert max(shares) / min(shares) < 1.6


def test_adapters_count_the_model_that_they_are_on():
    def llama(layers):
        with torch.device("meta"):
            return LlamaForCausalLM(
                LlamaConfig(vocab_size=32000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers)
            )

    sizes = [sum(item.numel() for item in llama(layers).parameters()) for layers in (3, 30)]
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    rates = [nominal_unit(peft.get_peft_model(llama(layers), config)) for layers in (3, 30)]
    assert rates == pytest.approx([1e-3 * (size / 110e6) ** (-1 / 3) for size in sizes], rel=0.05)
    assert rates[0] > 1.5 * rates[1]


def test_a_head_has_the_same_on_any_model():
    model = tiny.bert()
    model.bert.requires_grad_(False)
    assert kind_of_tuning(model) == "head" and nominal_unit(model) == 3e-3
    model.bert.more = nn.Parameter(torch.empty(int(1e9), device="meta"), requires_grad=False)
    assert nominal_unit(model) == 3e-3


def test_a_linear_head_is_nothing_but_one_or_two_linear_layers():
    def tuned(*names):
        model = tiny.bert()
        for name, item in model.named_parameters():
            item.requires_grad_(name.startswith(names))
        return model

    # A large model, so that all of these are heads.
    for names, linear in (
        (("classifier",), True),
        (("classifier", "bert.pooler"), True),
        # Only its bias; a norm as well; a third layer.
        (("classifier.bias",), False),
        (("classifier", "bert.embeddings.LayerNorm"), False),
        (("classifier", "bert.pooler", "bert.encoder.layer.0.attention.self.query"), False),
    ):
        model = tuned(*names)
        model.bert.more = nn.Parameter(torch.empty(int(1e9), device="meta"), requires_grad=False)
        assert kind_of_tuning(model) == "head" and trains_linear_head(model) == linear, names
    assert not trains_linear_head(tiny.bert()) and not trains_linear_head(tiny.lora())
    # All of the model is no head.
    assert not trains_linear_head(nn.Linear(4, 2))


def test_weights_of_four_bits_count_as_many_as_they_are():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = bitsandbytes.nn.Linear4bit(1024, 1024, bias=False)
    linear.load_state_dict({"weight": torch.randn(1024, 1024)})
    linear = linear.to("cpu")
    assert linear.weight.numel() == 1024 * 512
    # So few of the numbers train that it is a head, which it would not be by the bytes.
    model = nn.ModuleList([linear, nn.Linear(256, 256)])
    assert kind_of_tuning(model) == "head"
