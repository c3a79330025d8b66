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
from torch.utils.data import Dataset

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import PRESETS, Candidate

CASES = 50
HUGE = 10**400
# What users write where a number belongs, none of which is one.
NO_NUMBERS = ("3", "many", "", math.nan, True, [1], (2,), {"steps": 3}, b"1")
NO_COUNTS = (*NO_NUMBERS, 2.5, 1.0, math.inf, -1, -math.inf, HUGE, "1e3")
NO_CHOICES = ("", "other", 3, True, ["default"], math.nan, "Default")

GOOD = {
    "iomt_preset": ("default", "paper"),
    "iomt_idle_state": ("keep", "reset"),
    "iomt_switch_steps": (None, 1, 1.0, 2, 25, 3.0, 10**9, 0.5, 1e-6, 0.999),
    "iomt_initial_cycles": (None, 0, 1, 6, 10**9),
    "iomt_initial_sampling": ("weighted", "uniform"),
    "iomt_min_weight": (0, 1, 0.1, 0.0, 1e-300),
    "iomt_selection": ("surrogate", "surrogate", "random", "cyclical", "commit"),
    "iomt_score": (None, "losses", "trend", "probe"),
    "iomt_alpha": (0, 0.1, -0.5, 1e6, -1e6),
    "iomt_surrogate_window": (2, 3, 64, 10**9),
    "iomt_state_compression": ("pca", "rp", "none"),
    "iomt_state_components": (1, 2, 8, 1000),
    "iomt_state_parameters": (None, "", ".", "classifier|bias", r"(weight|bias)$"),
    "iomt_transferability": ("auto", "off", 0, 1, 0.5, "0.25", "1e-3"),
    "iomt_transferability_split": ("train", "eval"),
    "iomt_transferability_samples": (2, 7, 2000, 10**9),
    "iomt_performance_metric": (None, "loss", "accuracy", "eval_accuracy", "f1", "no such metric"),
    "iomt_distribution_metrics": ([], ["log_me"], ["h_score", "leep"], ("log_me", "leep", "h_score")),
    "iomt_beta": (0, 1, 0.5, 1e-9),
    "iomt_halving_cycles": (None, 0, 1, 20, 10**9),
    "iomt_variance_weight": (None, "text", "printed"),
    "iomt_advantage": (None, 0, 2.0, 1e6),
    "iomt_race_steps": (None, 0, 1, 40, 10**9),
    "iomt_rollback": (None, True, False),
    "iomt_patience": (None, 0, 1, 10**9),
    "iomt_overfitting_samples": (None, 0, 1, 64, 10**9),
    "iomt_probe_samples": (0, 1, 3, 1000, 10**9),
}
BAD = {
    "iomt_preset": (*NO_CHOICES, None),
    "iomt_idle_state": (*NO_CHOICES, None),
    "iomt_switch_steps": (0, -1, 2.5, math.nan, math.inf, "ten", "5", "", True, False, [3], HUGE, -HUGE),
    "iomt_initial_cycles": NO_COUNTS,
    "iomt_initial_sampling": (*NO_CHOICES, None),
    "iomt_min_weight": (*NO_NUMBERS, None, -0.1, 1.5, HUGE, math.inf),
    "iomt_selection": (*NO_CHOICES, None),
    "iomt_score": NO_CHOICES,
    "iomt_alpha": (*NO_NUMBERS, None, math.inf, -math.inf, 1e7, HUGE),
    "iomt_surrogate_window": (*NO_COUNTS, None, 0, 1),
    "iomt_state_compression": (*NO_CHOICES, None, "tsne"),
    "iomt_state_components": (*NO_COUNTS, None, 0, 10**9),
    "iomt_state_parameters": (3, True, ["classifier"], "*weight", "(", b"weight", math.nan, "decoder"),
    "iomt_transferability": ("1.01", -0.1, 2, "", "high", math.nan, math.inf, None, [0.5], True, HUGE, {}),
    "iomt_transferability_split": (*NO_CHOICES, None, "test"),
    "iomt_transferability_samples": (*NO_COUNTS, None, 0, 1),
    "iomt_performance_metric": ("", 3, True, ["accuracy"], math.nan),
    "iomt_distribution_metrics": ("log_me", ["logme"], ["leep", "leep"], None, 3, [["leep"]], [None], {"leep": 1}),
    "iomt_beta": (*NO_NUMBERS, None, -0.1, 1.5, HUGE),
    "iomt_halving_cycles": NO_COUNTS,
    "iomt_variance_weight": NO_CHOICES,
    "iomt_advantage": (*NO_NUMBERS, -1, math.inf, 1e7, HUGE),
    "iomt_race_steps": NO_COUNTS,
    "iomt_rollback": ("yes", "false", "", 1, 0, [], math.nan),
    "iomt_patience": NO_COUNTS,
    "iomt_overfitting_samples": NO_COUNTS,
    "iomt_probe_samples": (*NO_COUNTS, None),
}
# Trainer's own. What it refuses by itself is among them.
TRAINER = {
    "per_device_train_batch_size": (1, 4, 4, 8, 100),
    "per_device_eval_batch_size": (1, 8, 100),
    "gradient_accumulation_steps": (1, 2, 3, 100),
    "lr_scheduler_type": (
        ("linear",),
        ("linear", {}),
        ("cosine",),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"power": 2.0}),
        ("constant",),
        ("constant_with_warmup",),
        ("inverse_sqrt", {"timescale": 2}),
        ("reduce_lr_on_plateau", {"factor": 0.5}),
        ("cosine_with_min_lr", {"min_lr": 1e-5}),
        ("cosine_with_min_lr",),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 1}),
        ("warmup_stable_decay",),
        ("greedy", {"patience": 1}),
    ),
    "warmup_steps": (0, 1, 2, 100, 0.1, 0.99),
    "max_grad_norm": (1.0, 0, 0.0, 1e-12, 1e-30, 1e9, -1.0, math.nan),
    "weight_decay": (0.0, 0.01, 1, 1e6),
    "logging_strategy": ("no", "steps", "epoch"),
    "logging_steps": (1, 2, 500, 0.5),
    "logging_first_step": (True, False),
    "logging_nan_inf_filter": (True, False),
    "eval_strategy": ("no", "steps", "epoch", "steps"),
    "eval_steps": (1, 2, 0.5, None),
    "eval_on_start": (True, False),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "save_steps": (1, 2, 500),
    "save_total_limit": (None, 1),
    "save_only_model": (True, False),
    "load_best_model_at_end": (True, False),
    "metric_for_best_model": (None, "loss", "eval_loss", "accuracy"),
    "greater_is_better": (None, True, False),
    "bf16": (True, False),
    "gradient_checkpointing": (True, False),
    "train_sampling_strategy": ("random", "sequential", "group_by_length"),
    "dataloader_drop_last": (True, False),
    "label_smoothing_factor": (0.0, 0.1, 1.0, 1.5, -0.1),
    "seed": (0, 1, 42, 2**31, 2**32 - 1),
    "data_seed": (None, 0, 1, 2**32),
    "disable_tqdm": (True, True, False),
    "learning_rate": (5e-5, 0, 1e6, -1),
    "optim": ("adamw_torch", "sgd", "adafactor"),
    "adam_epsilon": (1e-8, 0.0),
    "include_num_input_tokens_seen": (True, "non_padding"),
    "neftune_noise_alpha": (None, 5.0),
    "torch_empty_cache_steps": (None, 1),
}
BAD_TRAINER = {
    "per_device_train_batch_size": (0, -1),
    "gradient_accumulation_steps": (0, -2),
    "seed": (-1, 2**32, HUGE),
    "data_seed": (HUGE, -HUGE),
    "num_train_epochs": (-1, math.nan, math.inf),
    "max_grad_norm": (None, "1"),
    "weight_decay": (math.nan, math.inf, -0.1, "0.1"),
    # What Trainer refuses itself.
    "lr_scheduler_type": (("none such",), ("linear", {"factor": 0.5})),
    "eval_strategy": ("never",),
    "logging_steps": (0, 1.5),
    "warmup_steps": (-1,),
    "optim": ("no such optimizer",),
    "torch_empty_cache_steps": (0, "often"),
}

# Hyperparameters that some family takes, each with what it may be and with what it may not.
VALUES = {
    "lr": ("0.01", "1e-3", "0.1", "1", "1e6", "1e-30", "1E-2", "5"),
    "weight_decay": ("0", "0.01", "1", "1e3"),
    "momentum": ("0", "0.9", "1", "5"),
    "betas": ("0.9/0.99", "0/0.5", "0/0", "0.5/0.5"),
    "eps": ("1e-8", "1e-3", "1"),
    "amsgrad": ("true", "false"),
    "maximize": ("true", "false"),
    "foreach": ("true", "false"),
    "fused": ("true", "false"),
    "dampening": ("0", "0.5"),
    "alpha": ("0.5", "0.99"),
    "centered": ("true", "false"),
    "lr_decay": ("0", "0.1"),
    "initial_accumulator_value": ("0", "0.1"),
    "momentum_decay": ("0.004", "0"),
    "decoupled_weight_decay": ("true", "false"),
    "lambd": ("1e-4", "0"),
    "t0": ("1", "1e6"),
}
BAD_VALUES = {
    "lr": ("0", "-1", "nan", "inf", "-inf", "", "fast", "true", "1e300", "1e39", "1/2", "1" * 5000, "none", "1,5"),
    "weight_decay": ("-1", "nan", "inf", "light", "0.1/0.2", "1e300"),
    "momentum": ("-1", "nan", "inf", "0.9/0.8", "1e300", ""),
    "betas": ("0.9", "2/3", "0.9/0.99/0.999", "0.9/", "/", "nan/0.9", "0.9/nan", "true", "-0.1/0.9", "high/low"),
    "eps": ("-1", "nan", "inf", "1/2", "x"),
    "amsgrad": ("maybe", "1/2", "nan"),
    "capturable": ("true", "false"),
    "differentiable": ("true",),
    "foreach": ("x",),
    "alpha": ("nan", "x", "0.9/0.9"),
    "params": ("1",),
    "self": ("1",),
    "speed": ("3",),
    "closure": ("1",),
}
MALFORMED = (
    "",
    " ; ",
    ":",
    "adam",
    "adam:",
    "adam:lr",
    "adam:lr=",
    "adam:lr=0.1,",
    "adam:lr=|",
    "adam:lr=0.1|",
    "adam:lr=0.1,lr=0.2",
    "adam:=0.1",
    ":lr=0.1",
    "adam lr=0.1",
    "adam:lr==0.1",
    "adam;lr=0.1",
    "adam:lr=0.1:adamw:lr=0.1",
    "papre",
    "lion9:lr=0.1",
    "ADAM:lr=0.1",
    "adam:lr=0.1\x00",
    "lomo:lr=0.1",
    "galore_adamw:lr=0.1",
    "adam:betas=0.9/0.99",
    "adamw:lr=0.1,fused=true,foreach=true",
    "nag:lr=0.1,dampening=0.5",
    "nag:lr=0.1,momentum=0",
    "sgd:lr=0.1,momentum=0.9",
    3,
    True,
    math.nan,
    b"adam:lr=0.1",
    {"family": "adam", "lr": 0.1},
    Candidate("adam", (("lr", 0.1),)),
    [],
    [[]],
    [3],
    [None],
    ["adam:lr=0.1", None],
    [{"lr": 0.1}],
    [{"family": "adam"}],
    [{"family": None, "lr": 0.1}],
    [{"family": "adam", "lr": "fast"}],
    [{"family": "adam", "lr": HUGE}],
    [{"family": "adam", "lr": 0.1, "eps": HUGE}],
    [{"family": "adam", "lr": {"a": 1}}],
    [{"family": "adam", "lr": [0.1, 0.2]}],
    [{"family": "adam", "lr": 0.1, 3: 4}],
    [Candidate("adam", ())],
    [Candidate("nothing", (("lr", 0.1),))],
    [Candidate("adam", (("lr", "x"),))],
)


# Which of them a family takes.
TAKES = {
    "sgd": ("weight_decay", "dampening", "maximize", "foreach"),
    "sgdm": ("weight_decay", "momentum", "dampening", "maximize", "foreach", "fused"),
    "nag": ("weight_decay", "maximize", "foreach"),
    "asgd": ("weight_decay", "lambd", "alpha", "t0", "foreach"),
    "adagrad": ("weight_decay", "lr_decay", "initial_accumulator_value", "eps", "foreach", "fused"),
    "rmsprop": ("weight_decay", "alpha", "eps", "momentum", "centered", "foreach"),
    "adam": ("weight_decay", "betas", "eps", "amsgrad", "foreach", "decoupled_weight_decay"),
    "adamw": ("weight_decay", "betas", "eps", "amsgrad", "fused", "maximize"),
    "adamax": ("weight_decay", "betas", "eps", "foreach"),
    "nadamw": ("weight_decay", "betas", "eps", "momentum_decay"),
    "nadam": ("weight_decay", "betas", "eps", "momentum_decay", "decoupled_weight_decay"),
    "radam": ("weight_decay", "betas", "eps", "decoupled_weight_decay"),
}


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
