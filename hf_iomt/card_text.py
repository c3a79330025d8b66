"""What a card says besides the section: the beginning of a new one, and claims of others that IOMT makes untrue."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

SECTION_LINK = "[below](#how-the-optimizer-was-chosen)"
_CHOSEN = f"chosen while training, see {SECTION_LINK}"
# Lines on the optimizer that args name, in the cards of Trainer and of sentence-transformers.
_SETTING = re.compile(r"^- (`?)(learning_rate|optim|optim_args)\1: .*$", re.MULTILINE)
_OPTIMIZER = re.compile(r"^- optimizer: Use [^\n]*(?:\n(?!- )[^\n]+)*", re.MULTILINE)
# What trainers write of a model that came from a folder or from a configuration.
_NO_BASE = re.compile(
    r"(?P<this>This model) (?:was trained from scratch|is a fine-tuned version of "
    r"\[(?:None)?\]\(https://huggingface\.co/(?:None)?\))"
)


@dataclass(frozen=True)
class Base:
    """
    The model that was tuned.

    Args:
        on_hub (`str`, *optional*): Its id on the Hub.
        name (`str`, *optional*): Its name, where it came from a folder; `None` where it was made from a configuration.
    """

    on_hub: str | None
    name: str | None

    @property
    def text(self) -> str | None:
        """The model as Markdown."""
        if self.on_hub is not None:
            return f"[{self.on_hub}](https://huggingface.co/{self.on_hub})"
        return None if self.name is None else f"`{self.name}`, from a local folder,"


def introduce(base: Base, adapter: dict[str, Any], task: str | None, dataset: str | None) -> str:
    """
    The sentence that a new card begins with.

    Args:
        base ([`Base`]): The model that was tuned.
        adapter (`dict`): The configuration of its adapter, empty where it has none.
        task (`str`, *optional*): The task as the Hub names it.
        dataset (`str`, *optional*): Hub id of the data.
    """
    kind, rank = adapter.get("peft_type"), adapter.get("r")
    if kind is not None:
        begin = f"A {'LoRA' if kind == 'LORA' else kind} adapter" + (f" of rank {rank}" if rank else "")
        begin += f" for {base.text}" if base.text else ""
    else:
        begin = "A model" + (f" tuned from {base.text}" if base.text else "")
    words = begin + (f" for {task.replace('-', ' ')}" if task else "")
    data = f" trained on [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else ""
    return f"{words}{',' if data and not words.endswith(',') else ''}{data}.".replace(",.", ".")


def correct_claims(text: str, base: Base) -> str:
    """
    Take back what a trainer's card says of the optimizer, which was not used, and of a base model it does not know.

    Args:
        text (`str`): The card without its metadata.
        base ([`Base`]): The model that was tuned.
    """
    text = _SETTING.sub(lambda found: f"- {found[1]}{found[2]}{found[1]}: {_CHOSEN}", text)
    text = _OPTIMIZER.sub(f"- optimizer: {_CHOSEN}", text)
    says = "was trained" if base.text is None else f"is a fine-tuned version of {base.text}"
    if base.text is None:
        return re.sub(r"This model is a fine-tuned version of \[(?:None)?\]\([^)]*\)", f"This model {says}", text)
    return _NO_BASE.sub(lambda found: f"{found['this']} {says}", text)
