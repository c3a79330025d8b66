"""The adapter of the examples that hand it to a trainer of TRL."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import LoraConfig, TaskType


@dataclass
class AdapterArguments:
    """What to train."""

    model: str = field(metadata={"help": "Hub id or local folder of a pre-trained model with its tokenizer."})
    lora_rank: int = field(default=8, metadata={"help": "Rank r of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapter's output is scaled by alpha / r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapter's input."})
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "Regular expression for the modules to adapt, or 'all-linear'."}
    )

    def config(self, task: TaskType) -> LoraConfig:
        """The adapter's configuration for a task."""
        return LoraConfig(
            task_type=task,
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules,
        )
