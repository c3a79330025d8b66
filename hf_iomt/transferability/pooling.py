"""One feature vector per sample from what a backbone returned."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

Pooling: TypeAlias = Literal["first", "last", "mean"]


def choose_pooling(output: Any, config: Any = None, first_token: bool = True, bidirectional: bool = False) -> Pooling:
    """
    Which tokens of the last hidden state stand for the sample: what most heads of transformers look at.

    The `"last"` real token of decoders, the `"first"` token ([CLS]) where the model has one to look at, else the
    `"mean"` over the real tokens. The settings `classifier_pooling` and `summary_type` of a configuration come first.

    Args:
        output (`ModelOutput` or `tuple`): What the backbone returned.
        config (`Any`, *optional*): The model's configuration.
        first_token (`bool`, *optional*, defaults to `True`): Whether the first token is there to summarise the sample.
        bidirectional (`bool`, *optional*, defaults to `False`): Whether it is certainly no decoder.
    """
    if getattr(output, "encoder_last_hidden_state", None) is not None:
        return "last"
    named = getattr(config, "classifier_pooling", None) or getattr(config, "summary_type", None)
    if named in ("mean", "first", "last", "cls"):
        return "first" if named == "cls" else named
    fields = getattr(type(output), "__dataclass_fields__", {})
    if not bidirectional and "past_key_values" in fields and "pooler_output" not in fields:
        return "last"
    return "first" if first_token else "mean"


def hidden_states(output: Any) -> torch.Tensor:
    """
    The last hidden state of a backbone, of its decoder where there are two, of shape (B, T, D) or (B, C, H, W).

    Raises:
        ValueError: There is none.
    """
    if isinstance(getattr(output, "last_hidden_state", None), torch.Tensor):
        return torch.as_tensor(output.last_hidden_state)
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(first, torch.Tensor) and first.ndim >= 2:
        return first
    raise ValueError(f"the model's backbone returned {type(output).__name__}, which has no last hidden state")


def pool(output: Any, pooling: Pooling, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Features of shape (B, D) in float32: the pooler's output, the global average of feature maps, or tokens.

    Args:
        output (`ModelOutput`, `tuple` or `torch.Tensor`): What the backbone returned.
        pooling (`str`): Which tokens to take, see `choose_pooling`.
        mask (`torch.Tensor` of shape (B, T), *optional*): 1 for real tokens, 0 for padding.
    """
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, torch.Tensor):
        return pooled.flatten(1).float()
    # Sums of many half-precision values overflow.
    hidden = hidden_states(output).float()
    if hidden.ndim != 3:
        return hidden.flatten(2).mean(-1) if hidden.ndim > 3 else hidden
    if pooling == "first":
        return hidden[:, 0]
    real = align_mask(mask, hidden)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), last_token(real)]
    return (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


def last_token(mask: torch.Tensor) -> torch.Tensor:
    """Position of the last real token in each row of a mask of shape (B, T); 0 where there is none."""
    return (mask.long() * torch.arange(mask.shape[1], device=mask.device)).argmax(1)


def spread_tokens(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of shape (B, count) spread evenly over the real tokens of each row, repeated where there are fewer."""
    lengths = mask.long().sum(1, keepdim=True).clamp(min=1)
    ranks = (torch.arange(count, device=mask.device) * lengths) // count
    # The positions of the real tokens in their order, those of padding behind them.
    order = torch.argsort(mask.long(), dim=1, descending=True, stable=True)
    return order.gather(1, ranks)


def align_mask(mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    """
    The mask for hidden states of shape (B, T, D). What comes in front of the tokens, as with prompt tuning, is real; a
    mask of something else, such as sound that was downsampled, is not used.
    """
    batch, length = hidden.shape[:2]
    if mask is None or mask.ndim != 2 or len(mask) != batch or mask.shape[1] > length:
        return hidden.new_ones(batch, length)
    return torch.nn.functional.pad(mask.to(hidden), (length - mask.shape[1], 0), value=1)
