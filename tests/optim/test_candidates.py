from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_iomt.optim import Candidate, Family, format_candidates, list_families, make_candidate, parse_candidates

POSITIVE = st.floats(min_value=1e-300, max_value=1e15)
SHARE = st.floats(min_value=0, max_value=1, exclude_max=True)
DECAY = {"weight_decay": st.floats(min_value=0, max_value=10)}
BETAS = {"betas": st.tuples(SHARE, SHARE), "eps": st.floats(min_value=0, max_value=1)}
FLAG = st.booleans()
POSITIVE_EPS = {**BETAS, "eps": st.floats(min_value=0, max_value=1, exclude_min=True)}

# What the torch classes accept, by family.
SETTINGS = {
    "sgd": {**DECAY, "maximize": FLAG},
    "sgdm": {**DECAY, "momentum": SHARE, "dampening": SHARE},
    "nag": {**DECAY, "momentum": st.floats(min_value=0.01, max_value=1)},
    "asgd": {**DECAY, "lambd": SHARE, "t0": st.integers(0, 10**9)},
    "adagrad": {**DECAY, "lr_decay": SHARE, "initial_accumulator_value": SHARE},
    "rmsprop": {**DECAY, "alpha": SHARE, "momentum": SHARE, "centered": FLAG},
    "adam": {**DECAY, **BETAS, "amsgrad": FLAG},
    "adamw": {**DECAY, **BETAS, "amsgrad": FLAG},
    "adamax": {**DECAY, **BETAS},
    "nadam": {**DECAY, **BETAS, "momentum_decay": SHARE, "decoupled_weight_decay": FLAG},
    "nadamw": {**DECAY, **BETAS, "momentum_decay": SHARE},
    "radam": {**DECAY, **BETAS, "decoupled_weight_decay": FLAG},
    "swats": {**DECAY, **POSITIVE_EPS, "tolerance": POSITIVE},
    "padam": {**DECAY, **POSITIVE_EPS, "partial": st.floats(min_value=0, max_value=0.5)},
    "adabound": {
        **DECAY,
        **POSITIVE_EPS,
        "final_lr": POSITIVE,
        "gamma": st.floats(min_value=1e-6, max_value=0.5),
        "amsbound": FLAG,
    },
}
CANDIDATES = st.one_of(
    [
        st.builds(
            make_candidate,
            st.just(family),
            st.fixed_dictionaries({"lr": POSITIVE}, optional=settings),
        )
        for family, settings in SETTINGS.items()
    ]
)


def names(text):
    return [candidate.name for candidate in parse_candidates(text)]


class TestNames:
    @given(CANDIDATES)
    def test_a_candidates_name_reads_back_as_the_candidate(self, candidate):
        (again,) = parse_candidates(candidate.name)
        assert again == candidate
        assert hash(again) == hash(candidate)
        assert again.name == candidate.name

    @given(st.lists(CANDIDATES, min_size=1, max_size=6, unique=True))
    def test_a_formatted_list_reads_back_as_the_list(self, candidates):
        assert parse_candidates(format_candidates(candidates)) == candidates

    @given(CANDIDATES, st.randoms())
    def test_the_order_of_settings_does_not_matter(self, candidate, random):
        items = list(candidate.settings.items())
        random.shuffle(items)
        assert make_candidate(candidate.family, dict(items)) == candidate

    @pytest.mark.parametrize(
        "text, name",
        [
            ("adam:lr=0.001", "adam:lr=0.001"),
            ("adam:lr=1e-3", "adam:lr=0.001"),
            ("adam:lr=1E-5", "adam:lr=1e-05"),
            ("sgd:lr=1", "sgd:lr=1"),
            ("sgd:lr=0.30000000000000004", "sgd:lr=0.30000000000000004"),
            ("sgdm:momentum=0.9,lr=0.1", "sgdm:lr=0.1,momentum=0.9"),
            ("adam:lr=0.1,betas=0.9/0.99", "adam:lr=0.1,betas=0.9/0.99"),
            ("adam:lr=0.1,betas=0/0.99", "adam:lr=0.1,betas=0/0.99"),
            ("adam:lr=0.1,weight_decay=0.01,amsgrad=TRUE", "adam:lr=0.1,amsgrad=true,weight_decay=0.01"),
        ],
    )
    def test_names_are_short_and_lead_with_the_learning_rate(self, text, name):
        assert names(text) == [name]

    def test_a_setting_of_none_reads_back(self):
        candidate = make_candidate("adam", {"lr": 0.1, "foreach": None})
        assert parse_candidates(candidate.name) == [candidate]
        assert candidate.name == "adam:lr=0.1"

    def test_a_mapping_with_none_reads_back(self):
        text = format_candidates([{"family": "adam", "lr": 0.1, "foreach": None}])
        assert parse_candidates(text) == [make_candidate("adam", {"lr": 0.1})]


class TestCandidate:
    def test_settings_are_a_new_dictionary(self):
        candidate = make_candidate("sgdm", {"lr": 0.1, "momentum": 0.5})
        candidate.settings["lr"] = 9.0
        assert candidate.settings == {"lr": 0.1, "momentum": 0.5}
        assert candidate.learning_rate == 0.1

    def test_candidates_are_immutable(self):
        with pytest.raises(AttributeError):
            make_candidate("sgd", {"lr": 0.1}).family = "adam"

    def test_lists_become_tuples_and_integers_learning_rates_floats(self):
        candidate = make_candidate("adam", {"lr": 1, "betas": [0.8, 0.9]})
        assert candidate == Candidate("adam", (("lr", 1.0), ("betas", (0.8, 0.9))))
        assert isinstance(candidate.learning_rate, float)


class TestParse:
    def test_alternatives_are_combined_with_each_other(self):
        parsed = parse_candidates("sgdm:lr=0.1|0.01,momentum=0.5|0.9; adam:lr=1e-3")
        expected = [("sgdm", {"lr": lr, "momentum": m}) for lr, m in itertools.product((0.1, 0.01), (0.5, 0.9))]
        assert [(item.family, item.settings) for item in parsed] == [*expected, ("adam", {"lr": 0.001})]

    def test_blanks_and_line_breaks_do_not_matter(self):
        assert names(" sgdm : lr = 0.1 | 0.01 , momentum = 0.9 ;\n adam:lr=1e-3 ; ") == [
            "sgdm:lr=0.1,momentum=0.9",
            "sgdm:lr=0.01,momentum=0.9",
            "adam:lr=0.001",
        ]

    def test_a_family_may_come_twice(self):
        assert names("sgd:lr=0.1; adam:lr=0.1; sgd:lr=0.2") == ["sgd:lr=0.1", "adam:lr=0.1", "sgd:lr=0.2"]

    def test_repeated_candidates_count_once(self):
        assert names("sgd:lr=0.1|1e-1; sgd:lr=0.10") == ["sgd:lr=0.1"]

    @pytest.mark.parametrize(
        "written, value", [("true", True), ("False", False), ("3", 3), ("0.5", 0.5), ("1/2.5", (1, 2.5))]
    )
    def test_values_have_types(self, written, value):
        class Any(torch.optim.SGD):
            def __init__(self, params, lr, extra=None):
                super().__init__(params, lr)

        (candidate,) = parse_candidates(f"any:lr=1,extra={written}", lambda name: Family(name, Any))
        assert candidate.settings["extra"] == value
        assert type(candidate.settings["extra"]) is type(value)

    @pytest.mark.parametrize(
        "text, message",
        [
            ("lion:lr=0.1", r"Unknown optimizer family 'lion'\. Known families: sgd, sgdm, "),
            ("Adam:lr=0.1", r"Unknown optimizer family 'Adam'"),
            (":lr=0.1", r"Unknown optimizer family ''"),
            (
                "adam:lr=0.1,momentum=0.9",
                r"Unknown hyperparameter 'momentum' for the family 'adam'\. It can set: lr, ",
            ),
            ("sgd:lr=0.1,momentum=0.9", r"Unknown hyperparameter 'momentum' for the family 'sgd'"),
            ("nag:lr=0.1,nesterov=false", r"Unknown hyperparameter 'nesterov' for the family 'nag'"),
            ("sgd:lr=0.1,params=1", r"Unknown hyperparameter 'params'"),
            ("sgd:lr=0.1,self=1", r"Unknown hyperparameter 'self'"),
            ("adam:weight_decay=0.1", r"The family 'adam' has no lr\. Give every family one, as in 'adam:lr=0\.01'"),
            ("adam:lr=0", r"`lr > 0` must hold, but got lr=0 for the family 'adam'"),
            ("adam:lr=0.1|0.0", r"`lr > 0` must hold, but got lr=0\.0"),
            ("adam:lr=-0.1", r"`lr > 0` must hold, but got lr=-0\.1"),
            ("adam:lr=nan", r"`lr > 0` must hold, but got lr=nan"),
            ("adam:lr=inf", r"`lr > 0` must hold, but got lr=inf"),
            ("adam:lr=true", r"`lr > 0` must hold, but got lr=True"),
            ("adam:lr=0.1/0.2", r"`lr > 0` must hold, but got lr=\(0\.1, 0\.2\)"),
            ("adam:lr=small", r"Cannot read the value 'small': numbers, true, false, and tuples such as 0\.9/0\.99"),
            ("adam:lr=0.1|", r"Cannot read the value ''"),
            ("adam:lr=0.1,betas=0.9/", r"Cannot read the value ''"),
            ("", r"The candidate list is empty\. Write family:key=value"),
            (" ; ;\n", r"The candidate list is empty"),
            ("adam:lr=0.1,lr=0.2", r"'lr' is set twice in 'adam:lr=0\.1,lr=0\.2'\. Write lr=value\|value"),
            ("adam", r"Cannot read 'adam' in the candidate list\. Write family:.*Known families: sgd, "),
            ("adam:", r"Cannot read 'adam:' in the candidate list"),
            ("adam lr=0.1", r"Cannot read 'adam lr=0\.1' in the candidate list"),
            ("adam:0.1", r"Cannot read '0\.1' in 'adam:0\.1'\. Write family:"),
            ("adam:lr=", r"Cannot read 'lr=' in 'adam:lr='"),
            ("adam:=0.1", r"Cannot read '=0\.1' in 'adam:=0\.1'"),
            ("adam:lr=0.1,", r"Cannot read '' in 'adam:lr=0\.1,'"),
            ("sgd:lr=0.1; adam:lr", r"Cannot read 'lr' in 'adam:lr'"),
            ("adam:lr=0.1,betas=1.5/0.9", r"Adam refuses the candidate 'adam:lr=0\.1,betas=1\.5/0\.9': .*1\.5"),
            (
                "adam:lr=0.1,betas=0.9",
                r"`betas` of the family 'adam' must be several numbers, as in betas=0\.9/0\.999",
            ),
            ("nag:lr=0.1,momentum=0", r"SGD refuses the candidate 'nag:lr=0\.1,momentum=0': Nesterov"),
            ("sgd:lr=0.1,weight_decay=-1", r"SGD refuses the candidate"),
        ],
    )
    def test_errors_say_what_is_wrong(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_candidates(text)

    def test_a_learning_rate_beyond_floats_is_refused(self):
        with pytest.raises(ValueError, match="`lr > 0` must hold"):
            parse_candidates("adam:lr=1" + "0" * 400)

    @given(st.text(alphabet="adm:lr=0.1|,;/-e \n", max_size=25))
    def test_any_text_parses_or_raises_a_value_error(self, text):
        try:
            candidates = parse_candidates(text)
        except ValueError:
            return
        assert parse_candidates(format_candidates(candidates)) == candidates

    def test_families_can_be_looked_up_elsewhere(self):
        def find(name):
            if name != "mine":
                raise KeyError(f"No {name} here.")
            return Family(name, torch.optim.Adam, fixed={"betas": (0.5, 0.5)})

        assert [item.name for item in parse_candidates("mine:lr=0.1", find)] == ["mine:lr=0.1"]
        with pytest.raises(ValueError, match=r"^No adam here\.$"):
            parse_candidates("adam:lr=0.1", find)
        with pytest.raises(ValueError, match="Unknown hyperparameter 'betas' for the family 'mine'"):
            parse_candidates("mine:lr=0.1,betas=0.9/0.9", find)


class TestFormat:
    def test_a_string_is_returned_as_it_is(self):
        assert format_candidates(" sgd:lr=0.1 ") == " sgd:lr=0.1 "

    def test_forms_may_be_mixed(self):
        items = [
            {"family": "adam", "lr": 0.01, "betas": [0.9, 0.99], "amsgrad": True},
            "sgd:lr=0.1|0.2",
            make_candidate("sgdm", {"lr": 0.3}),
        ]
        assert names(format_candidates(items)) == [
            "adam:lr=0.01,amsgrad=true,betas=0.9/0.99",
            "sgd:lr=0.1",
            "sgd:lr=0.2",
            "sgdm:lr=0.3",
        ]

    @pytest.mark.parametrize(
        "items, error, message",
        [
            ([], ValueError, "The candidate list is empty"),
            ([{"lr": 0.1}], ValueError, r"needs a 'family', but got \{'lr': 0\.1\}"),
            ([0.1], TypeError, r"must be a Candidate, a string or a mapping, but got 0\.1"),
            ([None], TypeError, "must be a Candidate, a string or a mapping, but got None"),
        ],
    )
    def test_errors_say_what_is_wrong(self, items, error, message):
        with pytest.raises(error, match=message):
            format_candidates(items)


def test_every_built_in_family_is_covered_here():
    assert set(SETTINGS) == set(list_families())


def test_repeated_candidates_count_once_unless_all_are_asked_for():
    text = "sgd:lr=0.1|0.2; sgd:lr=0.1"
    assert names(text) == ["sgd:lr=0.1", "sgd:lr=0.2"]
    assert [item.name for item in parse_candidates(text, unique=False)] == ["sgd:lr=0.1", "sgd:lr=0.2", "sgd:lr=0.1"]
