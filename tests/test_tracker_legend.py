from __future__ import annotations

import json
import logging
import math
import sqlite3
import struct
import time
from pathlib import Path

import pytest
import tiny
import torch
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import families, parse_candidates, register_family
from hf_iomt.tracker_legend import make_legend

pytestmark = pytest.mark.usefixtures("small_heap")

CANDIDATES = ["adam:lr=0.01", "sgdm:lr=0.05"]
LEGEND = {
    "candidate": {"0": "adam:lr=0.01", "1": "sgdm:lr=0.05"},
    "phase": {"0": "race", "1": "initial", "2": "surrogate", "3": "random", "4": "cyclical", "5": "commit"},
}
STEPS = [3, 6, 9, 12, 15, 18, 21, 24]


def make(path, report_to, **settings):
    settings = {
        "max_steps": 24,
        "logging_strategy": "steps",
        "logging_steps": 3,
        "iomt_candidates": "; ".join(CANDIDATES),
        "iomt_race_steps": 4,
        "iomt_switch_steps": 3,
        "iomt_initial_cycles": 1,
        "iomt_transferability": "0.5",
        **settings,
    }
    arguments = IOMTTrainingArguments(**tiny.quiet(path, report_to=report_to, **settings))
    return IOMTTrainer(tiny.bert(dropout=0.0), arguments, train_dataset=tiny.Texts())


def logged(trainer):
    """What Trainer's own state has of the decisions: by step, the names and numbers."""
    return {
        entry["step"]: {name: value for name, value in entry.items() if name.startswith("iomt/")}
        for entry in trainer.state.log_history
        if "loss" in entry
    }


def check(trainer, read):
    """What was read back from a tracker is what was logged, and says what the history does."""
    expected = logged(trainer)
    assert list(expected) == STEPS and set(read) == set(STEPS)
    for step in STEPS:
        # TensorBoard keeps single precision.
        assert read[step] == pytest.approx(expected[step], rel=1e-6)
        assert sum(value for name, value in read[step].items() if "/share/" in name) == pytest.approx(1)
    assert {"iomt/predicted_score", "iomt/predicted_std", "iomt/rollbacks", "iomt/score"} <= set(read[24])
    names = list(LEGEND["candidate"].values())
    for step in STEPS[2:]:
        record = next(item for item in trainer.iomt_history if item["first_step"] <= step <= item["last_step"])
        assert names[int(read[step]["iomt/candidate"])] == record["candidate"]
        assert LEGEND["phase"][str(int(read[step]["iomt/phase"]))] == record["phase"]
    made = dict.fromkeys(names, 0)
    for record in trainer.iomt_history:
        made[record["candidate"]] += record["last_step"] - record["first_step"] + 1
    assert read[24]["iomt/share/0_adam_1e-2"] == pytest.approx(made["adam:lr=0.01"] / 24)
    assert read[24]["iomt/share/1_sgdm_5e-2"] == pytest.approx(made["sgdm:lr=0.05"] / 24)


def of_training(numbers):
    """The numbers of the decisions by step, without the prefix that Trainer's callbacks give them."""
    found = {
        int(step): {name.removeprefix("train/"): value for name, value in values.items() if "iomt/" in name}
        for step, values in numbers.items()
    }
    return {step: values for step, values in found.items() if values}


class TensorBoard:
    """Reads the event files back."""

    name = "tensorboard"

    def __init__(self, folder, monkeypatch):
        self.module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        self.folder = folder / "events"
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(self.folder))

    def read(self):
        reader = self.module.EventAccumulator(str(self.folder)).Reload()
        numbers, legend = {}, {}
        for tag in reader.Tags()["scalars"]:
            for event in reader.Scalars(tag):
                numbers.setdefault(event.step, {})[tag] = event.value
        if "iomt_legend/text_summary" in reader.Tags()["tensors"]:
            table = reader.Tensors("iomt_legend/text_summary")[0].tensor_proto.string_val[0].decode()
            for line in table.splitlines()[2:]:
                kind, index, name = (cell.strip() for cell in line.strip("|").split("|"))
                legend.setdefault(kind.removeprefix("iomt/"), {})[index] = name
        return numbers, legend


class Wandb:
    """Reads the file of an offline run back: LevelDB's log, in blocks of 32 KiB, whose header has 7 bytes."""

    name = "wandb"

    def __init__(self, folder, monkeypatch):
        self.module = pytest.importorskip("wandb")
        places = dict.fromkeys(("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"), str(folder))
        for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off", **places}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)

    def read(self):
        # Where it writes is settled by its first run.
        (path,) = Path(self.module.run.dir).parent.glob("*.wandb")
        self.module.finish()
        numbers, config = {}, {}
        for record in self.finished(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                values = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                row = numbers.setdefault(int(values["train/global_step"]), {})
                row.update({key: json.loads(text) for key, text in values.items()})
            elif kind in ("config", "run"):
                update = record.config.update if kind == "config" else record.run.config.update
                config.update({item.key: json.loads(item.value_json) for item in update})
        return numbers, config["iomt_legend"]

    def finished(self, path):
        # Another process writes it, and may go on for a moment after the run has ended.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            records = list(self.records(path.read_bytes()))
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
            time.sleep(0.05)
        raise TimeoutError(f"{path} has no end.")

    def records(self, data):
        from wandb.proto import wandb_internal_pb2

        assert data[:4] == b":W&B"
        offset, parts = 7, b""
        while offset + 7 <= len(data):
            left = 32768 - offset % 32768
            if left < 7:
                offset += left
                continue
            _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
            if offset + 7 + length > len(data):
                return
            parts += data[offset + 7 : offset + 7 + length]
            offset += 7 + length
            # Whole, or the last of several parts.
            if kind in (1, 4):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                parts = b""
                yield record


class Trackio:
    """Reads the local store back."""

    name = "trackio"

    def __init__(self, folder, monkeypatch):
        # Read once, when it is imported.
        monkeypatch.setenv("TRACKIO_DIR", str(folder))
        self.module = pytest.importorskip("trackio")
        self.project = folder.name

    def read(self):
        with sqlite3.connect(self.module.utils.TRACKIO_DIR / f"{self.project}.db") as store:
            rows = [json.loads(text) for (text,) in store.execute("SELECT metrics FROM metrics")]
            ((config,),) = store.execute("SELECT config FROM configs")
        numbers = {}
        for row in rows:
            numbers.setdefault(row["train/global_step"], {}).update(row)
        return numbers, json.loads(config)["iomt_legend"]


class MLflow:
    """Reads a store of files back."""

    name = "mlflow"

    def __init__(self, folder, monkeypatch):
        self.module = pytest.importorskip("mlflow")
        # It needs no database, and asks to be wanted.
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        self.module.set_tracking_uri((folder / "store").as_uri())

    def read(self):
        client = self.module.MlflowClient()
        (run,) = client.search_runs(["0"])
        numbers, legend = {}, {}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                numbers.setdefault(metric.step, {})[name] = metric.value
        for name, value in run.data.params.items():
            if name.startswith("iomt_legend/"):
                _, kind, index = name.split("/")
                legend.setdefault(kind, {})[index] = value
        return numbers, legend


@pytest.fixture(params=[TensorBoard, Wandb, Trackio, MLflow], ids=lambda tracker: tracker.name)
def tracker(request, tmp_path, monkeypatch):
    """Each tracker that is installed, writing to the disk only."""
    return request.param(tmp_path, monkeypatch)


def test_trackers_have_the_numbers_and_the_legend(tracker, tmp_path):
    trainer = make(tmp_path, tracker.name, project=tmp_path.name)
    trainer.train()
    numbers, legend = tracker.read()
    check(trainer, of_training(numbers))
    assert legend == LEGEND


def test_numbers_that_are_not_finite_and_long_names_do_no_harm(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    family = "größe_ω_" + "x" * 300
    register_family(family, torch.optim.SGD)
    # The second diverges at once, and nothing is undone.
    trainer = make(
        tmp_path,
        tracker.name,
        project=tmp_path.name,
        iomt_candidates=f"{family}:lr=0.01; sgd:lr=1e14",
        iomt_race_steps=0,
        iomt_rollback=False,
        iomt_selection="cyclical",
        logging_nan_inf_filter=False,
    )
    trainer.train()
    assert any(not math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    numbers, legend = tracker.read()
    read = of_training(numbers)
    assert set(read) == set(STEPS)
    assert all(math.isfinite(value) for values in read.values() for value in values.values())
    assert read[24]["iomt/share/0_gr__e___" + "x" * 32 + "_1e-2"] == 0.5
    assert read[24]["iomt/share/1_sgd_1e14"] == 0.5
    assert legend["candidate"] == {"0": f"{family}:lr=0.01", "1": "sgd:lr=1e+14"}


class TestLegend:
    def test_names_by_number(self):
        assert make_legend(parse_candidates("; ".join(CANDIDATES))) == LEGEND

    def test_json_holds_it(self):
        legend = make_legend(parse_candidates("adam:lr=0.01,betas=0.9/0.99"))
        assert json.loads(json.dumps(legend))["candidate"] == {"0": "adam:lr=0.01,betas=0.9/0.99"}

    def test_what_is_saved_stays_as_it_is(self, tmp_path, monkeypatch):
        TensorBoard(tmp_path, monkeypatch)
        trainer = make(tmp_path, "tensorboard", save_strategy="steps", save_steps=24)
        arguments = trainer.args.to_dict()
        trainer.train()
        assert trainer.args.to_dict() == arguments
        assert json.loads(trainer.args.to_json_string())["iomt_candidates"] == "; ".join(CANDIDATES)
        saved = torch.load(tmp_path / "checkpoint-24" / "training_args.bin", weights_only=False)
        assert saved.to_dict() == arguments
        for name in ("config.json", "trainer_state.json"):
            assert "legend" not in (tmp_path / "checkpoint-24" / name).read_text(encoding="utf-8")


def test_a_tracker_that_is_added_later_has_it_too(tmp_path, monkeypatch):
    tracker = TensorBoard(tmp_path, monkeypatch)
    trainer = make(tmp_path, "none")
    trainer.add_callback(TensorBoardCallback)
    trainer.train()
    numbers, legend = tracker.read()
    check(trainer, of_training(numbers))
    assert legend == LEGEND


def test_one_that_fails_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    class Broken(TensorBoardCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            # What a full disk does.
            self.tb_writer.add_text = self.fail

        def fail(self, *args):
            raise OSError("No space left on device")

    TensorBoard(tmp_path, monkeypatch)
    trainer = make(tmp_path, "none")
    trainer.callback_handler.callbacks.insert(0, Broken())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 24
    assert caplog.text.count("Broken did not take the legend of the candidates.") == 1


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    class Other(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            state.is_world_process_zero = False

    tracker = TensorBoard(tmp_path, monkeypatch)
    trainer = make(tmp_path, "tensorboard")
    trainer.add_callback(Other)
    trainer.train()
    assert tracker.read()[1] == {}
