"""Sees what a model computes, so that features need no forward pass of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def inner_model(model: nn.Module) -> nn.Module:
    """The model itself, without the wrappers of DDP, `torch.compile` and PEFT."""
    while True:
        if callable(getattr(model, "get_base_model", None)):
            model = model.get_base_model()  # type: ignore[operator]
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            return model


class ForwardRecorder:
    """
    Keeps what the backbone and the model returned in the last forward pass, while it is entered as a context.

    The backbone is `base_model`, as most models of transformers have one. Where there is none, what the last linear
    layer was given takes its place: the features that a classifier sees.

    Args:
        model (`nn.Module`): The model that is called, wrapped or not.

    Attributes:
        model (`nn.Module`): The model without wrappers.
        output (`Any`): What was returned; `None` before the first pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = inner_model(model)
        self.output: Any = None
        # PEFT calls the `forward` of what it wraps, past the hooks.
        self._called = model
        self._backbone_output: Any = None
        self._linear_input: Any = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ForwardRecorder:
        backbone = getattr(self.model, "base_model", None)
        if isinstance(backbone, nn.Module) and backbone is not self.model:
            self._handles.append(backbone.register_forward_hook(self._keep_backbone))
        else:
            # The layers of an adapter are parts of the layer that it adapts.
            modules = [module for name, module in self.model.named_modules() if "lora_" not in name]
            linear = [module for module in modules if isinstance(module, nn.Linear)]
            self._handles += [module.register_forward_pre_hook(self._keep_input) for module in linear]
        self._handles.append(self._called.register_forward_hook(self._keep_output))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def clear(self) -> None:
        """Forget the last pass."""
        self._backbone_output = self._linear_input = self.output = None

    @property
    def backbone_output(self) -> Any:
        """What the backbone returned; a bare backbone is the model itself."""
        bare = any(hasattr(self.output, name) for name in ("last_hidden_state", "pooler_output"))
        found = (self._backbone_output, self.output if bare else self._linear_input, self.output)
        return next((item for item in found if item is not None), None)

    @property
    def logits(self) -> torch.Tensor | None:
        """The model's predictions; `None` where it returned none."""
        output = self.output
        if isinstance(output, dict):
            logits = self._head_of_log_probabilities() if "log_probs" in output else output.get("logits")
        elif isinstance(output, (tuple, list)):
            # A loss, which has no dimension, comes first where there are labels.
            logits = next((item for item in output if isinstance(item, torch.Tensor) and item.ndim > 0), None)
        else:
            logits = output
        return logits if isinstance(logits, torch.Tensor) and logits.ndim > 0 else None

    def _head_of_log_probabilities(self) -> torch.Tensor | None:
        """
        The logits of a language model that returned nothing but the log-probabilities of the labels, as TRL has it do.

        A scale or a soft cap of some architectures is left out: it changes no prediction.
        """
        head: Any = self.model.get_output_embeddings()  # type: ignore[operator]
        hidden = getattr(self._backbone_output, "last_hidden_state", None)
        return None if head is None or hidden is None else head(hidden)

    def _keep_backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        self._backbone_output = output

    def _keep_input(self, module: nn.Module, args: Any) -> None:
        self._linear_input = args[0]

    def _keep_output(self, module: nn.Module, args: Any, output: Any) -> None:
        self.output = output
