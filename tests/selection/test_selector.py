from __future__ import annotations

import math
import warnings
from collections import Counter

import numpy as np
import pytest
import scipy.optimize
from oracle import FAMILIES, HYPERPARAMETERS, make_selector, oracle_prediction, phases, random_run


class TestPhases:
    @pytest.mark.parametrize("initial", [0, 1, 7])
    def test_the_first_cycles_are_random_and_the_others_by_the_surrogate(self, initial):
        assert phases(make_selector(initial_cycles=initial), 10) == ["initial"] * initial + ["surrogate"] * (
            10 - initial
        )

    def test_only_the_surrogate_explains_its_choice(self):
        selector = make_selector(initial_cycles=1)
        first = selector.choose(np.zeros(4))
        assert (first.predicted_mean, first.predicted_std, first.gain) == (None, None, None)
        selector.observe(first.candidate, np.zeros(4), 0.2)
        second = selector.choose(np.ones(4))
        assert None not in (second.predicted_mean, second.predicted_std, second.gain)

    def test_cyclical_takes_turns_in_order(self):
        selector = make_selector(selection="cyclical")
        chosen = [selector.choose(np.zeros(4)) for _ in range(10)]
        assert [choice.candidate for choice in chosen] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
        assert {choice.phase for choice in chosen} == {"cyclical"}

    def test_commit_stays_with_the_first_whatever_the_scores(self):
        selector = make_selector(selection="commit")
        for contenders in ([0, 1, 2, 3, 4, 5, 6], [4, 1]):
            selector.restrict(contenders)
            for _ in range(10):
                choice = selector.choose(np.zeros(4))
                assert (choice.candidate, choice.phase) == (contenders[0], "commit")
                selector.observe(choice.candidate, np.zeros(4), -1.0)

    def test_random_draws_every_candidate_alike_whatever_the_scores(self):
        selector = make_selector(selection="random")
        counts = Counter()
        for _ in range(2100):
            choice = selector.choose(np.zeros(2))
            assert choice.phase == "random"
            selector.observe(choice.candidate, np.zeros(2), 1.0 if choice.candidate == 3 else -1.0)
            counts[choice.candidate] += 1
        # Four standard deviations of a count of mean 300.
        assert all(abs(counts[candidate] - 300) < 64 for candidate in range(7))

    def test_initial_scores_set_the_chance_of_a_family(self):
        selector = make_selector(initial_cycles=100, min_weight=0.0)
        selector.observe(0, np.zeros(2), -1.0)
        selector.observe(6, np.zeros(2), -1.0)
        assert {FAMILIES[selector.choose(np.zeros(2)).candidate] for _ in range(50)} == {"adam"}

    def test_uniform_initial_sampling_ignores_the_scores(self):
        selector = make_selector(initial_cycles=100, min_weight=0.0, initial_sampling="uniform")
        selector.observe(0, np.zeros(2), -1.0)
        selector.observe(6, np.zeros(2), -1.0)
        drawn = {FAMILIES[selector.choose(np.zeros(2)).candidate] for _ in range(50)}
        assert drawn == {"sgd", "adam", "adagrad"}

    def test_families_are_drawn_alike_however_many_candidates_they_have(self):
        selector = make_selector(initial_cycles=3000)
        counts = Counter(FAMILIES[selector.choose(np.zeros(2)).candidate] for _ in range(3000))
        # Four standard deviations of a count of mean 1000.
        assert all(abs(counts[family] - 1000) < 104 for family in ("sgd", "adam", "adagrad"))

    @pytest.mark.parametrize("selection", ["surrogate", "random"])
    def test_a_run_repeats_with_its_seed(self, selection):
        def run(seed):
            selector, noise, chosen = make_selector(seed, initial_cycles=8, selection=selection), 0.0, []
            generator = np.random.default_rng(0)
            for _ in range(14):
                state = generator.standard_normal(8)
                choice = selector.choose(state)
                noise = generator.uniform(-0.3, 0.3)
                selector.observe(choice.candidate, state, noise)
                chosen.append(choice)
            return chosen

        assert run(5) == run(5)
        assert run(5) != run(6)

    def test_the_random_state_of_the_program_is_left_alone(self):
        np.random.seed(0)
        expected = np.random.rand()
        np.random.seed(0)
        phases(make_selector(initial_cycles=3), 6)
        assert np.random.rand() == expected


class TestRestrict:
    @pytest.mark.parametrize("selection", ["surrogate", "random", "cyclical", "commit"])
    @pytest.mark.parametrize("contenders", [[5, 0], [3], [6, 1, 2]])
    def test_only_contenders_are_chosen(self, selection, contenders):
        selector = make_selector(selection=selection, initial_cycles=5)
        random_run(selector, 10, dimensions=4)
        selector.restrict(contenders)
        chosen = [selector.choose(np.full(4, float(cycle))).candidate for cycle in range(20)]
        assert set(chosen) <= set(contenders)
        if selection == "cyclical":
            assert chosen == [contenders[cycle % len(contenders)] for cycle in range(20)]
        if selection == "random":
            assert set(chosen) == set(contenders)

    def test_predictions_are_in_the_order_of_the_contenders(self):
        selector = make_selector()
        random_run(selector, 20)
        state = np.ones(16)
        mean, std = selector.predict(state)
        selector.restrict([5, 0, 4])
        mean_of_three, std_of_three = selector.predict(state)
        np.testing.assert_allclose(mean_of_three, mean[[5, 0, 4]], atol=1e-9)
        np.testing.assert_allclose(std_of_three, std[[5, 0, 4]], atol=1e-9)


class TestPrediction:
    @pytest.mark.parametrize("components", [0, 1, 2])
    @pytest.mark.parametrize("cycles", [8, 30])
    def test_prediction_is_a_gaussian_process_per_family(self, components, cycles):
        settings = {"state_components": components} if components else {"state_compression": "none"}
        families = [index for index in range(len(FAMILIES)) if components or FAMILIES[index] != "adagrad"]
        selector = make_selector(**settings)
        # Without a parameter state, a family of one candidate has a single input: see below.
        selector.restrict(families)
        observations = random_run(selector, cycles)
        state = np.random.default_rng(2).standard_normal(16)
        mean, std = selector.predict(state)
        expected = [oracle_prediction(selector, observations, state, index, components) for index in families]
        np.testing.assert_allclose(mean, [item[0] for item in expected], atol=1e-7)
        np.testing.assert_allclose(std, [item[1] for item in expected], atol=1e-7)

    def test_a_family_of_one_candidate_needs_no_parameter_state(self):
        selector = make_selector(
            families=["sgd", "adam"],
            hyperparameters=[{"lr": 0.1}, {"lr": 0.1}],
            initial_cycles=2,
            state_compression="none",
        )
        assert phases(selector, 10)[2:] == ["surrogate"] * 8

    def test_without_observations_every_candidate_is_alike(self):
        mean, std = make_selector().predict(np.zeros(4))
        assert mean.tolist() == [0.0] * 7 and std.tolist() == [1.0] * 7

    def test_a_family_without_observations_is_expected_to_do_as_the_others(self):
        selector = make_selector()
        scores = [0.3, 0.1, -0.2, 0.2]
        for candidate, score in enumerate(scores):
            selector.observe(candidate, np.full(4, candidate), score)
        mean, std = selector.predict(np.zeros(4))
        assert mean[6] == pytest.approx(np.mean(scores))
        assert std[6] == pytest.approx(np.std(scores))

    def test_predictions_are_in_the_unit_of_the_scores(self):
        small, large = make_selector(), make_selector()
        for candidate, state, score in random_run(small, 15):
            large.observe(candidate, state, 2 * score + 0.1)
        state = np.zeros(16)
        (mean, std), (large_mean, large_std) = small.predict(state), large.predict(state)
        np.testing.assert_allclose(large_mean, 2 * mean + 0.1, atol=1e-5)
        np.testing.assert_allclose(large_std, 2 * std, atol=1e-5)

    def test_only_the_newest_observations_count(self):
        def predictions(early_seed, window):
            selector = make_selector(surrogate_window=window)
            generator = np.random.default_rng(early_seed)
            for cycle in range(15):
                # The same candidates: how often a family was observed paces its refits.
                selector.observe(cycle % 7, generator.standard_normal(16), generator.uniform(-0.5, 0.5))
            random_run(selector, 10, seed=7)
            return np.concatenate(selector.predict(np.zeros(16)))

        assert np.array_equal(predictions(3, window=10), predictions(4, window=10))
        assert not np.allclose(predictions(3, window=11), predictions(4, window=11))

    def test_hyperparameters_are_refitted_when_the_window_is_full_too(self, monkeypatch):
        calls = []
        minimize = scipy.optimize.minimize

        def spy(*args, **kwargs):
            calls.append(1)
            return minimize(*args, **kwargs)

        monkeypatch.setattr(scipy.optimize, "minimize", spy)
        selector = make_selector(families=["a", "a"], hyperparameters=HYPERPARAMETERS[:2], surrogate_window=8)
        generator = np.random.default_rng(0)
        refits = []
        for cycle in range(100):
            selector.observe(cycle % 2, generator.standard_normal(4), generator.uniform(-0.5, 0.5))
            selector.predict(np.zeros(4))
            refits.append(len(calls))
        assert refits[7] < refits[29] < refits[99] <= 12


class TestChoice:
    @pytest.mark.parametrize("reading", ["text", "printed"])
    @pytest.mark.parametrize("halving, transferability", [(0, 0.3), (1, 0.5), (3, 0.9), (3, 0.0), (4, 1.0)])
    def test_the_candidate_of_the_largest_gain_is_chosen(self, reading, halving, transferability):
        selector = make_selector(
            initial_cycles=0, halving_cycles=halving, transferability=transferability, variance_weight=reading
        )
        generator = np.random.default_rng(0)
        random_run(selector, 8)
        for cycle in range(9):
            state = generator.standard_normal(16)
            mean, std = selector.predict(state)
            halved = 2.0 ** -math.floor(cycle / halving) if halving else 1.0
            weight = 1 - halved * transferability if reading == "printed" else halved * (1 - transferability)
            gains = [1 / (1 + math.exp(-(m + weight * s))) for m, s in zip(mean, std, strict=True)]
            choice = selector.choose(state)
            best = int(np.argmax(gains))
            assert choice.candidate == best
            assert choice.gain == pytest.approx(gains[best], abs=1e-8)
            assert choice.predicted_mean == pytest.approx(mean[best], abs=1e-8)
            assert choice.predicted_std == pytest.approx(std[best], abs=1e-8)
            selector.observe(choice.candidate, state, generator.uniform(-0.5, 0.5))

    def test_the_best_candidate_is_found(self):
        selector = make_selector(initial_cycles=10, variance_weight="text", halving_cycles=10)
        generator = np.random.default_rng(0)
        chosen = []
        for _ in range(60):
            state = generator.standard_normal(8)
            choice = selector.choose(state)
            chosen.append(choice.candidate)
            selector.observe(
                choice.candidate, state, (0.4 if choice.candidate == 4 else 0.0) + generator.normal(0, 0.05)
            )
        assert chosen[-20:].count(4) >= 18

    def test_the_best_candidate_may_depend_on_the_parameter_state(self):
        # Candidate 0 suits one half of the parameter space and candidate 5 the other.
        selector = make_selector(initial_cycles=40, initial_sampling="uniform", state_components=1, halving_cycles=1)
        generator = np.random.default_rng(0)
        direction = generator.standard_normal(16)
        right = 0
        for cycle in range(100):
            side = 1.0 if generator.random() < 0.5 else -1.0
            state = side * direction + 0.01 * generator.standard_normal(16)
            choice = selector.choose(state)
            good = choice.candidate == (0 if side > 0 else 5)
            bad = choice.candidate == (5 if side > 0 else 0)
            selector.observe(choice.candidate, state, 0.3 * good - 0.3 * bad)
            right += good and cycle >= 70
        assert right >= 25

    @pytest.mark.parametrize("score", [-1.0, 0.0, 1.0])
    def test_equal_scores_and_equal_states_neither_warn_nor_raise(self, score):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert phases(make_selector(initial_cycles=3), 30, score)[-1] == "surrogate"

    @pytest.mark.parametrize("compression", ["pca", "rp"])
    def test_states_of_extreme_size_neither_warn_nor_raise(self, compression):
        selector = make_selector(initial_cycles=2, state_compression=compression)
        generator = np.random.default_rng(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for cycle in range(20):
                state = generator.standard_normal(8) * 10.0 ** generator.integers(-38, 38)
                choice = selector.choose(state)
                selector.observe(choice.candidate, state, generator.uniform(-1, 1))
                assert cycle < 2 or math.isfinite(choice.gain)

    def test_differences_that_the_sigmoid_swallows_still_decide(self):
        # Scores in [-1, 1] cannot get there, but a large weighted spread can: sigmoid(40) and sigmoid(41) are both 1.
        selector = make_selector(families=["a", "a"], hyperparameters=[{"lr": 0.1}, {"lr": 0.01}], initial_cycles=0)
        selector.observe(0, np.zeros(2), 40.0)
        selector.observe(1, np.zeros(2), 60.0)
        choice = selector.choose(np.zeros(2))
        assert (choice.candidate, choice.gain) == (1, 1.0)
