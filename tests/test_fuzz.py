"""Whatever users write into the arguments: a run that finishes, or an error at its start that says what is wrong."""

from __future__ import annotations

import linecache
import math
import pprint
import random
import re
import traceback

import numpy as np
import pytest
import tiny
from fuzz_values import BAD, BAD_TRAINER, BAD_VALUES, GOOD, MALFORMED, TAKES, TRAINER, VALUES
from torch.utils.data import Dataset

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import PRESETS, Candidate

CASES = 50


def draw_part(rng, family, bad=None):
    """A family with some of its hyperparameters, one of them not allowed on request."""
    chosen = {"lr": VALUES["lr"]}
    for name in rng.sample(TAKES[family], rng.choice((0, 0, 1, 2))):
        chosen[name] = VALUES[name]
    texts = {name: "|".join(rng.sample(values, rng.choice((1, 1, 2)))) for name, values in chosen.items()}
    if bad is not None:
        texts[bad] = rng.choice(BAD_VALUES[bad])
    space = rng.choice(("", " "))
    return f"{space}{family}{space}:{space}" + f",{space}".join(
        f"{name}{space}={space}{text}" for name, text in rng.sample(list(texts.items()), len(texts))
    )


def draw_candidates(rng, bad):
    if bad and rng.random() < 0.5:
        return rng.choice(MALFORMED)
    kind = rng.random()
    if kind < 0.25 and not bad:
        return rng.choice((None, "auto", *PRESETS))
    parts = [draw_part(rng, rng.choice(list(TAKES))) for _ in range(rng.choice((1, 2, 2, 3)))]
    if bad:
        wrong = rng.choice(list(BAD_VALUES))
        parts.insert(rng.randrange(len(parts) + 1), draw_part(rng, rng.choice(list(TAKES)), wrong))
    if kind < 0.6 or bad:
        return parts if rng.random() < 0.3 else rng.choice(("; ", ";", " ;; ")).join(parts)
    rate = np.float64(0.1234567891234)
    return [
        {"family": rng.choice(list(TAKES)), "lr": rng.choice((0.01, 1, np.float32(0.1), rate)), "weight_decay": None},
        Candidate(rng.choice(list(TAKES)), (("lr", rng.choice((0.01, 0.1 + 0.2, rate))),)),
        {"family": "adam", "lr": 1e-3, "betas": [0, 0.9]},
        *parts,
    ]


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


def head():
    model = tiny.bert()
    model.bert.requires_grad_(False)
    return model


def one_bias():
    model = tiny.bert().requires_grad_(False)
    model.classifier.bias.requires_grad_(True)
    return model


MODELS = {
    "lora": tiny.lora,
    "full": tiny.bert,
    "head": head,
    "regression": lambda: tiny.bert(labels=1),
    "one bias": one_bias,
    "nothing": lambda: tiny.bert().requires_grad_(False),
}
DATA = {
    "map": lambda regression: tiny.Texts(24, regression=regression),
    "stream": lambda regression: tiny.Stream(tiny.Texts(24, regression=regression)),
    "three": lambda regression: tiny.Texts(3, regression=regression),
    "one": lambda regression: tiny.Texts(1, regression=regression),
    "empty": lambda regression: Empty(),
    "none": lambda regression: None,
}
METRICS = {
    "none": None,
    "accuracy": lambda prediction: {"accuracy": float(np.mean(np.asarray(prediction.predictions) > 0))},
    "nan": lambda prediction: {"accuracy": math.nan},
    "nothing": lambda prediction: {},
}


def make_whole(rng, arguments):
    """Most of what some arguments need others for."""
    if "lr_scheduler_type" in arguments:
        name, *keywords = arguments["lr_scheduler_type"]
        arguments["lr_scheduler_type"] = name
        arguments.update(zip(("lr_scheduler_kwargs",), keywords, strict=False))
    if rng.random() < 0.1:
        return
    evaluation = arguments.get("eval_strategy", "no")
    if arguments.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy") and evaluation == "no":
        evaluation = arguments["eval_strategy"] = "epoch"
    if arguments.get("load_best_model_at_end") or arguments.get("save_strategy") == "best":
        if evaluation == "no":
            evaluation = arguments["eval_strategy"] = "steps"
        if arguments.get("save_strategy") != "best":
            arguments["save_strategy"] = evaluation
            arguments["save_steps"] = arguments["eval_steps"] = 1
        arguments["metric_for_best_model"] = "loss"


def draw_case(rng):
    """One run: what is given, and which arguments cannot be right whatever the rest is."""
    arguments = {"max_steps": rng.choice((3, 3, 3, 3, 1, 12, 40))}
    bad = set()
    for name in rng.sample(list(GOOD), rng.choice((0, 2, 4, 8))):
        arguments[name] = rng.choice(GOOD[name])
    for name in rng.sample(list(TRAINER), rng.choice((0, 2, 5, 10))):
        arguments[name] = rng.choice(TRAINER[name])
    if rng.random() < 0.1:
        arguments["max_steps"], arguments["num_train_epochs"] = rng.choice((-1, -1, 0)), rng.choice((1, 0.5, 0, 2))
        # Trainer divides by a share of no steps.
        arguments["logging_steps"] = arguments["eval_steps"] = 1
    arguments["iomt_candidates"] = draw_candidates(rng, False)
    kind = rng.random()
    if kind < 0.15:
        name = rng.choice(list(BAD))
        arguments[name] = rng.choice(BAD[name])
        bad.add(name)
    elif kind < 0.27:
        arguments["iomt_candidates"] = draw_candidates(rng, True)
        bad.add("iomt_candidates")
    elif kind < 0.32:
        name = rng.choice(list(BAD_TRAINER))
        arguments[name] = rng.choice(BAD_TRAINER[name])
        if name == "num_train_epochs":
            arguments["max_steps"] = -1
        if name == "logging_steps":
            arguments["logging_strategy"] = "steps"
        bad.add(name)
    make_whole(rng, arguments)
    case = {
        "arguments": arguments,
        "bad": bad,
        "model": rng.choice(("lora", "full", "head", "regression", "one bias") * 3 + ("nothing",)),
        "data": rng.choice(("map",) * 9 + ("stream", "three", "three", "one", "one", "none", "empty")),
        "eval": rng.choice(("map", "map", "map", "three", "one", "stream", "none")),
        "metrics": rng.choice(("none", "accuracy", "accuracy", "accuracy", "nan", "nothing")),
    }
    if case["model"] == "regression":
        # Trainer has smooth labels for classes only.
        arguments.pop("label_smoothing_factor", None)
    if case["metrics"] in ("none", "nothing") and arguments.get("metric_for_best_model") == "accuracy":
        # Trainer looks for it in the first evaluation.
        arguments.pop("metric_for_best_model")
    if case["data"] == "stream":
        # Trainer steps never where a stream ends before the batches of a step.
        arguments["gradient_accumulation_steps"] = min(arguments.get("gradient_accumulation_steps", 1), 3)
        arguments["per_device_train_batch_size"] = min(arguments.get("per_device_train_batch_size", 4), 8)
    if arguments.get("dataloader_drop_last"):
        # So that there is a batch to evaluate on: Trainer looks for its loss.
        case["eval"], arguments["per_device_eval_batch_size"] = "map", 8
    return case


def train(case, path):
    """The trainer and the error, if one was raised."""
    trainer = None
    try:
        args = IOMTTrainingArguments(
            output_dir=str(path), use_cpu=True, **{"disable_tqdm": True, "save_strategy": "no", **case["arguments"]}
        )
        regression = case["model"] == "regression"
        trainer = IOMTTrainer(
            MODELS[case["model"]](),
            args,
            train_dataset=DATA[case["data"]](regression),
            eval_dataset=DATA[case["eval"]](regression),
            compute_metrics=METRICS[case["metrics"]],
        )
        trainer.train()
    except Exception as error:
        return trainer, error
    return trainer, None


def complaint(case, trainer, error):
    """What is wrong with an error, if anything."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno).strip()
    if not isinstance(error, (TypeError, ValueError)):
        return "its type"
    if not re.search(r"/(hf_iomt|transformers)/", frame.filename) or not line.startswith("raise "):
        return "it comes from within"
    if trainer is not None and trainer.state.global_step > 0:
        return "training had begun"
    text = str(error)
    words = (*case["arguments"], "candidate", "train_dataset", "eval_dataset", "trainable parameter")
    values = [case["arguments"].get(name, "-") for name in ("lr_scheduler_type", "eval_strategy", "optim")]
    if not any(word in text for word in (*words, *values)):
        return "it names nothing that was given"
    if case["bad"] and trainer is None and not any(word in text for word in (*case["bad"], *values, "candidate")):
        return "it names something else"
    return None


def examine(trainer):
    """What is wrong with a run that finished, if anything."""
    history = trainer.iomt_history
    numbers = [value for record in history for value in record.values() if isinstance(value, float)]
    if not all(map(math.isfinite, numbers)):
        return "numbers of the history are not finite"
    steps = [step for record in history for step in range(record["first_step"], record["last_step"] + 1)]
    if steps != list(range(1, trainer.state.global_step + 1)):
        return "steps are missing in the history"
    safe = trainer.args.iomt_rollback and len(trainer.interleaved_optimizer.candidates) > 1
    if safe and not all(item.isfinite().all() for item in tiny.values(trainer.model).values()):
        return "weights are not finite"
    return None


def run_case(seed, path):
    """Whether the run finished; fails with the arguments where it ended in another way than it should."""
    case = draw_case(random.Random(seed))
    trainer, error = train(case, path)
    problem = examine(trainer) if error is None else complaint(case, trainer, error)
    if error is None and case["bad"]:
        problem = f"{', '.join(case['bad'])} should have been refused"
    if problem is not None:
        shown = "".join(traceback.format_exception(error)[-6:]) if error is not None else ""
        pytest.fail(f"{problem}: case {seed}\n{pprint.pformat(case)}\n{shown}", pytrace=False)
    return error is None


@pytest.mark.parametrize(
    "block", [*range(5), *(pytest.param(block, marks=pytest.mark.slow) for block in range(5, 10))]
)
def test_arguments(tmp_path, block, small_heap):
    finished = 0
    for number in range(CASES):
        finished += run_case(block * CASES + number, tmp_path / str(number))
    print(f"{finished} runs finished, {CASES - finished} were refused.")
    assert finished >= 0.3 * CASES and CASES - finished >= 0.2 * CASES
