"""What an assessment leaves behind: nothing in training, its number in settings, checkpoints and all processes."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from assessed import Rows, accuracy, columns, make
from torch import nn
from transformers import ProgressCallback, Trainer, TrainerCallback

from hf_iomt import IOMTTrainer, IOMTTrainerMixin
from hf_iomt.transferability import TRANSFERABILITY_NAME


class TestTraces:
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_training_is_that_with_the_same_number(self, tmp_path, model):
        measured = make(tmp_path, model(), iomt_race_steps=0, iomt_switch_steps=3)
        measured.train()
        given = make(
            tmp_path,
            model(),
            iomt_race_steps=0,
            iomt_switch_steps=3,
            iomt_transferability=repr(measured.transferability.weight),
        )
        given.train()
        tiny.assert_same(tiny.values(measured.model), tiny.values(given.model))
        histories = [[{**record, "seconds": 0} for record in item.iomt_history] for item in (measured, given)]
        assert histories[0] == histories[1]
        assert given.transferability.left_out == {} and given.transferability.split is None

    def test_generators_modes_and_settings_are_as_before(self, tmp_path):
        class Noisy(Rows):
            def __getitem__(self, index):
                random.random(), np.random.rand(), torch.rand(())
                return super().__getitem__(index)

        trainer = make(tmp_path, tiny.lora(), Noisy(**columns(20, 0)), parts={"compute_metrics": accuracy})
        trainer.model.train()
        trainer.model.base_model.model.bert.pooler.eval()
        modes = [module.training for module in trainer.model.modules()]
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        trainer.assess_transferability()
        assert [module.training for module in trainer.model.modules()] == modes
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
        assert trainer.compute_metrics is accuracy and trainer.callback_handler.eval_dataloader is None
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())

    def test_modules_that_change_with_their_mode_change_back(self, tmp_path):
        class Merging(nn.Dropout):
            merged = False

            def train(self, mode=True):
                self.merged = not mode
                return super().train(mode)

        trainer = make(tmp_path)
        trainer.model.dropout = Merging(0.1)
        trainer.model.train()
        trainer.assess_transferability()
        assert trainer.model.dropout.training and not trainer.model.dropout.merged

    def test_later_evaluations_see_their_own_data(self, tmp_path):
        trainer = make(
            tmp_path,
            evaluation=tiny.Texts(23, seed=5),
            parts={"compute_metrics": lambda prediction: {"count": len(prediction.label_ids)}},
            dataloader_num_workers=1,
            dataloader_persistent_workers=True,
        )
        trainer.train()
        assert trainer.transferability.samples == 64 and trainer.evaluate()["eval_count"] == 23

    def test_metrics_that_a_trainer_keeps_of_batches_are_those_of_its_own_evaluations(self, tmp_path):
        class Keeping(IOMTTrainer):
            """As trainers of TRL do."""

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._metrics = {"train": [], "eval": []}

            def compute_loss(self, model, *args, **kwargs):
                self._metrics["train" if model.training else "eval"].append(1)
                return super().compute_loss(model, *args, **kwargs)

        trainer = make(tmp_path, cls=Keeping)
        trainer.assess_transferability()
        assert trainer._metrics == {"train": [], "eval": []}

    def test_it_is_no_evaluation_for_callbacks(self, tmp_path):
        events = []

        class Listening(TrainerCallback):
            def on_evaluate(self, args, state, control, **kwargs):
                events.append("evaluate")

            def on_log(self, args, state, control, logs, **kwargs):
                events.append(dict(logs))

        trainer = make(tmp_path)
        trainer.add_callback(Listening())
        trainer.train()
        (logged,) = [item for item in events if "iomt/transferability/weight" in item]
        parts = {f"iomt/transferability/{name}": value for name, value in trainer.transferability.parts.items()}
        assert parts.items() <= logged.items() and "evaluate" not in events
        assert "iomt/transferability/log_me" in logged and "iomt/transferability/leep" not in logged
        assert trainer.state.log_history[0]["step"] == 0

    def test_the_bar_is_closed(self, tmp_path):
        trainer = make(tmp_path, disable_tqdm=False)
        trainer.train()
        (bar,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, ProgressCallback)]
        assert bar.prediction_bar is None


class TestSettings:
    @pytest.mark.parametrize("value, weight", [("off", 0.0), ("0.25", 0.25), (1, 1.0)])
    def test_set_by_hand(self, tmp_path, value, weight):
        rows = Rows(**columns(64, 0))
        trainer = make(tmp_path, data=rows, iomt_transferability=value, iomt_race_steps=0, max_steps=4)
        trainer.train()
        assert trainer.transferability.weight == weight == trainer.interleaving.selector.settings.transferability
        assert json.loads((tmp_path / TRANSFERABILITY_NAME).read_text())["weight"] == weight

    @pytest.mark.parametrize(
        "settings", [{"iomt_candidates": "adam:lr=0.01"}, {"iomt_selection": "random"}, {"iomt_selection": "cyclical"}]
    )
    def test_where_nothing_depends_on_it(self, tmp_path, settings):
        trainer = make(tmp_path, iomt_race_steps=0, **settings)
        trainer.train()
        assert trainer.transferability is None
        assert not any("iomt/transferability/weight" in item for item in trainer.state.log_history)
        assert trainer.assess_transferability().performance is not None

    @pytest.mark.parametrize("settings", [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}])
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_precision_and_compilation(self, tmp_path, model, settings):
        expected = make(tmp_path, model()).assess_transferability()
        trainer = make(tmp_path, model(), **settings)
        trainer.train()
        assert trainer.transferability.parts == pytest.approx(expected.parts, abs=0.03)

    def test_a_mixin_over_a_trainer_of_ones_own(self, tmp_path):
        class Own(Trainer):
            pass

        class Mixed(IOMTTrainerMixin, Own):
            pass

        trainer = make(tmp_path, cls=Mixed)
        trainer.train()
        assert trainer.transferability.log_me is not None


SAVING = {"save_strategy": "steps", "save_steps": 10}


class TestCheckpoints:
    def test_the_result_is_written(self, tmp_path):
        trainer = make(tmp_path, **SAVING)
        trainer.train()
        written = json.loads((tmp_path / TRANSFERABILITY_NAME).read_text())
        assert written == vars(trainer.transferability)
        assert json.loads((tmp_path / "checkpoint-10" / TRANSFERABILITY_NAME).read_text()) == written

    def test_a_resumed_run_does_not_repeat_it(self, tmp_path):
        class Forbidden(IOMTTrainer):
            def assess_transferability(self, samples=None):
                raise AssertionError("a second pass")

        first = make(tmp_path, **SAVING)
        first.train()
        resumed = make(tmp_path, tiny.bert(seed=4), cls=Forbidden, **SAVING)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
        assert resumed.transferability == first.transferability
        assert resumed.interleaving.selector.settings.transferability == first.transferability.weight

    @pytest.mark.parametrize("content", [None, "{", '{"weight": 0.5}'])
    def test_a_checkpoint_without_it(self, tmp_path, content, caplog):
        make(tmp_path, **SAVING).train()
        path = tmp_path / "checkpoint-10" / TRANSFERABILITY_NAME
        path.unlink() if content is None else path.write_text(content)
        resumed = make(tmp_path, **SAVING)
        with caplog.at_level(logging.WARNING):
            resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
        assert resumed.transferability.log_me is not None
        assert f"The checkpoint has no {TRANSFERABILITY_NAME}" in caplog.text

    def test_training_again_measures_again(self, tmp_path):
        trainer = make(tmp_path)
        trainer.train()
        first = trainer.transferability
        trainer.train()
        assert trainer.transferability != first


PROCESS = """
import json, sys, torch, tiny
from hf_iomt import IOMTTrainer, IOMTTrainingArguments

torch.set_num_threads(1)
model = type(tiny.bert()).from_pretrained(sys.argv[1] + "/source", num_labels=2, ignore_mismatched_sizes=True)
torch.manual_seed(0)
torch.nn.init.normal_(model.classifier.weight)
args = IOMTTrainingArguments(
    output_dir=sys.argv[1], use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=8,
    per_device_train_batch_size=int(sys.argv[2]), iomt_candidates="adam:lr=0.01; sgdm:lr=0.05", iomt_race_steps=0,
)
# Not a multiple of the batches: the last one is filled up with samples that must not count twice.
class Failing(IOMTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs and self.args.process_index == 1:
            raise RuntimeError("only here")
        return super().compute_loss(model, inputs, return_outputs)

trainer = (Failing if len(sys.argv) > 3 else IOMTTrainer)(model, args, train_dataset=tiny.Texts(51))
trainer.train()
found = vars(trainer.transferability)
# Lines that two processes print may run into each other.
with open(f"{sys.argv[1]}/found{args.process_index}.json", "w") as file:
    json.dump([found, trainer.interleaving.selector.settings.transferability], file)
"""


def test_processes_agree_and_find_what_one_finds(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(PROCESS)
    tiny.bert(labels=5, seed=3).save_pretrained(tmp_path / "source")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}

    def run(launcher, batch, *extra):
        command = [sys.executable, *launcher, str(script), str(tmp_path), str(batch), *extra]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    def found(result, rank=0):
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads((tmp_path / f"found{rank}.json").read_text())

    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    alone, _ = found(run([], 8))
    result = run(two, 4)
    together, weight = found(result)
    assert [together, weight] == found(result, rank=1) and weight == together["weight"]
    assert alone["samples"] == together["samples"] == 51 and together["left_out"] == {}
    for part in ("weight", "performance", "log_me", "leep"):
        assert together[part] == pytest.approx(alone[part], rel=1e-5)
    # A process that goes on alone would leave the other waiting.
    failed = run(two, 4, "fail")
    assert failed.returncode != 0 and "RuntimeError: only here" in failed.stderr
