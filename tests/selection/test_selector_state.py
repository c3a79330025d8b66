"""What the surrogate is told of hyperparameters, how the first candidate leads, and what a selector saves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import make_selector

from hf_iomt.selection.selector import encode_hyperparameters


class TestEncoding:
    def test_learning_rates_are_spaced_by_their_logarithm(self):
        encoded = encode_hyperparameters(["a"] * 3, [{"lr": 0.1}, {"lr": 0.01}, {"lr": 0.001}])
        assert [row.tolist() for row in encoded] == [pytest.approx([1.0]), pytest.approx([0.5]), [0.0]]

    def test_other_hyperparameters_are_spaced_by_their_difference(self):
        rows = [{"lr": 0.1, "momentum": momentum} for momentum in (0.5, 0.6, 0.9)]
        encoded = encode_hyperparameters(["a"] * 3, rows)
        assert [row.tolist() for row in encoded] == [[0.0], pytest.approx([0.25]), [1.0]]

    def test_families_are_encoded_apart(self):
        encoded = encode_hyperparameters(["a", "b", "a", "b"], [{"lr": lr} for lr in (1.0, 0.01, 0.1, 0.001)])
        assert [row.tolist() for row in encoded] == [[1.0], [1.0], [0.0], [0.0]]

    def test_what_does_not_differ_is_left_out(self):
        rows = [{"lr": 0.1, "momentum": 0.9, "alpha": 0.5}, {"lr": 0.1, "momentum": 0.9, "alpha": 0.6}]
        assert [row.tolist() for row in encode_hyperparameters(["a", "a"], rows)] == [[0.0], [1.0]]
        assert [len(row) for row in encode_hyperparameters(["a", "a"], [{"lr": 0.1}] * 2)] == [0, 0]

    def test_tuples_and_flags_are_numbers_too(self):
        rows = [{"betas": (0.9, 0.99), "amsgrad": False}, {"betas": (0.8, 0.99), "amsgrad": True}]
        encoded = encode_hyperparameters(["a", "a"], [{"lr": 0.1, **row} for row in rows])
        # amsgrad and the first beta.
        assert sorted(encoded[0].tolist()) == [0.0, 1.0]
        assert (encoded[0] + encoded[1]).tolist() == [1.0, 1.0]

    def test_weight_decay_of_zero_has_a_place(self):
        encoded = encode_hyperparameters(["a"] * 3, [{"lr": 0.1, "weight_decay": decay} for decay in (0, 1e-4, 1e-2)])
        assert encoded[0] < encoded[1] < encoded[2]
        assert np.isfinite(np.concatenate(encoded)).all()

    def test_weight_decay_that_is_not_set_is_small(self):
        encoded = encode_hyperparameters(
            ["adam"] * 3, [{"lr": 0.1}, {"lr": 0.1, "weight_decay": 1e-4}, {"lr": 0.1, "weight_decay": 1e-2}]
        )
        assert encoded[0] <= encoded[1] < encoded[2]


class TestAdvantage:
    """Two candidates of two families: the first scores a little less than the second."""

    SCORES = (0.10, 0.14)

    def choice(self, advantage, contenders=None, trusted=0):
        selector = make_selector(
            families=["adam", "sgd"],
            hyperparameters=[{"lr": 0.1}, {"lr": 0.1}],
            initial_cycles=0,
            state_compression="none",
            transferability=1.0,
            variance_weight="text",
            advantage=advantage,
        )
        selector.trusted = trusted
        if contenders is not None:
            selector.restrict(contenders)
        for _ in range(10):
            for candidate, score in enumerate(self.SCORES):
                selector.observe(candidate, np.zeros(4), score)
        return selector.choose(np.zeros(4))

    def test_without_one_the_better_candidate_is_chosen(self):
        assert self.choice(0.0).candidate == 1

    def test_the_first_candidate_needs_it_in_standard_deviations_of_the_scores(self):
        # The scores lie two standard deviations apart.
        assert self.choice(1.5).candidate == 1
        assert self.choice(2.5).candidate == 0

    def test_it_is_no_part_of_what_is_reported(self):
        choice = self.choice(2.5)
        assert choice.predicted_mean == pytest.approx(self.SCORES[0], abs=0.005)
        assert choice.gain == pytest.approx(1 / (1 + math.exp(-choice.predicted_mean)))

    def test_it_belongs_to_the_first_of_the_list_and_not_of_the_contenders(self):
        assert self.choice(100.0, contenders=[1, 0]).candidate == 0
        assert self.choice(100.0, contenders=[1]).candidate == 1

    def test_another_may_be_trusted(self):
        assert self.choice(100.0, trusted=1).candidate == 1
        # And then the first has none.
        assert self.choice(1e-9, trusted=1).candidate == 1


class TestState:
    """A selector that was put back goes on as the one that was saved, to the last bit."""

    def go_on(self, selector, cycles, seed):
        """Choices and their predictions, with scores that depend on the choice."""
        generator = np.random.default_rng(seed)
        state, found = generator.standard_normal(12), []
        for _ in range(cycles):
            choice = selector.choose(state)
            found.append(choice)
            selector.observe(choice.candidate, state, math.sin(choice.candidate + state[0]))
            state = state + 0.1 * generator.standard_normal(12)
        return found

    @pytest.mark.parametrize("selection", ["surrogate", "random", "cyclical", "commit"])
    @pytest.mark.parametrize("cycles", [0, 1, 3, 7, 25, 40])
    def test_it_goes_on_where_it_was(self, tmp_path, cycles, selection):
        settings = {"initial_cycles": 3, "selection": selection, "surrogate_window": 16}
        saved = make_selector(**settings)
        self.go_on(saved, cycles, seed=0)
        saved.restrict([0, 2, 3, 4, 6])
        torch.save(saved.state_dict(), tmp_path / "state.pt")
        restored = make_selector(seed=99, **settings)
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert self.go_on(restored, 20, seed=1) == self.go_on(saved, 20, seed=1)

    def test_the_state_is_a_copy(self):
        selector = make_selector(initial_cycles=2)
        self.go_on(selector, 5, seed=0)
        before = torch_to_lists(selector.state_dict())
        state = selector.state_dict()
        self.go_on(selector, 5, seed=1)
        assert torch_to_lists(state) == before != torch_to_lists(selector.state_dict())


def torch_to_lists(value):
    if isinstance(value, dict):
        return {key: torch_to_lists(item) for key, item in value.items()}
    if isinstance(value, list):
        return [torch_to_lists(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value
