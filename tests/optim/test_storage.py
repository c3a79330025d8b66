from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
from torch import nn

from hf_iomt.optim import InterleavedOptimizer, Snapshot, Storage

PLACES = ["none", "cpu", "disk"]

VALUES = [
    torch.arange(6.0).reshape(2, 3),
    torch.randn(5, dtype=torch.bfloat16),
    torch.randn(3, dtype=torch.float64),
    torch.tensor(2.5),
    torch.tensor([True, False]),
    torch.arange(7),
    torch.zeros(0, 3),
    torch.randn(4, 6).t(),
    torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    torch.randn(10)[::2],
    torch.tensor([float("nan"), float("inf"), -0.0]),
    torch.randn(2, 2, dtype=torch.complex64),
]


def same(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(first.nan_to_num(), second.nan_to_num())
        and torch.equal(torch.isnan(first), torch.isnan(second))
    )


@pytest.mark.parametrize("place", PLACES)
class TestPlaces:
    def test_every_kind_of_tensor_comes_back(self, place, tmp_path):
        kept = Storage(place, tmp_path).put(VALUES, copy=True)
        for found in (list(kept), kept.read(), kept.take()):
            assert all(map(same, VALUES, found)) and len(found) == len(VALUES)

    def test_nests_keep_their_form(self, place, tmp_path):
        value = {"state": {0: {"m": torch.ones(2), "step": torch.tensor(3.0), "k": None}}, "groups": [{"b": (0.9, 1)}]}
        kept = Storage(place, tmp_path).put(value, copy=True)
        for found in (kept.read(), kept.take()):
            assert torch.equal(found["state"][0].pop("m"), torch.ones(2))
            assert found == {"state": {0: {"step": torch.tensor(3.0), "k": None}}, "groups": [{"b": (0.9, 1)}]}

    def test_a_copy_does_not_change_with_what_was_copied(self, place, tmp_path):
        tensor = torch.ones(3)
        kept = Storage(place, tmp_path).put([tensor], copy=True)
        tensor.zero_()
        assert kept.read()[0].tolist() == [1.0, 1.0, 1.0]

    def test_what_was_taken_can_be_changed_and_saved(self, place, tmp_path):
        taken = Storage(place, tmp_path).put([torch.ones(3), torch.ones(3)]).take()
        taken[0].add_(1)
        torch.save(taken, tmp_path / "saved")
        assert [item.tolist() for item in torch.load(tmp_path / "saved")] == [[2.0] * 3, [1.0] * 3]

    def test_what_is_read_can_be_saved(self, place, tmp_path):
        kept = Storage(place, tmp_path).put([torch.arange(1000.0), torch.ones(3)])
        torch.save(kept.read(), tmp_path / "saved")
        assert [item.sum().item() for item in torch.load(tmp_path / "saved", weights_only=True)] == [499500.0, 3.0]
        # Nothing but these numbers: the rest of a file does not go with them.
        assert (tmp_path / "saved").stat().st_size < 8000

    def test_a_snapshot_and_the_present_values_change_places(self, place, tmp_path):
        tensors = [torch.full((2, 3), 1.0), torch.full((3,), 2.0, dtype=torch.bfloat16), torch.zeros(0)]
        snapshot = Snapshot(tensors, storage=Storage(place, tmp_path))
        for tensor in tensors:
            tensor.mul_(10)
        for new, old in ((1, 10), (10, 1), (1, 10)):
            snapshot.swap()
            assert [tensor.unique().tolist() for tensor in tensors] == [[1.0 * new], [2.0 * new], []]
            assert [value.unique().tolist() for value in snapshot.values] == [[1.0 * old], [2.0 * old], []]

    def test_it_can_be_copied_and_pickled(self, place, tmp_path):
        kept = Storage(place, tmp_path).put([torch.ones(3)])
        for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            assert other.read()[0].tolist() == [1.0] * 3

    def test_no_file_is_seen_or_left(self, place, tmp_path):
        kept = Storage(place, tmp_path / "run").put([torch.ones(3)])
        assert list(tmp_path.rglob("*.*")) == [] and kept.read()

    @pytest.mark.parametrize("idle_state", ["keep", "reset"])
    def test_an_optimizer_steps_as_if_all_were_in_memory(self, place, tmp_path, idle_state):
        def run(storage, saved_after=None):
            torch.manual_seed(0)
            model = nn.Linear(4, 3)
            text = "adam:lr=0.01; sgdm:lr=0.1|0.01; adagrad:lr=0.1; rmsprop:lr=0.01|0.02,momentum=0.9"
            optimizer = InterleavedOptimizer(model.parameters(), text, idle_state, storage=storage)
            for step in range(40):
                optimizer.activate(step // 2 % 6)
                optimizer.zero_grad()
                model(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()
                optimizer.step()
                if step == saved_after:
                    saved = copy.deepcopy(optimizer.state_dict())
                    optimizer = InterleavedOptimizer(model.parameters(), text, idle_state, storage=storage)
                    optimizer.load_state_dict(saved)
                if step == 30:
                    model, optimizer = copy.deepcopy((model, optimizer))
            return [*model.parameters()], optimizer.state_dict()["state"]

        expected, found = run(Storage()), run(Storage(place, tmp_path))
        resumed = run(Storage(place, tmp_path), saved_after=17)
        for other in (found, resumed):
            assert all(map(torch.equal, expected[0], other[0]))
            assert {n: list(slots) for n, slots in expected[1].items()} == {
                n: [*slots] for n, slots in other[1].items()
            }
            for number, slots in expected[1].items():
                values = {name: value for name, value in slots.items() if isinstance(value, torch.Tensor)}
                assert all(torch.equal(value, other[1][number][name]) for name, value in values.items())


def test_idle_families_and_copies_really_leave_the_memory(tmp_path):
    parameter = nn.Parameter(torch.ones(1000))
    optimizer = InterleavedOptimizer([parameter], "adam:lr=0.1; sgd:lr=0.1", storage=Storage("disk", tmp_path))
    parameter.grad = torch.ones(1000)
    optimizer.step()
    optimizer.activate(1)
    snapshot = Snapshot([parameter], storage=optimizer.storage)
    assert not optimizer._inner["adam"].state
    first, second = snapshot.values[0], snapshot.values[0]
    # Mapped anew each time they are read.
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
    assert torch.equal(optimizer.state[parameter]["adam/exp_avg"], torch.full((1000,), 0.1))


def test_an_unknown_place():
    with pytest.raises(ValueError, match=r"`place` must be 'none', 'cpu' or 'disk', but got 'gpu'"):
        Storage("gpu")


def test_a_disk_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Storage("disk", tmp_path / "file").put([torch.ones(1)])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open("/dev/full", "w+b"))  # noqa: SIM115
    with pytest.raises(
        OSError, match=r"`iomt_offload='disk'` keeps .*No space left.* Make room there, choose another"
    ):
        Storage("disk", tmp_path).put([torch.ones(1000)])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("copied", [False, True])
def test_what_the_driver_moves_stays_what_it_is(place, copied, tmp_path):
    """Paged states of bitsandbytes bear a mark; a copy of them would be an ordinary tensor of the CPU."""
    paged = torch.zeros(4)
    paged.is_paged = True
    kept = Storage(place, tmp_path).put({"state": [paged, torch.ones(2)]}, copy=copied)
    assert kept.read()["state"][0] is paged
    assert kept.take()["state"][0] is paged
