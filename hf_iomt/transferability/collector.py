"""Gathers what the metrics need, batch by batch, while a model is evaluated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .metrics import Sample
from .performance import PERFORMANCE_NAMES, performance, performance_rows
from .pooling import align_mask, choose_pooling, hidden_states, last_token, pool, spread_tokens
from .recorder import ForwardRecorder
from .source import SourceHead, most_probable, sparse_probabilities
from .task import IGNORED, Task, find_task

# Tokens whose predictions stand for a text, where a masked language model is the source.
_SOURCE_TOKENS = 4

Tensors = dict[str, torch.Tensor]


class Collector:
    """
    Turns each forward pass into features, labels, source predictions and performance: a few numbers per sample.

    Labels per token count as samples of their own, of which a few are drawn from each sequence.

    Args:
        recorder ([`ForwardRecorder`]): Sees the forward passes.
        make_source_head (`Callable`): Gives the [`SourceHead`], or raises the reason why there is none. Called when it
            is needed first: language models use their own head.
        gather (`Callable`): Collects a dictionary of tensors over all processes, along their first dimension.
        tokens (`int`): How many tokens of a sequence to draw.
        limit (`int`): How many samples, or tokens, the metrics see at most.
        seed (`int`): Seed of the draw.

    Attributes:
        task (`Task`, *optional*): The kind of labels, once there was a batch.
        obstacle (`str`, *optional*): Why nothing can be collected.
        missing (`dict[str, str]`): Why `performance`, `features` or `source_probabilities` are not there.
    """

    def __init__(
        self,
        recorder: ForwardRecorder,
        make_source_head: Callable[[], SourceHead],
        gather: Callable[[Tensors], Tensors],
        tokens: int,
        limit: int,
        seed: int,
    ) -> None:
        self.task: Task | None = None
        self.obstacle: str | None = None
        self.missing: dict[str, str] = {}
        self._recorder = recorder
        self._make_source_head = make_source_head
        self._source_head: SourceHead | None = None
        self._gather = gather
        self._tokens = tokens
        self._limit = limit
        self._generator = torch.Generator().manual_seed(seed)
        self._config = getattr(recorder.model, "config", None)
        self._summarised = _has_summary_token(recorder.model)
        self._bidirectional = _is_bidirectional(recorder.model)
        self._kept: dict[str, list[torch.Tensor]] = {}

    def add(self, inputs: Mapping[str, Any], labels: Sequence[Any]) -> None:
        """
        Take the pass that was just made. All processes must call it equally often; it never raises.

        Args:
            inputs (`Mapping[str, Any]`): What the model was given.
            labels (`Sequence[Any]`): The labels of the batch: one tensor of shape (B,), (B, K) or (B, T) is what the
                metrics are defined for.
        """
        tensors: Tensors = {}
        if self.obstacle is None:
            try:
                with torch.no_grad():
                    tensors = self._collect(inputs, labels)
            except Exception as error:
                self.obstacle = str(error) or type(error).__name__
        self._recorder.clear()
        gathered = self._gather(tensors)
        if self.obstacle is None and "valid" not in gathered:
            self.obstacle = "it failed on another process"
        for name, value in gathered.items():
            self._kept.setdefault(name, []).append(value)

    def performance(self) -> tuple[str, float]:
        """ω_p by the logits, after its name. Raises a ValueError that says why there is none."""
        if self.obstacle is not None or self.task is None or not self._complete("rows"):
            raise ValueError(self.obstacle or self.missing.get("performance", "there were no samples"))
        return PERFORMANCE_NAMES[self.task], performance(self.task, torch.cat(self._kept["rows"]).cpu())

    def sample(self) -> Sample:
        """What the metrics ω_d see, on the CPU. Raises a ValueError that says why there is nothing."""
        if self.obstacle is not None or "valid" not in self._kept:
            raise ValueError(self.obstacle or "there were no samples")
        chosen = torch.cat(self._kept["valid"]).flatten().nonzero().flatten()[: self._limit]

        def take(name: str) -> Any:
            return torch.cat(self._kept[name]).flatten(0, 1)[chosen].cpu().numpy()

        source = None
        if self._complete("probabilities") and len(chosen):
            source = sparse_probabilities(take("probabilities"), take("classes"))
        features = take("features") if self._complete("features") else None
        return Sample(take("labels"), features, source, self.missing)

    def _complete(self, name: str) -> bool:
        """Whether something was collected in every batch, on all processes."""
        return len(self._kept.get(name, [])) == len(self._kept.get("valid", [])) > 0

    def _collect(self, inputs: Mapping[str, Any], labels: Sequence[Any]) -> Tensors:
        if len(labels) != 1:
            raise ValueError("the data has several kinds of labels")
        if not isinstance(labels[0], torch.Tensor):
            raise ValueError("the data has no labels")
        if getattr(self._recorder.model, "loss_type", None) == "ForCTC":
            raise ValueError("the labels are not aligned with the predictions")
        logits = self._recorder.logits
        target = labels[0] if logits is None else labels[0].to(logits.device)
        if logits is not None and len(logits) != len(target):
            raise ValueError(f"the model made {len(logits)} rows of predictions for {len(target)} labels")
        self.task = self.task or find_task(target, logits, self._config)
        if self.task not in ("tokens", "language_model"):
            return self._of_samples(inputs, target, logits)
        if logits is None:
            raise ValueError("the model returned no logits")
        return self._of_tokens(inputs, target, logits)

    def _of_samples(self, inputs: Mapping[str, Any], labels: torch.Tensor, logits: torch.Tensor | None) -> Tensors:
        """One label, or one row of them, per sample."""
        count, output = len(labels), self._recorder.backbone_output
        labels = labels.reshape(count) if self.task == "classification" else labels.float().reshape(count, -1)
        valid = labels != IGNORED if self.task == "classification" else torch.isfinite(labels).all(1)
        tensors = {"labels": labels, "valid": valid}
        if self.task is not None and logits is not None:
            tensors["rows"] = performance_rows(self.task, logits, labels)
        else:
            self.missing["performance"] = "the model returned no logits"
        pooling = choose_pooling(output, self._config, self._summarised, self._bidirectional)
        mask = _real_tokens(inputs, self._config, by_ids=pooling == "last")
        with self._leaving_out("features"):
            features = pool(output, pooling, mask).float()
            if len(features) != count:
                raise ValueError(f"the backbone gave {len(features)} rows of features for {count} samples")
            tensors["features"] = features.to(labels.device)
        with self._leaving_out("source_probabilities"):
            if self.task != "classification":
                raise ValueError("the labels are not one class of several")
            head, positions = self._head(), labels[:, None]
            if head.per_token:
                real = align_mask(mask, hidden_states(output))
                positions = last_token(real)[:, None] if pooling == "last" else spread_tokens(real, _SOURCE_TOKENS)
            source = head(output, inputs, positions).float().softmax(-1).to(labels.device)
            source = source.mean(1) if source.ndim == 3 else source
            if len(source) != count:
                raise ValueError(f"the checkpoint's head made {len(source)} rows of predictions for {count} samples")
            tensors["probabilities"], tensors["classes"] = most_probable(source)
        return {name: value if name == "rows" else value[:, None] for name, value in tensors.items()}

    def _of_tokens(self, inputs: Mapping[str, Any], labels: torch.Tensor, logits: torch.Tensor) -> Tensors:
        """One label per token: a few tokens of each sequence."""
        output, length = self._recorder.backbone_output, labels.shape[1]
        # Prompt tuning puts tokens in front that have no labels.
        front = logits.shape[1] - length
        ids = inputs.get("input_ids")
        if front < 0 or (front > 0 and not (isinstance(ids, torch.Tensor) and ids.shape[1] == length)):
            raise ValueError("the labels are not aligned with the predictions")
        logits = logits[:, front:]
        own = self.task == "language_model"
        if own and _predicts_next(self._recorder.model):
            logits, labels = logits[:, :-1], labels[:, 1:]
        positions, valid = self._draw(labels != IGNORED)
        tensors = {"labels": labels.gather(1, positions), "valid": valid}
        with self._leaving_out("features"):
            if own:
                raise ValueError("the labels are the tokens of a vocabulary, most of which are too rare")
            hidden = hidden_states(output)
            if hidden.shape[:2] != (len(labels), front + length):
                raise ValueError(f"the hidden states have shape {tuple(hidden.shape)}, with {length} labels per row")
            tensors["features"] = _at(hidden, positions + front).float().to(labels.device)
        with self._leaving_out("source_probabilities"):
            if own:
                source = _at(logits, positions)
            elif self._head().per_token:
                source = self._head()(output, inputs, positions + front)
            else:
                raise ValueError("the checkpoint's head predicts one class per sample, the labels are per token")
            tensors["probabilities"], tensors["classes"] = most_probable(source.float().softmax(-1).to(labels.device))
        return {**tensors, "rows": performance_rows("tokens", logits, labels)}

    def _head(self) -> SourceHead:
        if "source_probabilities" in self.missing:
            raise ValueError(self.missing["source_probabilities"])
        self._source_head = self._source_head or self._make_source_head()
        return self._source_head

    def _draw(self, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Random positions of shape (B, M) among the valid ones, and which of them are valid: M is the same always."""
        keys = torch.rand(valid.shape, generator=self._generator).to(valid.device).masked_fill(~valid, -1)
        keys = torch.nn.functional.pad(keys, (0, max(0, self._tokens - keys.shape[1])), value=-1)
        keys, positions = keys.topk(self._tokens, dim=1)
        return positions.clamp(max=valid.shape[1] - 1), keys >= 0

    @contextmanager
    def _leaving_out(self, name: str) -> Iterator[None]:
        """Models differ in more ways than can be foreseen, and what cannot be had is left out of Eq. 6, not fatal."""
        try:
            yield
        except Exception as error:
            self.missing[name] = str(error) or type(error).__name__


def _at(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Vectors of shape (B, M, D) at positions of shape (B, M) in values of shape (B, T, D)."""
    return values.gather(1, positions.to(values.device)[..., None].expand(-1, -1, values.shape[-1]))


def _real_tokens(inputs: Mapping[str, Any], config: Any, by_ids: bool) -> torch.Tensor | None:
    """1 for real tokens and 0 for padding, of shape (B, T), where the inputs tell; decoders' heads go by the ids."""
    mask, ids, padding = inputs.get("attention_mask"), inputs.get("input_ids"), getattr(config, "pad_token_id", None)
    told = ids != padding if isinstance(ids, torch.Tensor) and padding is not None else None
    given = mask if isinstance(mask, torch.Tensor) else None
    return told if given is None or (by_ids and told is not None) else given


def _has_summary_token(model: torch.nn.Module) -> bool:
    """Whether heads look at the first token: the class token of vision models, [CLS] in classifiers of texts."""
    if getattr(model, "main_input_name", None) == "pixel_values":
        return any(name.endswith("cls_token") for name, _ in model.named_parameters())
    text = getattr(model, "main_input_name", None) == "input_ids"
    return text and getattr(model, "loss_type", None) == "ForSequenceClassification"


def _is_bidirectional(model: torch.nn.Module) -> bool:
    """Whether tokens see those that follow: architectures that are pre-trained as masked language models."""
    return any(name.endswith("ForMaskedLM") for name in vars(sys.modules[type(model).__module__]))


def _predicts_next(model: torch.nn.Module) -> bool:
    """Whether a language model's prediction at a token is of the token that follows."""
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return not encoder_decoder and getattr(model, "loss_type", None) != "ForMaskedLM"
