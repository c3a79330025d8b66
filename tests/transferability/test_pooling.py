from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithNoAttention,
    BaseModelOutputWithPast,
    BaseModelOutputWithPoolingAndCrossAttentions,
    BaseModelOutputWithPoolingAndNoAttention,
    Seq2SeqModelOutput,
)

from hf_iomt.transferability import choose_pooling, pool
from hf_iomt.transferability.pooling import align_mask, hidden_states, last_token, spread_tokens

HIDDEN = torch.arange(24.0).reshape(2, 4, 3)
# Padding at the end, and in front.
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])


@pytest.mark.parametrize(
    "output, config, first_token, pooling",
    [
        (BaseModelOutput(HIDDEN), {}, True, "first"),
        (BaseModelOutput(HIDDEN), {}, False, "mean"),
        (BaseModelOutputWithPast(HIDDEN), {}, True, "last"),
        # An encoder that could be a decoder too.
        (BaseModelOutputWithPoolingAndCrossAttentions(HIDDEN), {}, True, "first"),
        (BaseModelOutput(HIDDEN), {"classifier_pooling": "mean"}, True, "mean"),
        (BaseModelOutput(HIDDEN), {"classifier_pooling": "cls"}, False, "first"),
        (BaseModelOutput(HIDDEN), {"summary_type": "last"}, True, "last"),
        (BaseModelOutputWithPast(HIDDEN), {"summary_type": "cls_index"}, True, "last"),
        (Seq2SeqModelOutput(HIDDEN, encoder_last_hidden_state=HIDDEN), {}, True, "last"),
        (torch.zeros(2, 3), None, False, "mean"),
    ],
)
def test_choice(output, config, first_token, pooling):
    assert choose_pooling(output, config and SimpleNamespace(**config), first_token) == pooling


def test_what_is_certainly_no_decoder_has_a_first_token():
    # Its output could hold the keys and values of a decoder.
    assert choose_pooling(BaseModelOutputWithPast(HIDDEN), None, True, bidirectional=True) == "first"


class TestPool:
    def test_the_pooler_comes_first(self):
        pooled = torch.randn(2, 3)
        output = BaseModelOutputWithPoolingAndCrossAttentions(HIDDEN, pooler_output=pooled)
        assert torch.equal(pool(output, "last", MASK), pooled)
        maps = BaseModelOutputWithPoolingAndNoAttention(
            torch.randn(2, 3, 5, 5), pooler_output=pooled[:, :, None, None]
        )
        assert torch.equal(pool(maps, "mean"), pooled)

    def test_feature_maps_are_averaged(self):
        maps = torch.randn(2, 3, 5, 4)
        expected = torch.stack([torch.stack([channel.mean() for channel in item]) for item in maps])
        torch.testing.assert_close(pool(BaseModelOutputWithNoAttention(maps), "mean"), expected)

    def test_first(self):
        assert torch.equal(pool(BaseModelOutput(HIDDEN), "first", MASK), HIDDEN[:, 0])

    def test_last_real(self):
        expected = torch.stack([HIDDEN[0, 1], HIDDEN[1, 3]])
        assert torch.equal(pool(BaseModelOutputWithPast(HIDDEN), "last", MASK), expected)
        assert torch.equal(pool(BaseModelOutputWithPast(HIDDEN), "last"), HIDDEN[:, 3])

    def test_mean_of_the_real(self):
        expected = torch.stack([HIDDEN[0, :2].mean(0), HIDDEN[1, 1:].mean(0)])
        torch.testing.assert_close(pool(BaseModelOutput(HIDDEN), "mean", MASK), expected)
        torch.testing.assert_close(pool(BaseModelOutput(HIDDEN), "mean"), HIDDEN.mean(1))

    def test_two_stacks_give_the_decoders_last_token(self):
        output = Seq2SeqModelOutput(HIDDEN, encoder_last_hidden_state=HIDDEN + 100)
        assert torch.equal(pool(output, "last", MASK), torch.stack([HIDDEN[0, 1], HIDDEN[1, 3]]))

    @pytest.mark.parametrize("output", [(HIDDEN[:, 0],), [HIDDEN[:, 0]], HIDDEN[:, 0]])
    def test_vectors_stay(self, output):
        assert torch.equal(pool(output, "first"), HIDDEN[:, 0])

    def test_what_prompts_put_in_front_is_real(self):
        expected = torch.stack([HIDDEN[0, :3].mean(0), HIDDEN[1].mean(0)])
        torch.testing.assert_close(pool(BaseModelOutput(HIDDEN), "mean", torch.tensor([[1, 0], [1, 1]])), expected)

    @pytest.mark.parametrize("mask", [torch.ones(2, 80), torch.ones(2, 1, 4, 4), torch.ones(3, 4)])
    def test_a_mask_of_something_else_is_not_used(self, mask):
        torch.testing.assert_close(pool(BaseModelOutput(HIDDEN), "mean", 0 * mask), HIDDEN.mean(1))

    def test_half_precision_does_not_overflow(self):
        hidden = torch.full((1, 4000, 2), 40.0, dtype=torch.float16)
        assert torch.equal(pool(BaseModelOutput(hidden), "mean"), torch.full((1, 2), 40.0))

    @pytest.mark.parametrize("output", [None, "text", (), {"logits": HIDDEN}, torch.zeros(3), SimpleNamespace()])
    def test_without_hidden_states(self, output):
        with pytest.raises(ValueError, match=f"returned {type(output).__name__}, which has no last hidden state"):
            hidden_states(output)


def test_the_last_token():
    assert last_token(MASK).tolist() == [1, 3]
    assert last_token(torch.tensor([[1, 0, 1], [0, 0, 0]])).tolist() == [2, 0]


@pytest.mark.parametrize(
    "mask, count, positions",
    [
        ([1, 1, 1, 1, 1, 1, 1, 1], 4, [0, 2, 4, 6]),
        ([0, 0, 1, 1, 1, 1, 0], 2, [2, 4]),
        ([1, 1, 0, 0], 4, [0, 0, 1, 1]),
        ([0, 1, 0, 1], 2, [1, 3]),
        ([0, 0, 0], 2, [0, 0]),
    ],
)
def test_spread_tokens(mask, count, positions):
    assert spread_tokens(torch.tensor([mask]), count).tolist() == [positions]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_hidden_states_may_lie_on_another_device_than_the_mask(pooling):
    hidden = torch.zeros(2, 3, 4, device="meta")
    mask = torch.ones(2, 2)
    assert align_mask(mask, hidden).is_meta
    assert pool(SimpleNamespace(last_hidden_state=hidden), pooling, mask).shape == (2, 4)
