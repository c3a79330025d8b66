"""Pushing to the Hub through the real client, to a hub on the loopback interface, also where it fails."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import Future
from pathlib import Path

import hub
import huggingface_hub
import pytest
import tiny
import torch
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftModel
from PIL import Image
from transformers.trainer_utils import HubStrategy

from hf_iomt import IOMTTrainer, IOMTTrainingArguments

pytestmark = pytest.mark.usefixtures("small_heap")

REPOSITORY = "tester/adapter"
TOKEN = "hf_secret"
RECORDS = {"iomt_history.json", "iomt_transferability.json", "iomt_run.json", "trainer_state.json"}
PUSHED = {"adapter_config.json", "adapter_model.safetensors", "README.md", "iomt_run.png", *RECORDS}


@pytest.fixture
def served(monkeypatch, tmp_path):
    # The figure itself takes seconds; that it is drawn is tested with the card.
    monkeypatch.setattr("hf_iomt.model_card.draw_run", lambda _, path: Image.new("RGB", (8, 8)).save(path))
    with hub.serve() as served:
        hub.connect(served, monkeypatch, tmp_path / "home")
        yield served


class Waiting(IOMTTrainer):
    """A push reads its files while training goes on; waiting shows what was there when it began."""

    def _push_from_checkpoint(self, folder):
        super()._push_from_checkpoint(folder)
        self._finish_current_push()


def make(path, cls=Waiting, **settings):
    given = {
        "save_strategy": "steps",
        "save_steps": 4,
        "max_steps": 8,
        "iomt_candidates": "adamw:lr=1e-2; sgd:lr=0.1",
        "iomt_switch_steps": 2,
        "iomt_race_steps": 0,
        "iomt_transferability": 0.5,
        "push_to_hub": True,
        "hub_model_id": REPOSITORY,
        "hub_token": TOKEN,
        "hub_strategy": "end",
        **settings,
    }
    return cls(tiny.lora(), IOMTTrainingArguments(**tiny.quiet(path, **given)), train_dataset=tiny.Texts())


def assert_on_hub(trainer):
    """The adapter of the Hub is that of the trainer, to the last bit."""
    read = PeftModel.from_pretrained(tiny.bert(), REPOSITORY, is_trainable=True)
    tiny.assert_same(tiny.values(trainer.model), tiny.values(read))


def assert_saved(trainer):
    """All that would be pushed is in the output folder."""
    folder = Path(trainer.args.output_dir)
    assert {item.name for item in folder.iterdir()} >= PUSHED
    read = PeftModel.from_pretrained(tiny.bert(), folder, is_trainable=True)
    tiny.assert_same(tiny.values(trainer.model), tiny.values(read))
    assert "## How the optimizer was chosen" in (folder / "README.md").read_text(encoding="utf-8")


def warnings_of(caplog, count):
    """What was told; by other threads, a moment after a push has ended."""
    end = time.monotonic() + 10
    while True:
        told = [record.getMessage() for record in caplog.records if record.name == "hf_iomt.publishing"]
        if len(told) >= count or time.monotonic() > end:
            assert len(told) == count
            return told
        time.sleep(0.01)


class Overtaking(IOMTTrainer):
    """The push of the first save has not ended when the second one begins."""

    cards = ()

    def _push_from_checkpoint(self, folder):
        super()._push_from_checkpoint(folder)
        self.cards += ((Path(self.args.output_dir) / "README.md").read_bytes(),)
        if len(self.cards) == 1:
            self.slow = Future()
            self.push_in_progress.jobs.append(self.slow)
        else:
            self.slow.set_result(None)


def test_a_card_is_not_written_while_a_push_may_read_it(served, tmp_path):
    trainer = make(tmp_path / "run", cls=Overtaking, hub_strategy="every_save", hub_always_push=True)
    trainer.train()
    assert len(served.commits[REPOSITORY]) == 2
    first, second = trainer.cards
    assert first == second and b"## How the optimizer was chosen" in first
    trainer.push_to_hub()
    assert served.commits[REPOSITORY][-1][1]["README.md"] != first


@pytest.mark.parametrize("strategy", [item.value for item in HubStrategy])
def test_every_strategy(strategy, served, tmp_path):
    trainer = make(tmp_path / "run", hub_strategy=strategy)
    trainer.train()
    assert len(served.commits[REPOSITORY]) == {"end": 0, "every_save": 2}.get(strategy, 4)
    steps = []
    for message, files in served.commits[REPOSITORY]:
        if match := re.fullmatch(r"Training in progress, step (\d+)", message):
            steps.append(int(match[1]))
            assert set(files) >= PUSHED
            # What was done until this very save.
            assert json.loads(files["iomt_history.json"])[-1]["last_step"] == steps[-1]
            assert json.loads(files["iomt_run.json"])["steps"] == steps[-1]
            assert f'"global_step": {steps[-1]}' in files["trainer_state.json"].decode()
    assert steps == ([] if strategy == "end" else [4, 8])
    trainer.save_model()
    message, files = served.commits[REPOSITORY][-1]
    assert message == "Model save"
    folders = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-4", "checkpoint-8"}}
    assert {name.partition("/")[0] for name in files if "/" in name} == folders.get(strategy, set())
    for folder in folders.get(strategy, ()):
        assert {f"{folder}/{name}" for name in ("trainer_state.json", "iomt_state.pt", *RECORDS)} <= set(files)
    assert set(files) >= PUSHED
    assert_on_hub(trainer)
    assert_saved(trainer)
    assert not [name for name, content in files.items() if TOKEN.encode() in content]


def test_the_token_stays_in_the_process(tmp_path):
    args = IOMTTrainingArguments(**tiny.quiet(tmp_path, hub_token=TOKEN))
    assert args.hub_token == TOKEN
    torch.save(args, tmp_path / "args.bin")
    assert TOKEN.encode() not in (tmp_path / "args.bin").read_bytes()
    assert torch.load(tmp_path / "args.bin", weights_only=False).hub_token is None


def test_a_refused_token_is_told_before_training(served, tmp_path):
    served.writers = {"hf_other"}
    with pytest.raises(HfHubHTTPError, match="did not accept the token") as caught:
        make(tmp_path / "run")
    message = str(caught.value)
    assert f"The repository 'tester/adapter' cannot be written to at {served.url}." in message
    assert "hf auth login" in message and "Nothing has been trained yet." in message
    assert caught.value.response.status_code == 401


def test_a_token_that_may_only_read_is_told_before_training(served, tmp_path):
    # The client takes the refusal to make a repository that is there for no refusal.
    served.writers, served.readers, served.commits[REPOSITORY] = {"hf_other"}, {TOKEN}, []
    with pytest.raises(HfHubHTTPError, match="The token may not write there") as caught:
        make(tmp_path / "run")
    assert caught.value.response.status_code == 403
    assert "Nothing has been trained yet." in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_told_before_training(served, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Exception, match=r"cannot be written to at http://127.0.0.1:9\. Nothing has been trained yet"):
        make(tmp_path / "run")


def test_a_hub_that_does_not_know_who_may_write_is_written_to(served, tmp_path):
    served.faults = [hub.Fault("GET", "/auth-check/", 404)]
    assert make(tmp_path / "run").hub_model_id == REPOSITORY


def test_a_repository_that_exists_is_used(served, tmp_path):
    served.commits[REPOSITORY] = [("earlier", {"notes.txt": b"kept"})]
    trainer = make(tmp_path / "run", max_steps=2)
    trainer.train()
    trainer.push_to_hub()
    assert served.files(REPOSITORY)["notes.txt"] == b"kept"
    assert_on_hub(trainer)


FAULTS = {
    "401": (hub.Fault("POST", "/preupload/", 401), HfHubHTTPError, "did not accept the token"),
    "403": (hub.Fault("POST", "/commit/", 403), HfHubHTTPError, "may not write there"),
    "500": (hub.Fault("POST", "/commit/", 500), HfHubHTTPError, "500"),
    "dropped": (hub.Fault("PUT", "/blobs/", None), RuntimeError, "adapter_model.safetensors"),
}


def test_a_push_that_fails_at_the_end_loses_nothing(served, tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    for fault, error, reason in FAULTS.values():
        served.faults = [fault]
        # What the Hub has of a push before is not uploaded again.
        served.blobs.clear()
        for push in (trainer.push_to_hub, trainer.save_model):
            with pytest.raises(error, match=reason) as caught:
                push()
            message = str(caught.value)
            assert f"The push to {REPOSITORY} failed." in message
            assert f"what was trained is in {tmp_path / 'run'}. " in message
            assert "`trainer.push_to_hub()`" in message
            assert f"`hf upload {REPOSITORY} {tmp_path / 'run'} --exclude '_*' --exclude 'checkpoint-*'`" in message
            assert_saved(trainer)
    assert served.commits[REPOSITORY] == []
    served.faults = []
    trainer.push_to_hub()
    assert_on_hub(trainer)


def test_a_connection_that_drops_once_is_no_failure(served, tmp_path):
    trainer = make(tmp_path / "run", max_steps=2)
    trainer.train()
    fault = hub.Fault("PUT", "/blobs/", None, times=1)
    served.faults = [fault]
    trainer.push_to_hub()
    assert fault.times == 0
    assert_on_hub(trainer)


@pytest.mark.parametrize("fault", ["500", "dropped"])
def test_a_push_that_fails_while_training_is_a_warning(fault, served, tmp_path, caplog):
    expected = make(tmp_path / "other", push_to_hub=False)
    expected.train()
    trainer = make(tmp_path / "run", hub_strategy="every_save")
    served.faults = [FAULTS[fault][0]]
    trainer.train()
    for message in warnings_of(caplog, 2):
        assert f"The push to {REPOSITORY} failed. Training goes on, and the next save pushes again." in message
        assert f"hf upload {REPOSITORY} {tmp_path / 'run'}" in message
    tiny.assert_same_outcome(tiny.outcome(expected), tiny.outcome(trainer))
    assert_saved(trainer)
    served.faults = []
    trainer.push_to_hub()
    assert_on_hub(trainer)


def test_the_next_save_pushes_again(served, tmp_path, caplog):
    trainer = make(tmp_path / "run", hub_strategy="every_save")
    served.faults = [hub.Fault("POST", "/commit/", 403, times=1)]
    trainer.train()
    assert [message for message, _ in served.commits[REPOSITORY]] == ["Training in progress, step 8"]
    warnings_of(caplog, 1)
    assert_on_hub(trainer)


def test_a_push_that_is_not_waited_for_warns(served, tmp_path, caplog):
    trainer = make(tmp_path / "run", max_steps=2)
    trainer.train()
    served.faults = [FAULTS["403"][0]]
    with pytest.raises(HfHubHTTPError):
        trainer.push_to_hub(blocking=False).result()
    assert f"The push to {REPOSITORY} failed. Nothing is lost" in warnings_of(caplog, 1)[0]


def test_the_model_is_saved_where_no_repository_can_be_made(served, tmp_path):
    trainer = make(tmp_path / "run", push_to_hub=False)
    trainer.train()
    served.faults = [hub.Fault("POST", "/repos/create", 500)]
    with pytest.raises(HfHubHTTPError, match=r"cannot be written to at .* Nothing is lost: what was trained is in"):
        trainer.push_to_hub()
    read = PeftModel.from_pretrained(tiny.bert(), tmp_path / "run", is_trainable=True)
    tiny.assert_same(tiny.values(trainer.model), tiny.values(read))


def test_a_disk_that_fails_is_not_taken_for_the_hub(served, tmp_path, monkeypatch):
    trainer = make(tmp_path / "run", max_steps=2)
    trainer.train()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", fail)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        trainer.push_to_hub()


def test_a_card_that_cannot_be_renewed_does_not_end_training(served, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("---\ntags: [\n---\n", encoding="utf-8")
    trainer = make(tmp_path / "run", hub_strategy="every_save", max_steps=4)
    trainer.train()
    assert "The model card could not be renewed; training goes on." in caplog.text
    assert "adapter_model.safetensors" in served.files(REPOSITORY)


def test_drawing_takes_little_of_the_time_between_saves(served, tmp_path, monkeypatch):
    drawn = []

    def draw(run, path):
        drawn.append(run.steps)
        # Half a second in 2 % of the time is a figure every 25 seconds.
        time.sleep(0.5)
        Image.new("RGB", (8, 8)).save(path)

    monkeypatch.setattr("hf_iomt.model_card.draw_run", draw)
    trainer = make(tmp_path / "run", hub_strategy="every_save", save_steps=2)
    trainer.train()
    assert drawn == [2] and len(served.commits[REPOSITORY]) == 4
    trainer.push_to_hub()
    assert drawn == [2, 8]
