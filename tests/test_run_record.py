from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import tiny
from transformers import TrainerState, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments, Transferability, interleaving, race
from hf_iomt.run_record import changed_arguments

THREE = "adamw:lr=0.01; sgdm:lr=0.1; sgd:lr=0.01"
PARTS = ("training", "selection", "assessment")

pytestmark = pytest.mark.usefixtures("small_heap")


def make(path, model=None, **settings):
    defaults = {"iomt_candidates": THREE, "iomt_switch_steps": 4, "iomt_race_steps": 4, "logging_strategy": "steps"}
    args = IOMTTrainingArguments(**tiny.quiet(path, **{**defaults, "logging_steps": 5, **settings}))
    return IOMTTrainer(model or tiny.lora(), args, train_dataset=tiny.Texts(), eval_dataset=tiny.Texts(seed=1))


def read(folder, name="iomt_run.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def without_seconds(record):
    return {name: value for name, value in record.items() if name != "seconds"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    trainer = make(path, save_strategy="steps", save_steps=10)
    trainer.train()
    return trainer, path


def test_says_what_the_run_was(whole):
    trainer, path = whole
    record = read(path)
    assert list(record) == [
        *("format", "versions", "model", "model_is_folder", "peft", "trainer", "candidates", "settings", "arguments"),
        *("seconds", "steps"),
    ]
    assert (record["format"], record["trainer"], record["peft"], record["model"]) == (1, "IOMTTrainer", True, None)
    assert record["candidates"] == ["adamw:lr=0.01", "sgdm:lr=0.1", "sgd:lr=0.01"]
    assert record["steps"] == 40
    assert {"python", "torch", "transformers", "hf-iomt"} <= set(record["versions"])
    # Resolved: from the preset, and the initial cycles that there was room for.
    assert record["settings"]["iomt_patience"] == 4
    assert record["settings"]["iomt_initial_cycles"] == trainer.interleaving.selector.settings.initial_cycles
    assert record["settings"]["iomt_switch_steps"] == 4
    assert set(record["settings"]) == {name for name in vars(trainer.args) if name.startswith("iomt_")}
    assert str(path) not in json.dumps(record)


def test_seconds_add_up(whole):
    trainer, path = whole
    seconds = read(path)["seconds"]
    assert sum(seconds[name] for name in PARTS) == pytest.approx(seconds["total"])
    assert seconds["selection"] == pytest.approx(sum(record["seconds"] for record in trainer.iomt_history))
    assert seconds["assessment"] == trainer.transferability.seconds > 0
    assert seconds["training"] > 0
    # Trainer's own clock starts earlier, for it loads data first, and stops before the last files are written.
    runtime = next(entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry)
    assert seconds["total"] == pytest.approx(runtime, rel=0.3, abs=0.3)


def test_the_first_and_the_last_probes_of_the_race_are_in_the_time_of_selection(tmp_path):
    spent, trainer = [], make(tmp_path)
    begin = trainer.begin_interleaving

    def watch():
        begin()
        probe = trainer.interleaving._race_probe
        spent.append(trainer.interleaving.records[0].seconds)

        def slow():
            spent.append(None)
            return probe()

        trainer.interleaving._race._probe = slow

    trainer.begin_interleaving = watch
    trainer.train()
    # The probe at the origin has been measured before the first step.
    assert spent[0] > 0
    race = [record for record in trainer.iomt_history if record["phase"] == "race"]
    entrants = 3
    # Two for each entrant, and up to three for their means, all of them within the race's records.
    assert len(spent) - 1 > 2 * entrants and all(record["seconds"] > 0 for record in race)


def test_time_of_settling_the_race_is_its_last_records(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(interleaving.time, "perf_counter", lambda: clock[0])
    settle, after_step = race.Race.settle, race.Race.after_step

    def slow_settle(self, *args, **kwargs):
        clock[0] += 100
        return settle(self, *args, **kwargs)

    def slow_step(self, *args, **kwargs):
        branch = after_step(self, *args, **kwargs)
        clock[0] += 1 if branch is not None else 0
        return branch

    monkeypatch.setattr(race.Race, "settle", slow_settle)
    monkeypatch.setattr(race.Race, "after_step", slow_step)
    trainer = make(tmp_path, max_steps=20)
    trainer.train()
    seconds = [record["seconds"] for record in trainer.iomt_history]
    entrants = sum(record["phase"] == "race" for record in trainer.iomt_history)
    assert seconds[:entrants] == [1.0] * (entrants - 1) + [101.0]
    assert sum(seconds) == 100 + entrants


def test_a_resumed_run_ends_with_the_same_files_but_for_seconds(whole, tmp_path):
    trainer, path = whole
    earlier = read(path / "checkpoint-20")["seconds"]
    resumed = make(tmp_path, save_strategy="steps", save_steps=10)
    resumed.train(resume_from_checkpoint=str(path / "checkpoint-20"))
    assert without_seconds(read(tmp_path)) == without_seconds(read(path))
    seconds = read(tmp_path)["seconds"]
    assert seconds["total"] > earlier["total"] > 0
    assert seconds["selection"] > earlier["selection"]
    # What was measured before the first step was measured once.
    assert seconds["assessment"] == earlier["assessment"] == trainer.transferability.seconds
    assert sum(seconds[name] for name in PARTS) == pytest.approx(seconds["total"])
    histories = [read(folder, "iomt_history.json") for folder in (path, tmp_path)]
    first, second = ([{**item, "seconds": 0} for item in history] for history in histories)
    assert first == second
    states = [TrainerState.load_from_json(str(folder / "trainer_state.json")) for folder in (path, tmp_path)]
    losses = [[entry["loss"] for entry in state.log_history if "loss" in entry] for state in states]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_seconds_of_a_resumed_run_are_those_before_and_those_since(whole, tmp_path, monkeypatch):
    _, path = whole
    source = path / "checkpoint-20" / "iomt_run.json"
    record = read(path / "checkpoint-20")
    kept = source.read_text(encoding="utf-8")
    try:
        source.write_text(json.dumps({**record, "seconds": {**record["seconds"], "total": 5000.0}}), encoding="utf-8")
        resumed = make(tmp_path)
        resumed.train(resume_from_checkpoint=str(path / "checkpoint-20"))
    finally:
        source.write_text(kept, encoding="utf-8")
    assert 5000 < read(tmp_path)["seconds"]["total"] < 5100
    # Training again begins a new run.
    resumed.train()
    assert read(tmp_path)["seconds"]["total"] < 100


def test_a_run_from_weights_alone_has_its_own_clock(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 10, "save_only_model": True}
    first = make(tmp_path / "first", **settings)
    first.train()
    checkpoint = tmp_path / "first" / "checkpoint-20"
    # As if it had been left behind by deleting the optimizer.
    (checkpoint / "iomt_run.json").write_text(json.dumps({"seconds": {"total": 5000.0}}), encoding="utf-8")
    second = make(tmp_path / "second")
    second.train(resume_from_checkpoint=str(checkpoint))
    assert read(tmp_path / "second")["seconds"]["total"] < 100


def test_files_are_written_at_every_checkpoint(whole):
    _, path = whole
    for step in (10, 20, 30, 40):
        folder = path / f"checkpoint-{step}"
        record, history = read(folder), read(folder, "iomt_history.json")
        assert record["steps"] == history[-1]["last_step"] == step
        assert read(folder, "trainer_state.json")["global_step"] == step


def test_the_state_in_the_output_folder_has_the_last_logs(whole, tmp_path):
    trainer = make(tmp_path, max_steps=10)
    trainer.train()
    logs = read(tmp_path, "trainer_state.json")["log_history"]
    assert logs == json.loads(json.dumps(trainer.state.log_history))
    assert "train_runtime" in logs[-1]
    trainer.evaluate()
    logs = read(tmp_path, "trainer_state.json")["log_history"]
    assert logs[-1]["eval_loss"] == trainer.state.log_history[-1]["eval_loss"]


def test_an_evaluation_does_not_bring_a_deleted_folder_back(tmp_path):
    trainer = make(tmp_path / "run", max_steps=10)
    trainer.train()
    for item in (tmp_path / "run").iterdir():
        item.unlink()
    trainer.evaluate()
    assert list((tmp_path / "run").iterdir()) == []


def test_an_evaluation_before_training_writes_nothing(tmp_path):
    make(tmp_path / "run").evaluate()
    assert not (tmp_path / "run" / "trainer_state.json").exists()


def test_the_range_test_is_selection(tmp_path):
    # The least number of steps with room for one is 126.
    trainer = make(tmp_path, iomt_candidates="adamw:lr=1x|3x; sgd:lr=0.01", max_steps=150)
    trainer.train()
    assert trainer.range_test.seconds > 0
    cycles = sum(record["seconds"] for record in trainer.iomt_history)
    assert read(tmp_path)["seconds"]["selection"] == pytest.approx(cycles + trainer.range_test.seconds)


def test_nothing_assessed_takes_no_time(tmp_path):
    trainer = make(tmp_path, iomt_transferability="off", max_steps=10)
    trainer.train()
    assert trainer.transferability == Transferability(0.0)
    assert read(tmp_path)["seconds"]["assessment"] == 0


def test_the_name_of_the_model_that_was_loaded(tmp_path):
    tiny.bert().save_pretrained(tmp_path / "base")
    model = type(tiny.bert()).from_pretrained(tmp_path / "base")
    trainer = make(tmp_path / "run", model, max_steps=4)
    trainer.train()
    record = read(tmp_path / "run")
    assert record["model"] == str(tmp_path / "base") and record["model_is_folder"] and record["peft"] is False


class TestChangedArguments:
    def test_none_by_default(self, tmp_path):
        assert changed_arguments(TrainingArguments(str(tmp_path))) == {}
        assert changed_arguments(IOMTTrainingArguments(str(tmp_path), iomt_alpha=0.2)) == {}

    def test_plain_values_of_what_was_changed(self, tmp_path):
        args = IOMTTrainingArguments(
            str(tmp_path),
            max_steps=7,
            seed=0,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            eval_strategy="steps",
            gradient_accumulation_steps=2,
            logging_first_step=True,
            accelerator_config={"split_batches": True},
        )
        assert changed_arguments(args) == {
            "max_steps": 7,
            "seed": 0,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "eval_strategy": "steps",
            # Trainer sets it to `logging_steps` where it is not given.
            "eval_steps": 500,
            "gradient_accumulation_steps": 2,
            "logging_first_step": True,
            "accelerator_config": {"split_batches": True},
        }

    def test_false_and_zero_are_choices_where_nothing_is_the_default(self, tmp_path):
        chosen = {
            "data_seed": 0,
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "load_best_model_at_end": True,
            "metric_for_best_model": "wer",
            "greater_is_better": False,
        }
        changed = changed_arguments(TrainingArguments(str(tmp_path), **chosen))
        # Steps are the default of saving, and Trainer sets those of evaluations.
        chosen.pop("save_strategy")
        assert changed == {**chosen, "eval_steps": 500}

    def test_tokens_of_a_text_are_no_secrets(self, tmp_path):
        @dataclass
        class Arguments(TrainingArguments):
            eos_token: str | None = None
            access_token: str | None = None

        args = Arguments(str(tmp_path), eos_token="<|im_end|>", access_token="secret")
        assert changed_arguments(args) == {"eos_token": "<|im_end|>"}

    def test_a_default_that_is_true_can_be_false(self, tmp_path):
        @dataclass
        class Arguments(TrainingArguments):
            gradient_checkpointing: bool = True

        changed = changed_arguments(Arguments(str(tmp_path), gradient_checkpointing=False))
        assert changed == {"gradient_checkpointing": False}

    def test_no_paths_and_no_tokens(self, tmp_path):
        args = IOMTTrainingArguments(
            str(tmp_path / "secret"),
            run_name="secret",
            hub_token="secret",
            hub_model_id="name/model",
            resume_from_checkpoint=str(tmp_path / "secret"),
            lr_scheduler_kwargs={"access_token": "secret", "reset_file": "secret", "lr_end": 0.1},
            logging_steps=3,
        )
        assert changed_arguments(args) == {
            "hub_model_id": "name/model",
            "lr_scheduler_kwargs": {"lr_end": 0.1},
            "logging_steps": 3,
        }
