from __future__ import annotations

import pytest
import torch

from hf_iomt.optim import (
    SWATS,
    AdaBound,
    Family,
    Padam,
    families,
    get_family,
    list_families,
    parse_candidates,
    register_family,
)


class Other(torch.optim.SGD):
    def __init__(self, params, lr=0.1, *, strength=2.0, **kwargs):
        super().__init__(params, lr=lr)
        self.strength = strength


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


def build(family, **settings):
    return get_family(family).build([torch.nn.Parameter(torch.zeros(2))], {"lr": 0.1, **settings})


@pytest.mark.parametrize(
    "name, optimizer_class, entries",
    [
        ("sgd", torch.optim.SGD, {"momentum": 0, "nesterov": False}),
        ("sgdm", torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ("nag", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("asgd", torch.optim.ASGD, {}),
        ("adagrad", torch.optim.Adagrad, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ("adam", torch.optim.Adam, {"decoupled_weight_decay": False}),
        ("adamw", torch.optim.AdamW, {"decoupled_weight_decay": True}),
        ("adamax", torch.optim.Adamax, {}),
        ("nadam", torch.optim.NAdam, {}),
        ("nadamw", torch.optim.NAdam, {"decoupled_weight_decay": True}),
        ("radam", torch.optim.RAdam, {}),
    ],
)
def test_families_are_torchs_optimizers_with_torchs_defaults(name, optimizer_class, entries):
    optimizer = build(name)
    assert type(optimizer) is optimizer_class
    plain = optimizer_class([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    assert optimizer.defaults == {**plain.defaults, **entries}


@pytest.mark.parametrize("name, optimizer_class", [("swats", SWATS), ("padam", Padam), ("adabound", AdaBound)])
def test_the_papers_baselines_are_families_with_their_own_defaults(name, optimizer_class):
    optimizer = build(name)
    assert type(optimizer) is optimizer_class
    assert optimizer.defaults == optimizer_class([torch.nn.Parameter(torch.zeros(2))], lr=0.1).defaults
    # What a candidate cannot set is no default.
    assert set(optimizer.defaults) == set(get_family(name).hyperparameters)


def test_the_papers_five_families_are_there():
    assert {"sgd", "sgdm", "adagrad", "rmsprop", "adam"} <= set(list_families())


@pytest.mark.parametrize(
    "name, settable, fixed",
    [
        ("sgd", {"lr", "weight_decay"}, {"momentum", "nesterov"}),
        ("sgdm", {"lr", "weight_decay", "momentum"}, {"nesterov"}),
        ("adam", {"lr", "betas", "eps", "weight_decay"}, {"self", "params"}),
        ("rmsprop", {"lr", "alpha", "momentum", "weight_decay"}, {"params"}),
    ],
)
def test_hyperparameters_are_what_a_candidate_may_set(name, settable, fixed):
    names = set(get_family(name).hyperparameters)
    assert settable <= names
    assert not fixed & names


def test_keyword_only_arguments_can_be_set_but_not_catch_alls():
    assert Family("other", Other).hyperparameters == ("lr", "strength")


def test_settings_override_defaults_and_fixed_arguments_override_both():
    family = Family("x", torch.optim.SGD, defaults={"momentum": 0.5, "lr": 0.3}, fixed={"nesterov": True})
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert family.build([parameter], {}).defaults["momentum"] == 0.5
    assert family.build([parameter], {}).defaults["lr"] == 0.3
    built = family.build([parameter], {"momentum": 0.7, "nesterov": False}).defaults
    assert (built["momentum"], built["nesterov"]) == (0.7, True)


def test_a_registered_family_can_be_named_in_candidate_lists():
    family = register_family("other", Other, defaults={"strength": 3.0})
    assert get_family("other") is family
    assert list_families()[-1] == "other"
    assert build("other").strength == 3.0
    (candidate,) = parse_candidates("other:lr=0.5,strength=4.0")
    assert candidate.settings == {"lr": 0.5, "strength": 4.0}


def test_registering_does_not_keep_the_callers_dictionary():
    defaults = {"strength": 3.0}
    register_family("other", Other, defaults=defaults)
    defaults["strength"] = 5.0
    assert build("other").strength == 3.0


def test_registering_the_same_class_again_is_allowed():
    register_family("other", Other)
    count = len(list_families())
    register_family("other", Other)
    assert len(list_families()) == count


def test_a_name_that_is_taken_by_another_class_is_refused():
    with pytest.raises(ValueError, match=r"'adam' is already registered with Adam and \{\}\. Choose another name"):
        register_family("adam", Other)
    assert get_family("adam").optimizer_class is torch.optim.Adam


@pytest.mark.parametrize("name, optimizer_class", [("nag", torch.optim.SGD), ("sgd", torch.optim.SGD)])
def test_a_name_that_is_taken_with_other_arguments_is_refused(name, optimizer_class):
    before = build(name).defaults
    with pytest.raises(ValueError, match=rf"'{name}' is already registered with SGD and .*nesterov"):
        register_family(name, optimizer_class)
    assert build(name).defaults == before


def test_a_registered_family_with_other_defaults_is_refused():
    register_family("other", Other, defaults={"strength": 3.0})
    with pytest.raises(ValueError, match=r"'other' is already registered with Other and \{'strength': 3\.0\}"):
        register_family("other", Other, defaults={"strength": 4.0})
    assert build("other").strength == 3.0


def test_a_built_in_family_with_no_arguments_of_its_own_may_be_registered_again():
    register_family("adam", torch.optim.Adam)
    assert get_family("adam").optimizer_class is torch.optim.Adam


@pytest.mark.parametrize("name", ["", "Adam2", "my-adam", "my adam", "2adam", "a/b", "a:b", "a;b", "a,b", "a=b"])
def test_malformed_names_are_refused(name):
    with pytest.raises(ValueError, match=r"lower-case letters, digits and underscores"):
        register_family(name, Other)
    assert name not in list_families()


@pytest.mark.parametrize(
    "bad",
    [None, "adam", torch.nn.Linear, lambda params: None, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1)],
)
def test_only_optimizer_classes_are_families(bad):
    with pytest.raises(TypeError, match=r"must be a subclass of torch\.optim\.Optimizer"):
        register_family("bad", bad)
    assert "bad" not in list_families()


def test_an_unknown_family_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"Unknown optimizer family 'lion'\. Known families: sgd, sgdm, .*radam"):
        get_family("lion")
