from __future__ import annotations

import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_iomt.selection import ParameterProjection, compress, select_parameters
from hf_iomt.selection.parameter_state import _sparse_projection

ROWS = 8


def named(**tensors):
    return [(name, nn.Parameter(torch.as_tensor(value, dtype=torch.float32))) for name, value in tensors.items()]


def random_parameter(*shape, seed=0):
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def matrix_of(size, seed):
    rows, columns, values = _sparse_projection(size, seed)
    matrix = torch.zeros(ROWS, size, dtype=torch.float64)
    for row, column, value in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
        matrix[row, column] += value
    return matrix


def state_points(count, dimensions, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dimensions)) * np.arange(1, dimensions + 1)


class TestSelectParameters:
    def model(self):
        layers = {f"layer{number}": nn.Linear(4, 4) for number in range(8)}
        return nn.Sequential(
            nn.ModuleDict({"embedding": nn.Embedding(10, 4), **layers, "classifier": nn.Linear(4, 2)})
        )

    def test_the_default_is_the_classifier_and_the_last_hidden_layers(self):
        selected = select_parameters(self.model().named_parameters())
        assert selected[-3:] == ["0.layer6.weight", "0.layer7.weight", "0.classifier.weight"]
        assert not any("embedding" in name or "layer0" in name or "bias" in name for name in selected)

    def test_lora_matrices_are_taken_where_there_are_any(self):
        parameters = named(
            **{
                "encoder.0.q.lora_A.default.weight": torch.ones(2, 4),
                "encoder.0.q.lora_B.default.weight": torch.ones(4, 2),
                "embeddings.lora_embedding_A.default": torch.ones(2, 4),
                "classifier.modules_to_save.default.weight": torch.ones(2, 4),
            }
        )
        assert select_parameters(parameters) == [name for name, _ in parameters[:3]]

    def test_frozen_parameters_are_never_selected(self):
        model = self.model()
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "layer7" in name or "embedding" in name
        assert select_parameters(model.named_parameters()) == ["0.embedding.weight", "0.layer7.weight"]
        with pytest.raises(ValueError, match="No trainable parameter matches"):
            select_parameters(model.named_parameters(), "classifier")

    def test_vectors_are_taken_where_there_is_no_matrix(self):
        assert select_parameters(named(scale=torch.ones(3), shift=torch.ones(3))) == ["scale", "shift"]

    def test_a_pattern_is_searched_in_the_names(self):
        parameters = named(**{"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2), "b.weight": torch.ones(2, 2)})
        assert select_parameters(parameters, r"^a\.") == ["a.weight", "a.bias"]
        assert select_parameters(parameters, "weight$") == ["a.weight", "b.weight"]

    def test_a_pattern_without_a_match_says_what_the_names_look_like(self):
        with pytest.raises(ValueError, match=r"iomt_state_parameters='decoder'.*names look like a, b"):
            select_parameters(named(a=torch.ones(2), b=torch.ones(2)), "decoder")

    def test_a_generator_of_parameters_is_read_once(self):
        assert select_parameters(iter(named(a=torch.ones(2, 2)))) == ["a"]

    def test_nothing_trainable_selects_nothing(self):
        assert select_parameters([("a", torch.ones(2, 2))]) == []


class TestProjection:
    @pytest.mark.parametrize(
        "shape",
        [
            (1,),
            (2, 1),
            (7,),
            (3, 5),
            (20, 30),
            (2, 3, 4),
        ],
    )
    def test_each_tensor_gives_eight_finite_numbers(self, shape):
        projected = ParameterProjection([("w", random_parameter(*shape))], 0)()
        assert projected.shape == (ROWS,)
        assert np.isfinite(projected).all() and np.any(projected != 0)

    def test_a_tensor_without_elements_is_projected_to_zero(self):
        # What a rank holds of a parameter that another rank owns.
        projected = ParameterProjection([("a", nn.Parameter(torch.zeros(0))), ("b", random_parameter(5))], 0)()
        assert projected.shape == (2 * ROWS,)
        assert not projected[:ROWS].any() and projected[ROWS:].any()

    def test_no_tensors_give_no_numbers(self):
        assert ParameterProjection([], 0)().shape == (0,)

    @given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 3))
    def test_it_is_linear_in_the_parameters(self, seed, a, b):
        x, y = random_parameter(6, 9, seed=1), random_parameter(6, 9, seed=2)
        mixed = nn.Parameter(a * x.detach() + b * y.detach())
        of_x, of_y, of_mixed = (ParameterProjection([("w", tensor)], seed)() for tensor in (x, y, mixed))
        np.testing.assert_allclose(of_mixed, a * of_x + b * of_y, atol=1e-4)

    def test_tensors_are_projected_each_by_its_matrix_and_put_in_a_row(self):
        x, y = random_parameter(5, 6, seed=1), random_parameter(11, seed=2)
        both = ParameterProjection([("x", x), ("y", y)], 3)()
        only_x, only_y = ParameterProjection([("x", x)], 3)(), ParameterProjection([("y", y)], 3)()
        assert both.tolist() == [*only_x, *only_y]

    @pytest.mark.parametrize("cut", [0, 1, 20, 53, 54])
    def test_the_parts_of_a_split_tensor_sum_to_the_whole(self, cut):
        tensor, seed = random_parameter(6, 9), 5
        matrix = matrix_of(54, seed ^ zlib.crc32(b"layer.weight"))
        flat = tensor.detach().double().reshape(-1)
        parts = matrix[:, :cut] @ flat[:cut] + matrix[:, cut:] @ flat[cut:]
        whole = ParameterProjection([("layer.weight", tensor)], seed)()
        np.testing.assert_allclose(whole, parts.numpy(), atol=1e-5)

    def test_it_depends_on_the_seed_and_the_name_alone(self):
        tensor, other = random_parameter(10, 10), random_parameter(3, 3, seed=9)
        first = ParameterProjection([("w", tensor)], 1)()
        assert ParameterProjection([("w", tensor)], 1)().tolist() == first.tolist()
        assert ParameterProjection([("v", other), ("w", tensor)], 1)()[ROWS:].tolist() == first.tolist()
        assert not np.allclose(ParameterProjection([("w", tensor)], 2)(), first)
        assert not np.allclose(ParameterProjection([("v", tensor)], 1)(), first)

    def test_present_values_are_read_at_each_call(self):
        tensor = random_parameter(4, 4)
        projection = ParameterProjection([("w", tensor)], 0)
        before = projection()
        with torch.no_grad():
            tensor.mul_(2)
        np.testing.assert_allclose(projection(), 2 * before, rtol=1e-6)

    def test_matrix_entries_are_sparse_signs_of_one_size(self):
        # Li et al.: density 1/√size, values ±√(√size / rows).
        size = 10_000
        matrix = matrix_of(size, 0)
        nonzero = matrix[matrix != 0]
        expected = ROWS * size / np.sqrt(size)
        assert len(nonzero) == pytest.approx(expected, abs=5 * np.sqrt(expected))
        np.testing.assert_allclose(nonzero.abs().numpy(), np.sqrt(np.sqrt(size) / ROWS), rtol=1e-6)
        assert abs((nonzero > 0).double().mean().item() - 0.5) < 0.1

    def test_lengths_are_kept_on_average(self):
        flat = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
        squares = [(matrix_of(200, seed) @ flat).square().sum().item() for seed in range(300)]
        assert np.mean(squares) == pytest.approx(flat.square().sum().item(), rel=0.15)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions_are_projected_in_float(self, dtype):
        # Halves of small integers are exact in all of them.
        values = (torch.arange(60).reshape(6, 10) % 7 - 3) / 2
        reference = ParameterProjection([("w", nn.Parameter(values))], 0)()
        result = ParameterProjection([("w", nn.Parameter(values.to(dtype)))], 0)()
        assert result.dtype == np.float64
        assert result.tolist() == reference.tolist()

    def test_memory_layout_does_not_matter(self):
        tensor = random_parameter(6, 10)
        transposed = nn.Parameter(tensor.detach().T.contiguous().T)
        assert not transposed.is_contiguous()
        expected = ParameterProjection([("w", tensor)], 0)()
        assert ParameterProjection([("w", transposed)], 0)().tolist() == expected.tolist()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
    def test_broken_parameters_still_give_finite_numbers(self, value):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            projected = ParameterProjection([("w", nn.Parameter(torch.full((40,), value)))], 0)()
            # Other states must stay comparable with it.
            compressed = compress(np.stack([projected, *state_points(4, ROWS)]), "pca", 2)
        assert np.isfinite(projected).all() and np.isfinite(compressed).all()

    def test_the_random_state_of_the_program_is_left_alone(self):
        torch.manual_seed(0)
        np.random.seed(0)
        expected = torch.rand(1).item(), np.random.rand()
        torch.manual_seed(0)
        np.random.seed(0)
        ParameterProjection([("w", random_parameter(50))], 3)()
        compress(state_points(5, 4), "rp", 2)
        assert (torch.rand(1).item(), np.random.rand()) == expected


class TestCompress:
    @pytest.mark.parametrize("count, dimensions", [(3, 2), (5, 16), (30, 8), (64, 40)])
    @pytest.mark.parametrize("components", [1, 2])
    def test_pca_is_the_singular_value_decomposition_of_the_centred_states(self, count, dimensions, components):
        states = state_points(count, dimensions, seed=count) + 100
        left, sizes, right = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
        expected = left[:, :components] * sizes[:components]
        for column in range(components):
            # Signs: the loading of largest magnitude is positive.
            expected[:, column] *= np.sign(right[column, np.argmax(np.abs(right[column]))])
        expected /= expected[:, 0].std()
        np.testing.assert_allclose(compress(states, "pca", components), expected, atol=1e-8)

    def test_pca_does_not_depend_on_the_unit_or_the_origin(self):
        states = state_points(12, 5)
        reference = compress(states, "pca", 2)
        np.testing.assert_allclose(compress(1e4 * states, "pca", 2), reference, atol=1e-8)
        np.testing.assert_allclose(compress(states + 7, "pca", 2), reference, atol=1e-8)

    def test_repeated_pca_of_a_growing_run_keeps_its_sign(self):
        # A drift along one direction: old states keep their places as new ones come in.
        generator = np.random.default_rng(0)
        states = np.outer(np.arange(40), [3.0, -5.0, 1.0]) + 0.1 * generator.standard_normal((40, 3))
        for count in range(3, 41):
            first = compress(states[:count], "pca", 1)[:, 0]
            assert first[0] > first[-1]

    def test_rp_is_a_projection_fixed_by_the_seed(self):
        states = state_points(9, 6)
        once, longer = (
            compress(states, "rp", 3, seed=1),
            compress(np.vstack([states, states[:1] * 5]), "rp", 3, seed=1),
        )
        # Differences of states: the common centre and the common unit fall out of their ratios.
        ratio = (longer[1:9] - longer[0]) / (once[1:] - once[0])
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-8)
        matrix = np.random.default_rng(1).standard_normal((6, 3))
        expected = (states - states.mean(axis=0)) @ matrix
        np.testing.assert_allclose(once, expected / expected.std(axis=0).max(), atol=1e-10)
        assert not np.allclose(once, compress(states, "rp", 3, seed=2))

    @pytest.mark.parametrize("compression", ["pca", "rp"])
    def test_the_widest_column_has_unit_spread(self, compression):
        widths = compress(state_points(20, 6) * 1e-3, compression, 3).std(axis=0)
        assert widths.max() == pytest.approx(1.0)

    @pytest.mark.parametrize("compression", ["pca", "rp"])
    @pytest.mark.parametrize("states", [np.full((5, 3), 2.0), np.zeros((4, 8)), np.full((3, 2), 1e-320)])
    def test_states_that_never_change_give_zeros(self, compression, states):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not compress(states, compression, 2).any()

    @pytest.mark.parametrize("compression", ["pca", "rp"])
    @pytest.mark.parametrize("scale", [1e-30, 1e30, 1e38])
    def test_states_of_any_size_give_finite_numbers(self, compression, scale):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isfinite(compress(scale * state_points(6, 4), compression, 2)).all()

    @pytest.mark.parametrize("compression", ["pca", "rp"])
    def test_equal_states_give_zeros_where_their_mean_is_rounded(self, compression):
        states = np.tile(state_points(1, 16), (7, 1))
        assert (states.mean(axis=0) != states[0]).any()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(compress(states, compression, 2), 0.0, atol=1e-8)

    @given(st.sampled_from(["pca", "rp", "none"]), st.integers(0, 12), st.integers(0, 10), st.integers(1, 6))
    def test_shapes(self, compression, count, dimensions, components):
        result = compress(state_points(count, dimensions), compression, components)
        assert result.dtype == np.float64
        assert result.shape[0] == count
        assert result.shape[1] <= components
        assert np.isfinite(result).all()
        if compression == "none" or count < 2 or dimensions == 0:
            assert result.shape[1] == 0

    @pytest.mark.parametrize("compression", ["pca", "rp"])
    def test_the_callers_array_is_left_alone(self, compression):
        states = state_points(6, 4)
        copy = states.copy()
        compress(states, compression, 2)
        assert np.array_equal(states, copy)

    def test_umap_waits_for_enough_states(self):
        assert compress(state_points(4, 6), "umap", 2).shape == (4, 0)

    def test_umap_repeats_with_its_seed(self):
        pytest.importorskip("umap")
        states = state_points(20, 6)
        once = compress(states, "umap", 2, seed=1)
        assert once.shape == (20, 2) and np.isfinite(once).all()
        assert np.array_equal(once, compress(states, "umap", 2, seed=1))
