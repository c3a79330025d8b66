from __future__ import annotations

import copy

import pytest
import tiny
import torch
import transformers
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.optim import SWATS, InterleavedOptimizer, get_family, list_families, parse_candidates
from hf_iomt.trainer_families import find_family


def arguments(**settings):
    return TrainingArguments(output_dir="run", use_cpu=True, report_to="none", **settings)


@pytest.mark.parametrize("name", list_families())
def test_registered_families_come_first(name):
    assert find_family(arguments())(name) is get_family(name)


@pytest.mark.parametrize(
    "name, optimizer_class, expected",
    [
        ("adamw_torch", torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-6}),
        ("adamw_torch_fused", torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-6, "fused": True}),
        ("adafactor", transformers.Adafactor, {"scale_parameter": False, "relative_step": False}),
    ],
)
def test_trainers_names_are_built_as_trainer_builds_them(name, optimizer_class, expected):
    args = arguments(adam_beta1=0.8, adam_beta2=0.99, adam_epsilon=1e-6, learning_rate=0.5)
    family = find_family(args)(name)
    assert (family.name, family.optimizer_class) == (name, optimizer_class)
    assert {key: family.defaults[key] for key in expected} == expected
    assert "lr" not in family.defaults
    built = family.build([torch.nn.Parameter(torch.zeros(2, 2))], {"lr": 0.125})
    assert built.param_groups[0]["lr"] == 0.125


def test_optim_args_reach_the_optimizer():
    family = find_family(arguments(optim_args="momentum_decay=0.01"))("nadam")
    assert family is get_family("nadam")
    family = find_family(arguments(optim_args="clip_threshold=0.5,decay_rate=-0.7"))("adafactor")
    built = family.build([torch.nn.Parameter(torch.zeros(2, 2))], {"lr": 0.1})
    # Trainer passes them on to some optimizers only; what it does is what counts.
    named = copy.copy(arguments(optim_args="clip_threshold=0.5,decay_rate=-0.7", optim="adafactor"))
    _, expected = Trainer.get_optimizer_cls_and_kwargs(named)
    expected.pop("lr")
    assert dict(family.defaults) == expected
    assert {key: built.defaults[key] for key in expected} == expected


def test_the_arguments_stay_as_they_are():
    args = arguments(optim="adamw_torch")
    before = args.to_json_string()
    find_family(args)("adafactor")
    assert args.to_json_string() == before and args.optim == OptimizerNames.ADAMW_TORCH


@pytest.mark.parametrize("name", [item.value for item in OptimizerNames])
def test_every_name_is_a_family_or_a_key_error_that_names_it(name):
    model = tiny.bert()
    try:
        family = find_family(arguments(), model)(name)
    except KeyError as error:
        assert f"{name!r}" in error.args[0]
        assert "cannot be built here" in error.args[0] or "take turns" in error.args[0]
    else:
        assert issubclass(family.optimizer_class, torch.optim.Optimizer)
        assert {"params", "model", "optimizer_dict", "lr"}.isdisjoint(family.defaults)


def test_what_is_not_installed_says_so():
    with pytest.raises(KeyError, match=r"'lomo' cannot be built here: .*lomo"):
        find_family(arguments(), tiny.bert())("lomo")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"'lion9'\. Known families: sgd, sgdm.*`TrainingArguments.optim`: .*adafactor"):
        find_family(arguments())("lion9")


@pytest.mark.parametrize("name", ["adafactor", "adamw_torch", "adamw_torch_fused"])
def test_steps_are_those_of_the_optimizer_that_trainer_builds(name):
    args = arguments(optim=name, learning_rate=0.01)
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args)
    torch.manual_seed(0)
    first = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
    second = [torch.nn.Parameter(item.detach().clone()) for item in first]
    find = find_family(args)
    interleaved = InterleavedOptimizer(first, parse_candidates(f"{name}:lr=0.01", find), find_family=find)
    # Trainer sets the weight decay of each group, and so does the interleaved optimizer.
    expected = optimizer_class([{"params": second, "weight_decay": 0.0}], **settings)
    start = [item.detach().clone() for item in first]
    for _ in range(5):
        for one, other in zip(first, second, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        interleaved.step()
        expected.step()
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first, start, strict=True))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_no_schedule_of_trainer_undoes_the_switch_of_swats(tmp_path, schedule):
    settings = tiny.quiet(tmp_path, lr_scheduler_type=schedule, warmup_steps=5)
    model = tiny.lora()
    own = {"lr": 0.01, "tolerance": 0.03}
    trainer = Trainer(
        model, TrainingArguments(**settings), train_dataset=tiny.Texts(), optimizer_cls_and_kwargs=(SWATS, own)
    )
    trainer.train()
    swats = trainer.optimizer.optimizer
    assert swats.switch_step < 35
    args = IOMTTrainingArguments(iomt_candidates="swats:lr=0.01,tolerance=0.03", **settings)
    other = IOMTTrainer(tiny.lora(), args, train_dataset=tiny.Texts())
    other.train()
    tiny.assert_same(tiny.values(model), tiny.values(other.model))
    # The step that Λ gives at the full rate, times what the schedule says.
    multiplier = swats.param_groups[0]["lr"] / 0.01
    parameter = swats.param_groups[0]["params"][0]
    before = parameter.detach().clone()
    for group in swats.param_groups:
        group["lr"] = 0.005
        for item in group["params"]:
            item.grad = torch.ones_like(item)
    momentum = swats.state[parameter]["exp_avg"].clone()
    swats.step()
    expected = 0.1 * 0.5 * swats.sgd_learning_rate * (0.9 * momentum + 1)
    torch.testing.assert_close(before - parameter, expected)
    assert multiplier == (1 if schedule == "constant" else pytest.approx(0, abs=1e-9))
