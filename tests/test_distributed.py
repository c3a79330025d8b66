"""Several processes: one decision, one history, and exact resuming, under DDP and FSDP2, by either launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_iomt.backends import refuse_unsupported_backends
from hf_iomt.samples import _own

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
ACCELERATE += ["--dynamo_backend=no", "--main_process_port=0"]
# As `accelerate config` would write it.
BY_LAUNCHER = ["--use_fsdp", "--fsdp_version=2", "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP"]
BY_LAUNCHER += ["--fsdp_transformer_layer_cls_to_wrap=BertLayer", "--fsdp_state_dict_type=SHARDED_STATE_DICT"]
# gloo itself aborts a process now and then; what is wrong with a run is wrong the second time too.
_ABORTED = "(exitcode: -6)"
FSDP = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["BertLayer"]}}
# Some do damage, so that cycles are undone.
HARMFUL = {"iomt_candidates": "sgd:lr=0.05; adam:lr=3.0; sgdm:lr=1.5; rmsprop:lr=0.001|0.02", "iomt_patience": 2}


def launch(folder, launcher, *runs):
    """Train in two processes, or in one without a launcher. Gives what each run found, equally in all of them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("ranks.py")
    command = [sys.executable, *launcher, str(script), str(folder), json.dumps(runs)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if _ABORTED in result.stderr:
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-10_000:]
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("found*.json"))]
    processes = 2 if launcher else 1
    assert len(found) == processes and all(run["processes"] == processes for run in found[0])
    assert all(other == found[0] for other in found)
    return found[0]


@pytest.mark.parametrize(
    "launcher, settings",
    [
        (TORCHRUN, {}),
        ([*ACCELERATE, "--multi_gpu"], {"model": "lora", "bf16": True, "gradient_accumulation_steps": 2}),
        (TORCHRUN, FSDP),
        ([*ACCELERATE, *BY_LAUNCHER], {"model": "lora", "gradient_accumulation_steps": 2}),
        pytest.param(TORCHRUN, {**FSDP, **HARMFUL, "iomt_score": "probe"}, marks=pytest.mark.slow),
        pytest.param(TORCHRUN, {**FSDP, "iomt_candidates": "sgd:lr=0.05|0.01"}, marks=pytest.mark.slow),
        pytest.param(
            TORCHRUN,
            {**FSDP, "iomt_candidates": "swats:lr=0.01,tolerance=1; padam:lr=0.1; adabound:lr=0.001"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "ddp",
        "ddp, LoRA, bf16",
        "fsdp",
        "fsdp of accelerate, LoRA",
        "fsdp, rollback",
        "fsdp, no slots",
        "fsdp, SWATS",
    ],
)
def test_resumes_exactly(tmp_path, launcher, settings):
    saved = {**settings, "save_strategy": "steps", "save_steps": 1, "max_steps": 24}
    # In the race, and within a cycle, whose losses so far differ between the processes.
    resumed = [{**saved, "resume": str(tmp_path / f"checkpoint-{step}")} for step in (2, 14)]
    whole, *others = launch(tmp_path, launcher, saved, *resumed)
    assert "race" in {record["phase"] for record in whole["history"]} and whole["history"][-1]["last_step"] == 24
    assert (whole["sharded"] == len(whole["values"])) == ("fsdp" in settings or "--use_fsdp" in launcher)
    assert all(other == whole for other in others) and whole["projected"]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, FSDP], ids=["ddp", "fsdp"])
def test_decides_equally_for_long(tmp_path, settings):
    """200 steps, uneven last batches, and a candidate that one process alone cannot use."""
    uneven = {"samples": 94, "accelerator_config": {"even_batches": False}}
    (found,) = launch(tmp_path, TORCHRUN, {"max_steps": 200, "spoiled": "adagrad:lr=0.02", **uneven, **settings})
    assert found["history"][-1]["last_step"] == 200 and len(found["history"]) > 40
    of_spoiled = [record for record in found["history"] if record["candidate"] == "adagrad:lr=0.02"]
    assert of_spoiled and all(record["rolled_back"] and record["score"] == -1 for record in of_spoiled)
    others = [record for record in found["history"] if record["candidate"] != "adagrad:lr=0.02"]
    assert not any(record["rolled_back"] for record in others)


def assert_same_decisions(ones, others):
    """Equal decisions, and scores that are equal but for rounding."""
    for pair in zip(ones, others, strict=True):
        first, second = (run["history"] for run in pair)
        for name in ("candidate", "phase", "first_step", "last_step", "rolled_back"):
            assert [record[name] for record in first] == [record[name] for record in second]
        assert len({record["candidate"] for record in first}) >= 3
        scores = [[record["score"] or 0 for record in history] for history in (first, second)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_two_processes_decide_as_one_with_the_batch_of_both(tmp_path):
    # Trainer multiplies the losses of a sequence classifier by the number of processes where it averages over tokens.
    settings = {"model": "smooth", "max_steps": 200, "samples": 128, "average_tokens_across_devices": False}
    runs = [{**settings, "iomt_switch_steps": 8, "seed": seed} for seed in (1, 2)]
    two = launch(tmp_path / "two", TORCHRUN, *({**run, "per_device_train_batch_size": 4} for run in runs))
    one = launch(tmp_path / "one", [], *({**run, "per_device_train_batch_size": 8} for run in runs))
    assert_same_decisions(one, two)


def test_sharded_parameters_decide_as_whole_ones(tmp_path):
    """Also where cycles are undone: what is written into the shards is what the next forward pass sees."""
    settings = {"model": "smooth", "max_steps": 60, "samples": 128}
    runs = [settings, {**settings, **HARMFUL, "iomt_race_steps": 0, "iomt_selection": "cyclical"}]
    whole = launch(tmp_path / "ddp", TORCHRUN, *runs)
    assert any(record["rolled_back"] for record in whole[1]["history"])
    assert_same_decisions(whole, launch(tmp_path / "fsdp", TORCHRUN, *({**run, **FSDP} for run in runs)))


def test_the_range_test_finds_the_same_in_shards(tmp_path):
    settings = {"model": "smooth", "max_steps": 150, "samples": 128, "iomt_candidates": "adamw:lr=1x|2x; sgd:lr=0.01"}
    # Of more than three it leaves some out, here the last two.
    many = {**settings, "iomt_candidates": "adamw:lr=1x|1.5x; adagrad:lr=1x|1.5x; sgd:lr=1e-9|1e5"}
    head = {**settings, "model": "head", "max_steps": 60, "iomt_selection": "cyclical"}
    head["iomt_candidates"] = "adamw:lr=1x|2x|0.5x"
    whole = launch(tmp_path / "ddp", TORCHRUN, settings, many, head)
    sharded = launch(tmp_path / "fsdp", TORCHRUN, *({**run, **FSDP} for run in (settings, many, head)))
    assert_same_decisions(whole, sharded)
    assert "adamw:lr=0.003" not in {record["candidate"] for record in whole[2]["history"]}
    # It is not the usual rate, which counts where there is no test.
    assert not {"adamw:lr=5e-05", "adamw:lr=0.0001"} & {record["candidate"] for record in whole[0]["history"]}
    assert {record["family"] for record in whole[1]["history"]} == {"adamw", "adagrad"}


@pytest.mark.slow
def test_overfitting_is_seen_equally_in_shards_and_resumes(tmp_path):
    settings = {"model": "smooth", "samples": 64, "chance": True, "max_steps": 220, "iomt_race_steps": 0}
    settings |= {"per_device_train_batch_size": 16, "iomt_candidates": "adam:lr=0.01; sgdm:lr=0.05"}
    settings |= {"save_strategy": "steps", "save_steps": 100}
    whole = launch(tmp_path / "ddp", TORCHRUN, settings)
    resumed = {**settings, "resume": str(tmp_path / "fsdp" / "checkpoint-100")}
    sharded, again = launch(tmp_path / "fsdp", TORCHRUN, {**settings, **FSDP}, {**resumed, **FSDP})
    assert again == sharded
    seen = [[record["overfitted"] for record in run["history"]] for run in (whole[0], sharded)]
    assert seen[0] == seen[1] and any(seen[0])


@pytest.mark.parametrize("samples, groups, processes", [(16, 4, 2), (10, 1, 4), (7, 2, 3)])
def test_processes_measure_parts_of_the_same_probe(samples, groups, processes):
    parts = []
    for rank in range(processes):
        trainer = SimpleNamespace(args=SimpleNamespace(world_size=processes, process_index=rank))
        size = -(-samples // groups)
        parts.append([_own(trainer, np.arange(samples)[start : start + size]) for start in range(0, samples, size)])
    for group in zip(*parts, strict=True):
        assert len({len(part) for part in group}) == 1
    assert {row for part in parts for group in part for row in group} == set(range(samples))


@pytest.mark.parametrize(
    "found, name",
    [
        ({"is_deepspeed_enabled": True}, "DeepSpeed"),
        ({"is_fsdp_enabled": True}, "FSDP1"),
        ({"is_fsdp_xla_enabled": True}, "FSDP of PyTorch/XLA"),
        ({"is_distributed_loading_by_transformers": True}, "a model that transformers distributed while loading"),
        ({"cp_enabled": True}, "tensor, context or sequence parallelism"),
    ],
)
def test_what_is_refused(found, name):
    """A stand-in has what Trainer and Accelerate would say, because most of this needs other hardware."""

    def make(**attributes):
        names = ("deepspeed_enabled", "fsdp_enabled", "fsdp_xla_enabled", "distributed_loading_by_transformers")
        parallelism = SimpleNamespace(**{f"{kind}_enabled": False for kind in ("tp", "cp", "sp")})
        vars(parallelism).update({key: value for key, value in attributes.items() if key == "cp_enabled"})
        accelerator = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1)), parallelism_config=parallelism
        )
        args = SimpleNamespace(iomt_offload="disk")
        flags = {f"is_{item}": False for item in names} | attributes
        return SimpleNamespace(accelerator=accelerator, args=args, **flags)

    refuse_unsupported_backends(make())
    with pytest.raises(ValueError, match=f"does not support {name}.*Use FSDP2 .*, DDP or one process"):
        refuse_unsupported_backends(make(**found))
    sharded = make(is_fsdp_enabled=True)
    sharded.accelerator.state.fsdp_plugin.fsdp_version = 2
    with pytest.raises(ValueError, match=r"`iomt_offload='disk'` does not work with FSDP.*Leave it at 'none'"):
        refuse_unsupported_backends(sharded)
    sharded.args.iomt_offload = "none"
    refuse_unsupported_backends(sharded)
