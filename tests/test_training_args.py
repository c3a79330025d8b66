from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_iomt import InterleavingSettings, IOMTTrainingArguments, SelectorSettings
from hf_iomt.optim import PRESETS, Candidate, parse_candidates

# A value that is not the default's, and how it is written on the command line.
VALUES = {
    "iomt_preset": ("paper", "paper"),
    "iomt_candidates": ("sgdm:lr=0.1|0.01; adamw:lr=1e-3", "sgdm:lr=0.1|0.01; adamw:lr=1e-3"),
    "iomt_idle_state": ("reset", "reset"),
    "iomt_offload": ("disk", "disk"),
    "iomt_switch_steps": (7.0, "7"),
    "iomt_initial_cycles": (3, "3"),
    "iomt_initial_sampling": ("uniform", "uniform"),
    "iomt_min_weight": (0.25, "0.25"),
    "iomt_selection": ("cyclical", "cyclical"),
    "iomt_score": ("losses", "losses"),
    "iomt_alpha": (-0.5, "-0.5"),
    "iomt_surrogate_window": (32, "32"),
    "iomt_state_compression": ("rp", "rp"),
    "iomt_state_components": (4, "4"),
    "iomt_state_parameters": (r"layer\.0", r"layer\.0"),
    "iomt_transferability": ("0.75", "0.75"),
    "iomt_transferability_split": ("eval", "eval"),
    "iomt_transferability_samples": (100, "100"),
    "iomt_performance_metric": ("f1", "f1"),
    "iomt_distribution_metrics": (["leep", "h_score"], ["leep", "h_score"]),
    "iomt_beta": (0.125, "0.125"),
    "iomt_halving_cycles": (9, "9"),
    "iomt_variance_weight": ("text", "text"),
    "iomt_advantage": (2.5, "2.5"),
    "iomt_race_steps": (12, "12"),
    "iomt_rollback": (False, "false"),
    "iomt_patience": (2, "2"),
    "iomt_takeover_steps": (3, "3"),
    "iomt_overfitting_samples": (100, "100"),
    "iomt_probe_samples": (16, "16"),
}
DEFAULT_PRESET = {
    "iomt_candidates": "auto",
    "iomt_switch_steps": 25,
    "iomt_initial_cycles": 0,
    "iomt_halving_cycles": 20,
    "iomt_variance_weight": "printed",
    "iomt_score": "trend",
    "iomt_race_steps": 40,
    "iomt_rollback": True,
    "iomt_patience": 4,
    "iomt_takeover_steps": 8,
    "iomt_overfitting_samples": 256,
    "iomt_advantage": 2.0,
}
# The algorithm as it is printed, without what was added to make it safe.
PAPER_PRESET = {
    "iomt_candidates": "paper",
    "iomt_switch_steps": 25,
    "iomt_initial_cycles": 20,
    "iomt_halving_cycles": 20,
    "iomt_variance_weight": "text",
    "iomt_score": "losses",
    "iomt_race_steps": 0,
    "iomt_rollback": False,
    "iomt_patience": 0,
    "iomt_takeover_steps": 0,
    "iomt_overfitting_samples": 0,
    "iomt_advantage": 0.0,
}
PLAIN = {"output_dir": "run", "use_cpu": True, "report_to": "none"}


def make(**settings):
    return IOMTTrainingArguments(**PLAIN, **settings)


def settings_of(args):
    return {name: getattr(args, name) for name in VALUES}


def test_every_field_is_tested_here():
    own = {item.name for item in fields(IOMTTrainingArguments)} - {item.name for item in fields(TrainingArguments)}
    assert own == set(VALUES)


class TestWaysIn:
    @pytest.mark.parametrize("name", VALUES)
    def test_python(self, name):
        value, _ = VALUES[name]
        assert getattr(make(), name) != value
        assert getattr(make(**{name: value}), name) == value

    @pytest.mark.parametrize("name", VALUES)
    def test_command_line(self, name):
        value, text = VALUES[name]
        given = [f"--{name}={text}"] if isinstance(text, str) else [f"--{name}", *text]
        parser = HfArgumentParser(IOMTTrainingArguments)
        (args,) = parser.parse_args_into_dataclasses(
            ["--output_dir", "run", "--use_cpu", "--report_to", "none", *given]
        )
        assert getattr(args, name) == value
        others = {key: item for key, item in settings_of(args).items() if key != name}
        if name != "iomt_preset":
            assert others == {key: item for key, item in settings_of(make()).items() if key != name}

    @pytest.mark.parametrize("through", ["dict", "file"])
    def test_json(self, through, tmp_path):
        settings = {name: value for name, (value, _) in VALUES.items()}
        parser = HfArgumentParser(IOMTTrainingArguments)
        if through == "dict":
            (args,) = parser.parse_dict({**PLAIN, **settings})
        else:
            (tmp_path / "args.json").write_text(json.dumps({**PLAIN, **settings}))
            (args,) = parser.parse_json_file(str(tmp_path / "args.json"))
        assert settings_of(args) == settings

    @pytest.mark.parametrize("settings", [{}, {name: value for name, (value, _) in VALUES.items()}])
    def test_what_is_written_reads_back(self, settings):
        args = make(**settings)
        written = json.loads(args.to_json_string())
        assert {name: written[name] for name in VALUES} == settings_of(args)
        assert {name: args.to_dict()[name] for name in VALUES} == settings_of(args)
        known = {item.name for item in fields(IOMTTrainingArguments) if item.init}
        again = IOMTTrainingArguments(**{name: value for name, value in written.items() if name in known})
        assert settings_of(again) == settings_of(args)

    def test_trainers_own_arguments_pass_through(self):
        args = make(learning_rate=0.5, weight_decay=0.1, max_steps=7, lr_scheduler_type="constant")
        assert (args.learning_rate, args.weight_decay, args.max_steps) == (0.5, 0.1, 7)
        assert args.lr_scheduler_type == "constant"


class TestPresets:
    def test_the_default(self):
        args = make()
        assert {name: getattr(args, name) for name in DEFAULT_PRESET} == DEFAULT_PRESET

    def test_the_paper(self):
        args = make(iomt_preset="paper")
        assert {name: getattr(args, name) for name in PAPER_PRESET} == PAPER_PRESET

    @pytest.mark.parametrize("preset", ["default", "paper"])
    @pytest.mark.parametrize("name", DEFAULT_PRESET)
    def test_only_what_is_unset_is_filled(self, preset, name):
        value = (PAPER_PRESET if preset == "default" else DEFAULT_PRESET)[name]
        expected = {**(DEFAULT_PRESET if preset == "default" else PAPER_PRESET), name: value}
        args = make(iomt_preset=preset, **{name: value})
        assert {key: getattr(args, key) for key in expected} == expected

    def test_settings_for_the_selector(self):
        args = make(
            iomt_preset="paper",
            iomt_initial_sampling="uniform",
            iomt_min_weight=0.3,
            iomt_selection="random",
            iomt_transferability="0.75",
            iomt_halving_cycles=3,
            iomt_variance_weight="printed",
            iomt_state_compression="none",
            iomt_state_components=5,
            iomt_surrogate_window=33,
            iomt_advantage=0.5,
        )
        assert args.selector_settings(4, transferability=0.25) == SelectorSettings(
            initial_cycles=4,
            initial_sampling="uniform",
            min_weight=0.3,
            selection="random",
            transferability=0.25,
            halving_cycles=3,
            variance_weight="printed",
            state_compression="none",
            state_components=5,
            surrogate_window=33,
            advantage=0.5,
        )

    def test_settings_for_the_loop(self):
        args = make(iomt_alpha=0.7, iomt_score="losses", iomt_rollback=False, iomt_patience=2)
        assert args.interleaving_settings(9) == InterleavingSettings(9, 0.7, "losses", False, 2, 8)


class TestCandidates:
    @pytest.mark.parametrize(
        "value",
        [
            ["sgdm:lr=0.1", "adam:lr=0.001"],
            ("sgdm:lr=0.1", "adam:lr=0.001"),
            [{"family": "sgdm", "lr": 0.1}, {"family": "adam", "lr": 1e-3}],
            [Candidate("sgdm", (("lr", 0.1),)), "adam:lr=1e-3"],
        ],
    )
    def test_lists_become_a_string(self, value):
        args = make(iomt_candidates=value)
        assert isinstance(args.iomt_candidates, str)
        assert parse_candidates(args.iomt_candidates) == parse_candidates("sgdm:lr=0.1; adam:lr=0.001")

    @pytest.mark.parametrize("name", PRESETS)
    def test_names_of_presets(self, name):
        assert make(iomt_candidates=name).iomt_candidates == name

    def test_names_of_trainers_optimizers(self):
        assert make(iomt_candidates="adafactor:lr=1e-3").iomt_candidates == "adafactor:lr=1e-3"

    @pytest.mark.parametrize(
        "value, message",
        [
            ("lion9:lr=0.1", r"Unknown optimizer family 'lion9'\. Known families: sgd, sgdm.*adafactor"),
            ("adam:lr=0.1,speed=3", r"Unknown hyperparameter 'speed' for the family 'adam'\. It can set: lr, betas"),
            ("adam:lr=0", r"`lr > 0` must hold, but got lr=0 "),
            ("adam:lr=-0.1", r"`lr > 0` must hold, but got lr=-0.1 "),
            ("adam:lr=nan", r"`lr > 0` must hold, but got lr=nan "),
            ("adam:lr=inf", r"`lr > 0` must hold, but got lr=inf "),
            ("adam:betas=0.9/0.99", r"'adam' has no lr"),
            (
                "sgdm:lr=0.1,momentum=nan",
                r"must be finite and no larger than 1e\+15, but momentum of the family 'sgdm'",
            ),
            (
                "adam:lr=0.1,betas=0.9",
                r"`betas` of the family 'adam' must be several numbers, as in betas=0\.9/0\.999",
            ),
            ("adam:lr=0.1,betas=0.9/0.9/0.9", r"Adam refuses the candidate .*too many values to unpack"),
            ("adam:lr=0.1,capturable=true", r"Unknown hyperparameter 'capturable' for the family 'adam'"),
            ("adamw:lr=0.1,fused=true,foreach=true", r"AdamW refuses the candidate .*cannot be `True` together"),
            ("adam:lr=0.1,betas=2/3", r"Adam refuses the candidate 'adam:lr=0.1,betas=2/3': .*beta"),
            ("adamw:lr=threex", r"Cannot read the learning rate 'threex': write a number before the x"),
            ("adamw:lr=-1x", r"`lr > 0` must hold, but got lr=-0.001"),
            ("papre", r"Cannot read 'papre'.*Known families.*name of a preset is allowed too: auto, paper, .*full"),
            ("", r"The candidate list is empty\. Write family:key=value"),
            (" ; ", r"The candidate list is empty\. Write family:key=value"),
            ([], r"The candidate list is empty\. Write family:key=value"),
            ([{"lr": 0.1}], r"needs a 'family', but got \{'lr': 0.1\}"),
            (3, r"`iomt_candidates` must be a string or a list, but got 3"),
            (b"adam:lr=1", r"`iomt_candidates` must be a string or a list, but got b'adam:lr=1'"),
            ({"family": "adam", "lr": 0.1}, r"`iomt_candidates` must be a string or a list, but got \{'family'"),
            (Candidate("adam", (("lr", 0.1),)), r"`iomt_candidates` must be a string or a list, but got Candidate"),
        ],
    )
    def test_bad_ones_are_refused(self, value, message):
        with pytest.raises(ValueError, match=message):
            make(iomt_candidates=value)

    def test_the_message_repeats_the_list(self):
        with pytest.raises(ValueError, match=r"Cannot use `iomt_candidates='sgd:lr=1; adam:lr=-1'`"):
            make(iomt_candidates="sgd:lr=1; adam:lr=-1")


class TestSwitchSteps:
    @pytest.mark.parametrize("value", [1, 1.0, 2, 25, 25.0, 1000, 0.5, 0.999, 1e-6])
    def test_good(self, value):
        assert make(iomt_switch_steps=value).iomt_switch_steps == value

    @pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, 2.5, 1.0001, math.nan, math.inf, "ten"])
    def test_bad(self, value):
        with pytest.raises(ValueError, match=rf"whole number of steps, at least 1, or a share.*but got {value!r}"):
            make(iomt_switch_steps=value)


class TestRanges:
    @pytest.mark.parametrize(
        "name, least, greatest",
        [
            ("iomt_initial_cycles", 0, None),
            ("iomt_min_weight", 0, 1),
            ("iomt_beta", 0, 1),
            ("iomt_halving_cycles", 0, None),
            ("iomt_state_components", 1, None),
            ("iomt_surrogate_window", 2, None),
            ("iomt_probe_samples", 0, None),
            ("iomt_race_steps", 0, None),
            ("iomt_patience", 0, None),
            ("iomt_overfitting_samples", 0, None),
            ("iomt_advantage", 0, None),
        ],
    )
    def test_the_ends_are_allowed_and_no_more(self, name, least, greatest):
        assert getattr(make(**{name: least}), name) == least
        with pytest.raises(ValueError, match=rf"`{least} <= {name} <= .*` must hold, but got {name}={least - 1}"):
            make(**{name: least - 1})
        if greatest is not None:
            assert getattr(make(**{name: greatest}), name) == greatest
            with pytest.raises(ValueError, match=rf"{name} <= {greatest}` must hold, but got {name}=1.5"):
                make(**{name: 1.5})

    @pytest.mark.parametrize("name", ["iomt_alpha", "iomt_min_weight", "iomt_race_steps", "iomt_patience"])
    @pytest.mark.parametrize("value", [math.nan, "many", True, [1]])
    def test_only_numbers(self, name, value):
        with pytest.raises(ValueError, match=f"{name}="):
            make(**{name: value})

    @pytest.mark.parametrize("value", [2.5, math.inf])
    @pytest.mark.parametrize(
        "name", ["iomt_initial_cycles", "iomt_race_steps", "iomt_surrogate_window", "iomt_probe_samples"]
    )
    def test_counts_are_whole(self, name, value):
        with pytest.raises(ValueError, match=name):
            make(**{name: value})

    def test_alpha_is_finite(self):
        with pytest.raises(ValueError, match="iomt_alpha"):
            make(iomt_alpha=math.inf)


class TestChoices:
    @pytest.mark.parametrize(
        "name, allowed",
        [
            ("iomt_preset", "default, paper"),
            ("iomt_idle_state", "keep, reset"),
            ("iomt_offload", "none, cpu, disk"),
            ("iomt_initial_sampling", "weighted, uniform"),
            ("iomt_selection", "surrogate, random, cyclical, commit"),
            ("iomt_score", "losses, trend, probe"),
            ("iomt_state_compression", "pca, rp, umap, none"),
            ("iomt_variance_weight", "text, printed"),
        ],
    )
    def test_what_is_unknown_is_answered_with_what_is_known(self, name, allowed):
        for choice in allowed.split(", "):
            assert getattr(make(**{name: choice}), name) == choice
        for value in ("other", "", 3):
            with pytest.raises(ValueError, match=rf"`{name}` must be one of {allowed}, but got {value!r}"):
                make(**{name: value})

    @pytest.mark.parametrize(
        "name", ["iomt_preset", "iomt_idle_state", "iomt_initial_sampling", "iomt_selection", "iomt_state_compression"]
    )
    def test_none_is_no_choice_where_no_preset_fills_it(self, name):
        with pytest.raises(ValueError, match=f"`{name}` must be one of"):
            make(**{name: None})


class TestTransferability:
    @pytest.mark.parametrize(
        "value, weight",
        [("auto", None), ("off", 0.0), ("0", 0.0), ("1", 1.0), (0.25, 0.25), (0, 0.0), (1, 1.0), ("1e-3", 1e-3)],
    )
    def test_good(self, value, weight):
        args = make(iomt_transferability=value)
        assert args.transferability_weight == weight
        assert isinstance(args.iomt_transferability, str)

    @pytest.mark.parametrize("value", ["1.01", -0.1, 2, "high", "", "nan", "inf", None, [0.5]])
    def test_bad(self, value):
        with pytest.raises(
            ValueError, match=r"`iomt_transferability` must be 'auto', 'off' or a number in \[0, 1\], but got"
        ):
            make(iomt_transferability=value)

    def test_true_is_no_number(self):
        with pytest.raises(ValueError, match="iomt_transferability"):
            make(iomt_transferability=True)

    @pytest.mark.parametrize("names", [[], ["h_score"], ["log_me", "leep", "h_score"]])
    def test_metrics(self, names):
        assert make(iomt_distribution_metrics=names).iomt_distribution_metrics == names

    @pytest.mark.parametrize("names", ["log_me", ["logme"], ["leep", "leep"], None, 3])
    def test_bad_metrics(self, names):
        message = r"`iomt_distribution_metrics` must be a list of some of log_me, leep, h_score, each once, but got"
        with pytest.raises(ValueError, match=message):
            make(iomt_distribution_metrics=names)

    @pytest.mark.parametrize("name", ["", 3])
    def test_a_performance_metric_that_is_no_name(self, name):
        with pytest.raises(ValueError, match=r"`iomt_performance_metric` must be the name of a metric that"):
            make(iomt_performance_metric=name)

    @pytest.mark.parametrize("samples", [1, 2.5, "many", None])
    def test_bad_samples(self, samples):
        with pytest.raises(ValueError, match=r"`2 <= iomt_transferability_samples <= 1000000000` must hold, but got"):
            make(iomt_transferability_samples=samples)


class TestWhatWouldEndARunInside:
    @pytest.mark.parametrize(
        "name, value, message",
        [
            ("iomt_rollback", "false", r"`iomt_rollback` must be True or False, but got 'false'"),
            ("iomt_state_parameters", "(", r"`iomt_state_parameters` must be a regular expression .*unterminated"),
            ("iomt_state_components", 10**9, r"`1 <= iomt_state_components <= 10000` must hold"),
            ("iomt_race_steps", 10**400, r"but got iomt_race_steps=an integer of 401 digits"),
            ("gradient_accumulation_steps", 0, r"must be a whole number, at least 1, but got 0"),
            ("per_device_train_batch_size", 0, r"must be a whole number, at least 1, but got 0"),
            ("seed", -1, r"`seed` must be a whole number from 0 to 4294967295, but got -1"),
            ("data_seed", 2**64, r"`data_seed` must be None, or a whole number from"),
            ("num_train_epochs", math.nan, r"`num_train_epochs` must be a number from 0 to"),
            ("max_grad_norm", None, r"`max_grad_norm` must be a number, 0 for no clipping, but got None"),
            ("weight_decay", math.inf, r"`weight_decay` must be a number from 0 to 1e\+06, but got inf"),
        ],
    )
    def test_is_refused(self, name, value, message):
        with pytest.raises(ValueError, match=message):
            make(**{name: value})
