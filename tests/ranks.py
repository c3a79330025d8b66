"""What the tests of several processes run in each: `python ranks.py FOLDER RUNS`, the runs as JSON."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import tiny
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.selection import ParameterProjection


def allow_fsdp_on_cpu():
    """Accelerate shards models on accelerators only; what it runs for them works over gloo too."""
    init = PartialState.__init__

    def as_on_gpus(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = as_on_gpus


class Spoiled(IOMTTrainer):
    """The loss of one process is NaN while one candidate is active."""

    spoiled = None

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        active = self.optimizer is not None and self.interleaved_optimizer.active.name
        return loss * float("nan") if active == self.spoiled and self.args.process_index == 1 else loss


def is_projection_of_the_whole(model):
    """Whether the parts of sharded parameters, projected where they are, give what the whole ones do."""
    named = {name: item for name, item in model.named_parameters() if item.requires_grad}
    whole = {name: getattr(item.detach(), "full_tensor", lambda item=item: item)() for name, item in named.items()}
    parts, wholes = (ParameterProjection(list(items.items()), seed=3)() for items in (named, whole))
    return bool(np.abs(parts - wholes).max() < 1e-5 and np.abs(wholes).max() > 0.1)


def train(folder, settings):
    """One run; what it found is the same on all processes, or the test fails."""
    settings = dict(settings)
    resume, model, samples = settings.pop("resume", None), settings.pop("model", "bert"), settings.pop("samples", 90)
    Spoiled.spoiled, chance = settings.pop("spoiled", None), settings.pop("chance", False)
    args = IOMTTrainingArguments(
        **tiny.quiet(
            folder,
            **{"iomt_candidates": "adam:lr=0.01; sgdm:lr=0.05; adagrad:lr=0.02", "iomt_switch_steps": 4, **settings},
        )
    )
    dropout = 0.0 if model in ("smooth", "head") else 0.1
    network = tiny.lora(dropout=dropout) if model == "lora" else tiny.bert(dropout=dropout)
    if model == "head":
        network.bert.requires_grad_(False)
    data = {"train_dataset": tiny.Texts(samples)}
    if chance:
        data = {"train_dataset": tiny.Chance(samples), "eval_dataset": tiny.Chance(samples, seed=1)}
    trainer = Spoiled(network, args, **data)
    trainer.train(resume_from_checkpoint=resume)
    values = tiny.values(trainer.model)
    return {
        "history": [{**record, "seconds": 0} for record in trainer.iomt_history],
        "values": {
            name: getattr(item, "full_tensor", lambda item=item: item)().tolist() for name, item in values.items()
        },
        "sharded": sum(hasattr(item, "to_local") for item in values.values()),
        "processes": args.world_size,
        "projected": is_projection_of_the_whole(trainer.model),
    }


def main(folder, runs):
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") or any(run.get("fsdp") for run in runs):
        allow_fsdp_on_cpu()
    found = [train(folder, settings) for settings in runs]
    # Lines that two processes print may run into each other.
    with open(f"{folder}/found{os.environ.get('RANK', 0)}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
