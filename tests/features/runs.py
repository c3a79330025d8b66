"""Several runs, data, losses and the Hub."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import tiny
import torch
from features.rows import THREE, At, differ, history_of, make, refused, works

from hf_iomt import IOMTTrainer


@works("train() twice")
def twice(path):
    trainer = make(path, tiny.bert(dropout=0.0))
    losses = [tiny.loss_of(trainer.model)]
    for _ in range(2):
        trainer.train()
        history = history_of(trainer, 40)
        losses.append(tiny.loss_of(trainer.model))
        assert history[0]["phase"] == "race" and history[0]["learning_rate"] == 0.01
    assert losses[0] > losses[1] > losses[2]


@works("model_init")
def made_anew(path):
    trainer = make(path, model_init=lambda: tiny.bert(dropout=0.0))
    trainer.train()
    first, model = tiny.outcome(trainer), trainer.model
    trainer.train()
    assert trainer.model is not model
    tiny.assert_same_outcome(first, tiny.outcome(trainer))


@works("hyperparameter_search with Optuna")
def search(path):
    optuna = pytest.importorskip("optuna")
    space = {"iomt_switch_steps": [3, 5]}
    starts = []
    trainer = make(
        path,
        model_init=lambda: tiny.bert(dropout=0.0),
        callbacks=[At("on_train_begin", lambda model, **_: starts.append(tiny.values(model)))],
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {name: trial.suggest_categorical(name, values) for name, values in space.items()},
        n_trials=2,
        direction="minimize",
        backend="optuna",
        sampler=optuna.samplers.GridSampler(space, seed=0),
    )
    tiny.assert_same(*starts)
    lengths = set()
    for number in range(2):
        history = json.loads((path / f"run-{number}" / "iomt_history.json").read_text())
        assert history[-1]["last_step"] == 40 and history[0]["phase"] == "race"
        cycle = next(record for record in history if record["phase"] == "surrogate")
        lengths.add(cycle["last_step"] - cycle["first_step"] + 1)
    assert lengths == {3, 5} and best.hyperparameters["iomt_switch_steps"] in (3, 5)


@refused("hyperparameter_search over learning_rate or optim")
def search_in_vain(path):
    pytest.importorskip("optuna")
    trainer = make(path, model_init=lambda: tiny.bert())
    # The default space of transformers.
    with pytest.raises(
        ValueError, match=r"searches `learning_rate`, which has no effect.*`iomt_candidates`.*hp_space"
    ):
        trainer.hyperparameter_search(n_trials=1, direction="minimize", backend="optuna")
    with pytest.raises(ValueError, match=r"`0 <= iomt_min_weight <= 1` must hold, but got iomt_min_weight=7"):
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"iomt_min_weight": trial.suggest_categorical("iomt_min_weight", [7.0])},
            n_trials=1,
            direction="minimize",
            backend="optuna",
        )


@works("IterableDataset")
def stream(path):
    trainer = make(path, tiny.bert(dropout=0.0), data=tiny.Stream(tiny.Texts()))
    trainer.train()
    history_of(trainer, 40)
    assert tiny.loss_of(trainer.model) < tiny.loss_of(tiny.bert(dropout=0.0))


class Lengths(tiny.Texts):
    def __getitem__(self, index):
        return {"input_ids": self.ids[index][: 2 + index % 5], "labels": self.labels[index]}


def pad(rows):
    ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.stack([row["labels"] for row in rows]),
    }


@works('train_sampling_strategy="group_by_length"')
def grouped(path):
    def padding(strategy):
        lengths = []

        class Watching(IOMTTrainer):
            def training_step(self, model, inputs, *args, **kwargs):
                lengths.append(inputs["attention_mask"].sum(1))
                return super().training_step(model, inputs, *args, **kwargs)

        trainer = make(path, cls=Watching, data=Lengths(), train_sampling_strategy=strategy)
        trainer.data_collator = pad
        trainer.train()
        history_of(trainer, 40)
        return sum(int((batch.max() - batch).sum()) for batch in lengths)

    assert padding("group_by_length") < 0.5 * padding("random")


@works("dataloader_num_workers")
def workers(path):
    # With workers random numbers are drawn in another order.
    expected = make(path, tiny.bert(dropout=0.0))
    found = make(path, tiny.bert(dropout=0.0), dataloader_num_workers=1, dataloader_persistent_workers=True)
    expected.train()
    found.train()
    tiny.assert_same_outcome(tiny.outcome(expected), tiny.outcome(found))


@works("label_smoothing_factor")
def smoothing(path):
    trainer = make(path, tiny.bert(dropout=0.0), label_smoothing_factor=0.2, logging_strategy="steps", logging_steps=1)
    seen = []

    def first_loss(inputs):
        logits = torch.log_softmax(tiny.bert(dropout=0.0)(inputs["input_ids"]).logits, -1)
        right = logits.gather(1, inputs["labels"][:, None])[:, 0]
        return float(-(0.8 * right + 0.2 * logits.mean(-1)).mean())

    step = trainer.training_step

    def watch(model, inputs, *args, **kwargs):
        seen.append(dict(inputs))
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(first_loss(seen[0]), abs=1e-3)
    # The probe of the race sees the same loss.
    history = history_of(trainer, 40)
    assert history[0]["score"] is not None


@works("neftune_noise_alpha")
def noise(path):
    quiet, noisy = make(path, tiny.bert(dropout=0.0)), make(path, tiny.bert(dropout=0.0), neftune_noise_alpha=5.0)
    probed = []

    def probe(**_):
        probed.extend(float(noisy.interleaving._guard._probe().mean()) for _ in range(2))

    noisy.add_callback(At("on_step_begin", probe, 20))
    quiet.train()
    noisy.train()
    assert differ(tiny.values(quiet.model), tiny.values(noisy.model))
    # Training is noisy, what is measured is not, and the hook is gone afterwards.
    assert probed[0] == probed[1]
    assert not noisy.model.get_input_embeddings()._forward_hooks
    history_of(noisy, 40)


@works("logging_nan_inf_filter")
def filtered(path):
    """The logs do not show that a candidate diverges; the selection sees it all the same."""

    class Diverging(IOMTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            diverges = model.training and 10 <= self.state.global_step < 14
            return loss * float("nan") if diverges else loss

    trainer = make(
        path, tiny.bert(dropout=0.0), cls=Diverging, logging_strategy="steps", logging_steps=1, iomt_race_steps=0
    )
    trainer.train()
    assert all(math.isfinite(item["loss"]) for item in trainer.state.log_history if "loss" in item)
    undone = [record for record in history_of(trainer, 40) if record["rolled_back"]]
    assert undone and {record["first_step"] for record in undone} == {9, 13}
    assert math.isfinite(tiny.loss_of(trainer.model)) and tiny.loss_of(trainer.model) < tiny.loss_of(
        tiny.bert(dropout=0.0)
    )


PUSHING = '''
import json, sys, torch, tiny
from peft import PeftModel
from hf_iomt import IOMTTrainer, IOMTTrainingArguments

torch.set_num_threads(1)
args = IOMTTrainingArguments(
    output_dir=sys.argv[1], use_cpu=True, report_to="none", disable_tqdm=True, save_steps=10, max_steps=30,
    per_device_train_batch_size=4, iomt_candidates=sys.argv[2], iomt_switch_steps=4, iomt_transferability=0.5,
    push_to_hub=True, hub_strategy="every_save", hub_always_push=True, hub_model_id="tester/adapter", hub_token="hf_x",
)
class Waiting(IOMTTrainer):
    """A push reads its files while training goes on; waiting shows what was there when it began."""

    def _push_from_checkpoint(self, folder):
        super()._push_from_checkpoint(folder)
        self._finish_current_push()

trainer = Waiting(tiny.lora(), args, train_dataset=tiny.Texts())
trainer.train()
trainer.push_to_hub()
read = PeftModel.from_pretrained(tiny.bert(), "tester/adapter", is_trainable=True)
tiny.assert_same(tiny.values(trainer.model), tiny.values(read))
'''


@works("push_to_hub while training")
def pushed(path):
    with hub.serve() as served:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": served.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(path / "home"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        result = subprocess.run(
            [sys.executable, "-c", PUSHING, str(path / "run"), THREE],
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
        )
    assert result.returncode == 0, result.stderr[-3000:]
    commits = served.commits["tester/adapter"]
    steps = []
    for message, files in commits:
        if match := re.match(r"Training in progress, step (\d+)", message):
            steps.append(int(match[1]))
            # What was done until this very save.
            assert json.loads(files["iomt_history.json"])[-1]["last_step"] == steps[-1]
            assert {"adapter_model.safetensors", "adapter_config.json"} <= set(files)
    assert steps == [10, 20, 30]
    assert {"README.md", "iomt_history.json"} <= set(commits[-1][1])
