"""The distributed backends of Trainer: which are supported, and what each process keeps of the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import Trainer

    from .trainer import IOMTTrainerMixin


def refuse_unsupported_backends(trainer: IOMTTrainerMixin) -> None:
    """
    Refuse what was not shown to work, before anything is trained with it.

    Raises:
        ValueError: DeepSpeed, FSDP1 or FSDP of XLA is configured, or parallelism within a model, or FSDP2 with
            `iomt_offload`.
    """
    state, parallelism = trainer.accelerator.state, getattr(trainer.accelerator, "parallelism_config", None)
    refused = {
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP1 (`fsdp_config={'version': 1}`)": trainer.is_fsdp_enabled and state.fsdp_plugin.fsdp_version != 2,
        "FSDP of PyTorch/XLA": trainer.is_fsdp_xla_enabled,
        "a model that transformers distributed while loading": trainer.is_distributed_loading_by_transformers,
        "tensor, context or sequence parallelism": parallelism is not None
        and (parallelism.tp_enabled or parallelism.cp_enabled or parallelism.sp_enabled),
    }
    for name, found in refused.items():
        if found:
            raise ValueError(
                f"{type(trainer).__name__} does not support {name}. Use FSDP2 (`fsdp=True`, "
                "`fsdp_config={'version': 2}`), DDP or one process, with LoRA, mixed precision or gradient "
                "checkpointing to save memory."
            )
    if trainer.is_fsdp_enabled and trainer.args.iomt_offload != "none":
        raise ValueError(
            f"`iomt_offload={trainer.args.iomt_offload!r}` does not work with FSDP, which shards all copies over the "
            "processes. Leave it at 'none'; `cpu_offload` of `fsdp_config` keeps all of them in the CPU's memory."
        )


def mean_over_processes(trainer: Trainer, values: torch.Tensor) -> torch.Tensor:
    """The mean over the processes, which communicate from their devices, of values that may lie elsewhere."""
    mean: torch.Tensor = trainer.accelerator.reduce(values.to(trainer.accelerator.device), "mean")
    return mean


def state_part(trainer: IOMTTrainerMixin) -> int | None:
    """Number of this process's own part of the state where parameters are sharded; `None` where all have the same."""
    return trainer.accelerator.process_index if trainer.is_fsdp_enabled else None
