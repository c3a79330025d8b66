from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_iomt.optim import ParameterAverage, Snapshot, trainable_tensors


def normalised_model(**settings):
    return nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3, **settings), nn.Flatten(), nn.Linear(12, 2))


def identities(tensors):
    return [id(tensor) for tensor in tensors]


class TestTrainableTensors:
    def test_trainable_parameters_and_running_statistics(self):
        model = normalised_model()
        norm = model[1]
        expected = [*model.parameters(), norm.running_mean, norm.running_var, norm.num_batches_tracked]
        assert sorted(identities(trainable_tensors(model))) == sorted(identities(expected))

    def test_frozen_weights_are_left_out_but_not_their_running_statistics(self):
        model = normalised_model()
        for parameter in model[:2].parameters():
            parameter.requires_grad_(False)
        norm, head = model[1], model[3]
        expected = [head.weight, head.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked]
        assert sorted(identities(trainable_tensors(model))) == sorted(identities(expected))

    def test_layers_without_running_statistics_have_none(self):
        model = normalised_model(track_running_stats=False)
        assert identities(trainable_tensors(model)) == identities(model.parameters())

    def test_other_buffers_are_no_part_of_training(self):
        model = nn.Linear(2, 2)
        model.register_buffer("positions", torch.arange(4))
        assert identities(trainable_tensors(model)) == identities(model.parameters())

    def test_tied_weights_and_shared_layers_come_once(self):
        norm = nn.BatchNorm1d(3)
        model = nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 3), norm)
        model[2].weight = model[0].weight
        found = identities(trainable_tensors(model))
        assert len(found) == len(set(found)) == 3 + 2 + 3

    def test_everything_that_training_changes_can_be_undone(self):
        torch.manual_seed(0)
        model = normalised_model()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        snapshot = Snapshot(trainable_tensors(model))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model(torch.randn(5, 2, 4)).square().mean().backward()
            optimizer.step()
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert len(changed) == len(before)
        snapshot.restore()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestSnapshot:
    def test_values_are_copies(self):
        tensor = nn.Parameter(torch.ones(3))
        snapshot = Snapshot([tensor])
        with torch.no_grad():
            tensor.mul_(5)
        assert snapshot.values[0].tolist() == [1.0, 1.0, 1.0]
        assert not snapshot.values[0].requires_grad

    def test_restoring_writes_in_place_and_leaves_gradients_alone(self):
        tensor = nn.Parameter(torch.ones(3))
        snapshot = Snapshot([tensor])
        tensor.grad = torch.full((3,), 2.0)
        pointer = tensor.data_ptr()
        with torch.no_grad():
            tensor.zero_()
        snapshot.restore()
        assert tensor.data_ptr() == pointer and tensor.tolist() == [1.0, 1.0, 1.0]
        assert tensor.requires_grad and tensor.grad.tolist() == [2.0, 2.0, 2.0]

    def test_restoring_does_not_tie_the_snapshot_to_the_tensor(self):
        tensor = nn.Parameter(torch.ones(3))
        snapshot = Snapshot([tensor])
        snapshot.restore()
        with torch.no_grad():
            tensor.add_(1)
        snapshot.restore()
        assert tensor.tolist() == [1.0, 1.0, 1.0]

    def test_given_values_are_kept_and_converted_when_restored(self):
        tensor = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
        value = torch.tensor([1.5, -2.0])
        snapshot = Snapshot([tensor], [value])
        assert snapshot.values[0] is value
        snapshot.restore()
        assert tensor.dtype == torch.bfloat16 and tensor.tolist() == [1.5, -2.0]

    def test_a_value_for_each_tensor_is_needed(self):
        snapshot = Snapshot([torch.zeros(1), torch.zeros(1)], [torch.ones(1)])
        with pytest.raises(ValueError):
            snapshot.restore()


class TestParameterAverage:
    def test_the_mean_of_the_moments(self):
        tensor = nn.Parameter(torch.zeros(2))
        average = ParameterAverage([tensor])
        for value in (1.0, 2.0, 6.0):
            with torch.no_grad():
                tensor.copy_(torch.tensor([value, -value]))
            average.add()
        assert average.count == 3
        average.restore()
        assert tensor.tolist() == [3.0, -3.0]

    def test_one_moment_is_its_own_mean_and_not_a_view(self):
        tensor = nn.Parameter(torch.ones(2))
        average = ParameterAverage([tensor])
        average.add()
        with torch.no_grad():
            tensor.mul_(4)
        average.restore()
        assert tensor.tolist() == [1.0, 1.0]

    def test_snapshots_can_be_averaged(self):
        tensor = torch.zeros(1)
        average = ParameterAverage([tensor])
        for value in (1.0, 5.0):
            average.add(Snapshot([tensor], [torch.tensor([value])]))
        assert tensor.tolist() == [0.0]
        average.restore()
        assert tensor.tolist() == [3.0]

    def test_an_added_snapshot_is_left_alone(self):
        tensor = torch.ones(1)
        snapshot = Snapshot([tensor])
        average = ParameterAverage([tensor])
        average.add(snapshot)
        average.add(snapshot)
        average.restore()
        assert snapshot.values[0].tolist() == [1.0]

    def test_more_can_be_added_to_what_was_restored(self):
        tensor = torch.ones(1)
        average = ParameterAverage([tensor])
        average.add()
        average.restore()
        tensor.fill_(3.0)
        average.add()
        average.restore()
        assert tensor.tolist() == [2.0]

    def test_low_precision_is_summed_in_float(self):
        tensor = torch.ones(1, dtype=torch.bfloat16)
        average = ParameterAverage([tensor])
        # A bfloat16 sum of ones stops at 256.
        for _ in range(1000):
            average.add()
        tensor.zero_()
        average.restore()
        assert tensor.item() == 1.0

    def test_double_precision_is_kept(self):
        tensor = torch.tensor([1 + 2**-40], dtype=torch.float64)
        average = ParameterAverage([tensor])
        average.add()
        tensor.zero_()
        average.restore()
        assert tensor.item() == 1 + 2**-40

    def test_counters_keep_their_first_value(self):
        counter = torch.tensor(3)
        average = ParameterAverage([counter])
        average.add()
        counter.fill_(9)
        average.add()
        average.restore()
        assert counter.item() == 3 and counter.dtype == torch.int64

    def test_reset_starts_afresh(self):
        tensor = torch.ones(1)
        average = ParameterAverage([tensor])
        average.add()
        average.reset()
        assert average.count == 0
        tensor.fill_(5.0)
        average.add()
        average.restore()
        assert tensor.tolist() == [5.0]

    def test_nothing_has_no_mean(self):
        with pytest.raises(ValueError, match="There is nothing to average: call `add` first"):
            ParameterAverage([torch.ones(1)]).restore()

    def test_gradients_are_not_tracked(self):
        tensor = nn.Parameter(torch.ones(1))
        average = ParameterAverage([tensor])
        average.add()
        average.add()
        average.restore()
        assert tensor.requires_grad and tensor.grad_fn is None
