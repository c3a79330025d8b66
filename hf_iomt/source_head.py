"""The pre-trained head of the checkpoint that a model was loaded from, also where a new head has replaced it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

# Parts of the names of architectures whose heads predict classes: of a sample, or of each token.
_SAMPLE_HEADS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForAudioClassification",
)
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM")
_TOKEN_HEADS = (*_LANGUAGE_MODELS, "ForTokenClassification")


class CheckpointHead:
    """
    Applies the head of a checkpoint to what the backbone of another model has computed.

    The architecture that the checkpoint names is built with a single layer, its head is loaded, and its backbone is
    replaced by one that hands on what it is given. Nothing is downloaded: the files are where the model came from.

    Args:
        model (`nn.Module`): The model that is tuned, without wrappers.

    Raises:
        ValueError: There is no checkpoint, or it has no head that predicts classes or tokens.
        OSError: The checkpoint is not there any more.
    """

    def __init__(self, model: nn.Module) -> None:
        path = getattr(model, "name_or_path", "")
        if not isinstance(model, PreTrainedModel) or not path:
            raise ValueError("the model does not come from a checkpoint")
        origin: dict[str, Any] = {"revision": getattr(model.config, "_commit_hash", None), "local_files_only": True}
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **origin)
        name = (config.architectures or [""])[0]
        architecture = getattr(transformers, name, None)
        if architecture is None:
            raise ValueError(f"transformers has no architecture {name!r}, which the checkpoint names")
        if not _has_any(name, (*_SAMPLE_HEADS, *_TOKEN_HEADS)):
            raise ValueError(f"the checkpoint is of {name}, which has no head that predicts classes or tokens")
        single_label = config.num_labels > 1 and config.problem_type in (None, "single_label_classification")
        if not single_label and not _has_any(name, _LANGUAGE_MODELS):
            raise ValueError("the checkpoint's head does not predict one class of several")
        self.per_token = _has_any(name, _TOKEN_HEADS)
        origin |= {"dtype": model.dtype, "output_loading_info": True}
        with _silence():
            try:
                source, loading = architecture.from_pretrained(path, config=_with_one_layer(config), **origin)
            except Exception:
                # Some configurations tie other settings to the number of layers.
                source, loading = architecture.from_pretrained(path, config=config, **origin)
        prefix = source.base_model_prefix
        lost = [key for key in loading["missing_keys"] if not key.startswith(f"{prefix}.")]
        if lost or source.base_model is source:
            raise ValueError(f"the checkpoint's head is incomplete or no part of its own: {', '.join(lost) or name}")
        self._backbone = _Given()
        setattr(source, prefix, self._backbone)
        self._source = source.to(model.device).eval()
        self._accepted = set(inspect.signature(source.forward).parameters) - {"labels"}

    @torch.no_grad()
    def __call__(self, backbone_output: Any, inputs: Mapping[str, Any], positions: torch.Tensor) -> torch.Tensor:
        """
        Logits of the source task.

        Args:
            backbone_output (`ModelOutput`): What the backbone of the tuned model returned.
            inputs (`Mapping[str, Any]`): What the tuned model was given.
            positions (`torch.Tensor` of shape (B, M)): The tokens to predict from, where the head is `per_token`.

        Returns:
            `torch.Tensor` of shape (B, M, Z) where the head is `per_token`, else (B, Z).
        """
        # A model may lie on several devices, and its last layers on another than its first.
        outputs = backbone_output.values() if isinstance(backbone_output, Mapping) else ()
        device = next((item.device for item in outputs if isinstance(item, torch.Tensor)), self._source.device)
        self._source.to(device)
        if self.per_token:
            hidden, positions = backbone_output.last_hidden_state, positions.to(device)
            taken = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
            backbone_output = type(backbone_output)(last_hidden_state=taken)
        elif isinstance(inputs.get("input_ids"), torch.Tensor):
            hidden = getattr(backbone_output, "last_hidden_state", None)
            if hidden is not None and hidden.shape[1] != inputs["input_ids"].shape[1]:
                raise ValueError("prompts in front of the text move the tokens that the checkpoint's head looks for")
        self._backbone.output = backbone_output
        accepted = {name: value for name, value in inputs.items() if name in self._accepted}
        logits = self._source(**send_to_device(accepted, device)).logits
        self._backbone.output = None
        return torch.as_tensor(logits)


class _Given(nn.Module):
    """Stands for a backbone whose output is known."""

    output: Any = None

    @property
    def decoder(self) -> _Given:
        """Some heads call a part of their backbone."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


class _silence:
    """transformers reports all layers that are in the checkpoint and not in the model."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        self._bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)
        if self._bar:
            transformers_logging.enable_progress_bar()


def _has_any(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def _with_one_layer(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the same model with one layer, where it counts its layers."""
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        return config
    values = config.to_dict()
    for name, value in values.items():
        if isinstance(value, list) and len(value) == layers and name.startswith("layer"):
            values[name] = value[:1]
    values["num_hidden_layers"] = 1
    return type(config).from_dict(values)
