"""The model card of a run, from the files of its folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from .card_evaluation import merge_results, read_evaluation
from .card_sections import describe_run
from .card_template import fill_template, is_blank, outside_section, place_section
from .card_text import Base, correct_claims, introduce
from .report import Run, draw_run, read_run

CARD_NAME = "README.md"
FIGURE_NAME = "iomt_run.png"
ADAPTER_NAME = "adapter_config.json"
CONFIG_NAME = "config.json"

logger = logging.getLogger(__name__)

# Of the figure: its lines, its shades and what smooths their edges.
_COLOURS = 128
# Tasks as the Hub names them, by what the class of the model ends with and by PEFT's task types.
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "image-segmentation",
    "ForAudioClassification": "audio-classification",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
# Tasks of the classes whose names end alike, as transformers has them; of several the first.
_TASKS_BY_CLASS = ("automatic-speech-recognition", "image-text-to-text", "text2text-generation")
# Of the metrics that are told in the card, those that the Hub knows.
_KNOWN_METRICS = {
    *("accuracy", "bleu", "exact_match", "f1", "matthews_correlation", "mse", "pearsonr", "perplexity", "precision"),
    *("recall", "rouge", "sacrebleu", "spearmanr", "wer"),
}


# How the tag begins that names the model of an adapter.
_ADAPTS = "base_model:adapter:"


@dataclass
class CardDetails:
    """
    What the files of a run do not tell, or tell otherwise.

    Args:
        name (`str`, *optional*): Name of the model; by default that of the card, or of the folder.
        base_model (`str`, *optional*): Hub id of the model that was tuned. Needed where that was a local folder.
        dataset (`str`, *optional*): Hub id of the data.
        task (`str`, *optional*): The task as the Hub names it, such as `"text-classification"`.
        license (`str`, *optional*): Identifier of the licence, such as `"apache-2.0"`.
        tags (`list[str]`): Tags to add.
    """

    name: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    task: str | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for option in ("base_model", "dataset"):
            value = getattr(self, option)
            if value is not None and hub_id(value) is None:
                raise ValueError(
                    f"`{option}` must be an id on the Hub, such as 'google-bert/bert-base-uncased', but got {value!r}."
                )


def write_model_card(folder: str | os.PathLike[str], details: CardDetails | None = None, draw: bool = True) -> Path:
    """
    Write or renew the card of a run: `README.md`, and the figure `iomt_run.png` where matplotlib is installed.

    What the card says already is kept. The section that tells how the optimizer was chosen is put in the place of the
    one before, or at the end. Nothing but the files of the folder is read.

    Args:
        folder (`str` or `PathLike`): Output folder of a run, or one of its checkpoints.
        details ([`CardDetails`], *optional*): What the files do not tell.
        draw (`bool`, *optional*, defaults to `True`): Draw the figure anew.

    Returns:
        `Path`: The card.

    Raises:
        FileNotFoundError: The folder has no `iomt_history.json`.
        ValueError: The card that is there, or a file of the run, cannot be read.
    """
    folder, details = Path(folder), details or CardDetails()
    run = read_run(folder)
    path = folder / CARD_NAME
    try:
        card = ModelCard.load(path) if path.exists() else ModelCard("---\n{}\n---\n")
    except Exception as error:
        # YAML's errors are no ValueError.
        raise ValueError(f"{path} has metadata that cannot be read: {error}. Correct or delete it.") from error
    adapter, config = _read_json(folder / ADAPTER_NAME), _read_json(folder / CONFIG_NAME)
    data = cast(ModelCardData, card.data)
    task = details.task or data.pipeline_tag or _infer_task(adapter, config)
    base = _find_base(run, data, details, adapter)
    evaluation = read_evaluation(folder, run.log_history)
    name = details.name or data.model_name or folder.absolute().name
    _complete_metadata(data, details, base, task, bool(adapter) or bool((run.record or {}).get("peft")))
    data.eval_results = merge_results(data.eval_results, evaluation, task, details.dataset) or data.eval_results
    # The Hub knows the name as a part of the results.
    data.model_name = name if data.eval_results else data.model_name
    known = sorted(_KNOWN_METRICS & set(evaluation))
    data.metrics = data.metrics or known or None
    if draw:
        _draw(run, folder)
    own = "" if is_blank(card.text) else outside_section(card.text)
    values = describe_run(run, evaluation={} if "on the evaluation set" in own else evaluation)
    values |= {
        "name": name,
        "introduction": introduce(base, adapter, task, details.dataset),
        "figure": f"![The run]({FIGURE_NAME})" if (folder / FIGURE_NAME).exists() else "",
    }
    beginning, section = fill_template(values)
    card.text = place_section(correct_claims(card.text, base), section, beginning)
    card.save(path)
    return path


def hub_id(name: str | None) -> str | None:
    """The name where it can be that of a repository on the Hub, and is no folder here."""
    if not name or os.path.isdir(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def find_task(name: str) -> str | None:
    """The task as the Hub names it, by the class of a model or PEFT's type of a task; `None` where it is unknown."""
    found = next((task for ending, task in _TASKS.items() if name.endswith(ending)), None)
    if found is not None:
        return found
    # Imported only for those, because it takes a second.
    from transformers.modelcard import TASK_MAPPING

    classes = cast(dict[str, dict[str, str]], TASK_MAPPING)
    return next((task for task in _TASKS_BY_CLASS if name in classes[task].values()), None)


def _infer_task(adapter: dict[str, Any], config: dict[str, Any]) -> str | None:
    mapping = adapter.get("auto_mapping") or {}
    names = [adapter.get("task_type"), mapping.get("base_model_class"), *(config.get("architectures") or [])]
    return next((task for name in names if name and (task := find_task(str(name)))), None)


def _find_base(run: Run, data: ModelCardData, details: CardDetails, adapter: dict[str, Any]) -> Base:
    """The model that was tuned: its id on the Hub, or the name of the folder it was in."""
    given = data.base_model[0] if isinstance(data.base_model, list) and data.base_model else data.base_model
    record = run.record or {}
    names = [details.base_model, given, adapter.get("base_model_name_or_path"), record.get("model")]
    found = [str(name) for name in names if name]
    # A relative path looks like an id where the folder is not.
    folder = record.get("model") if record.get("model_is_folder") else None
    on_hub = details.base_model or next((name for name in found if name != folder and hub_id(name)), None)
    return Base(on_hub, Path(found[0]).name if found else None)


def _complete_metadata(data: ModelCardData, details: CardDetails, base: Base, task: str | None, adapts: bool) -> None:
    # sentence-transformers loads adapters itself.
    if adapts and data.library_name in (None, "transformers"):
        data.library_name = "peft"
    data.library_name = data.library_name or "transformers"
    data.pipeline_tag = data.pipeline_tag or task
    data.license = details.license or data.license
    if details.dataset is not None:
        data.datasets = _with_dataset(data.datasets, details.dataset)
    # The Hub refuses a card whose base model is a folder.
    if details.base_model is not None or not isinstance(data.base_model, list):
        data.base_model = base.on_hub
    own = f"{_ADAPTS}{base.on_hub}"
    # Those of folders are none.
    tags = [tag for tag in (*(data.tags or []), *details.tags, "iomt") if not tag.startswith(_ADAPTS) or tag == own]
    data.tags = _unique([own, *tags] if base.on_hub is not None and data.library_name == "peft" else tags)


def _with_dataset(known: str | list[str] | None, dataset: str) -> str | list[str]:
    """The data sets of the card with that of the run, which takes the place of a single one."""
    if isinstance(known, list) and len(known) > 1:
        return _unique([*known, dataset])
    return known if known == [dataset] else dataset


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _draw(run: Run, folder: Path) -> None:
    # Names with an underscore are not pushed: a push may be reading the folder.
    unfinished = folder / f"_{FIGURE_NAME}"
    try:
        draw_run(run, unfinished)
        _shrink(unfinished)
    except ModuleNotFoundError as error:
        logger.info("No figure in the card (%s). Install matplotlib: pip install 'hf-iomt[plots]'.", error)
        return
    except Exception:
        # A model is not to be lost to its picture.
        logger.warning("The figure of the card could not be drawn.", exc_info=True)
        return
    unfinished.replace(folder / FIGURE_NAME)


def _shrink(picture: Path) -> None:
    """A palette serves a chart as well, in a third of the size: a repository keeps every version that is pushed."""
    # matplotlib depends on it.
    from PIL import Image

    with Image.open(picture) as opened:
        reduced = opened.convert("RGB").quantize(_COLOURS)
    reduced.save(picture, optimize=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
