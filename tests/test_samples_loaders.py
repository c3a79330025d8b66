"""Samples from loaders of other kinds: batches that are no dictionaries, short streams, whole batches."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch
from sampled import assert_all_parts, begun, make, rows_of, sizes
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate
from transformers import Trainer

from hf_iomt import IOMTTrainer
from hf_iomt.probe import Probe
from hf_iomt.samples import draw_groups

pytestmark = pytest.mark.usefixtures("small_heap")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Pairs:
    """Takes batches that are lists, and empties them."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, x = inputs.pop(), inputs.pop()
        outputs = model(x)
        loss = nn.functional.cross_entropy(outputs, labels)
        return (loss, {"logits": outputs}) if return_outputs else loss


class TestBatchesOfOtherKinds:
    # Two rows of two columns each would make a dictionary.
    @pytest.mark.parametrize("size", [2, 4])
    def test_lists(self, tmp_path, size):
        class Own(Pairs, IOMTTrainer):
            pass

        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 4, generator=generator)
        data = TensorDataset(x, (x.sum(1) > 0).long())
        model = net()
        # A head, for whose range test there is room.
        model[0].requires_grad_(False)
        settings = {"iomt_transferability": "off", "per_device_train_batch_size": size}
        trainer = make(tmp_path, model, data, Own, collator=default_collate, **settings)
        trainer.train()
        assert_all_parts(trainer)
        with torch.no_grad():
            losses = [float(nn.functional.cross_entropy(item(x), data.tensors[1])) for item in (net(), model)]
        assert losses[1] < losses[0]

    def test_the_probe_keeps_its_batches(self):
        class Own(Pairs, Trainer):
            pass

        x, y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 2
        trainer = begun(net(), TensorDataset(x, y), Own)
        trainer.data_collator = default_collate
        trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
        probe = Probe(trainer, 24)
        expected = float(nn.functional.cross_entropy(net()(x), y).detach())
        assert [float(probe()[0]) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-5)


class TestShortStreams:
    @pytest.mark.parametrize("samples", [1, 20, 32, 33, 40])
    def test_they_begin_again(self, samples):
        texts = tiny.Texts(samples)
        trainer = begun(tiny.bert(), tiny.Stream(texts))
        groups = list(draw_groups(trainer, 8, 50, skip=32))
        assert sizes(groups) == [8] * 6 + [2]
        # As it is with data that have a length.
        expected = [(32 + place) % samples for place in range(50)]
        assert list(itertools.chain(*rows_of(groups, texts))) == expected

    def test_a_probe_reads_no_sample_twice(self):
        texts = tiny.Texts(20)
        groups = list(draw_groups(begun(tiny.bert(), tiny.Stream(texts)), 8, 50))
        assert rows_of(groups, texts) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]

    @pytest.mark.parametrize("skip", [0, 32])
    def test_empty_ones_are_refused(self, skip):
        with pytest.raises(ValueError, match="`train_dataset` gives no sample to train on"):
            list(draw_groups(begun(tiny.bert(), tiny.Stream(tiny.Texts(0))), 8, 50, skip))

    @pytest.mark.parametrize("samples", [20, 33])
    def test_the_range_test_has_whole_batches(self, tmp_path, samples):
        seen = []

        class Watching(IOMTTrainer):
            def compute_loss(self, model, inputs, *args, **kwargs):
                if model.training and self.state.global_step == 0 and self.range_test is None:
                    seen.append(len(set(map(tuple, inputs["input_ids"].tolist()))))
                return super().compute_loss(model, inputs, *args, **kwargs)

        trainer = make(tmp_path, tiny.lora(), tiny.Stream(tiny.Texts(samples)), Watching)
        trainer.train()
        assert_all_parts(trainer)
        assert len(seen) >= trainer.range_test.batches > 0 and set(seen) == {4}


class Batches(IterableDataset):
    """Gives whole batches."""

    def __init__(self, texts):
        self.texts = texts

    def __iter__(self):
        for start in range(0, len(self.texts), 4):
            yield default_collate([self.texts[index] for index in range(start, min(start + 4, len(self.texts)))])


class Bare:
    """Has nothing of a `DataLoader` but its batches."""

    def __init__(self, texts):
        self.texts = texts

    def __iter__(self):
        return iter(Batches(self.texts))

    def __len__(self):
        return -(-len(self.texts) // 4)


LOADERS = {
    "batches": lambda texts, trainer: DataLoader(Batches(texts), batch_size=None),
    "prepared": lambda texts, trainer: trainer.accelerator.prepare(DataLoader(Batches(texts), batch_size=None)),
    "bare": lambda texts, trainer: Bare(texts),
}


def reading(kind, texts, base):
    class Reading(base):
        def get_train_dataloader(self):
            return LOADERS[kind](texts, self)

    return Reading


class TestLoadersOfBatches:
    @pytest.mark.parametrize("kind", LOADERS)
    def test_they_are_trained_from(self, tmp_path, kind):
        trainer = make(tmp_path, tiny.lora(), cls=reading(kind, tiny.Texts(), IOMTTrainer), iomt_score="probe")
        trainer.train()
        assert_all_parts(trainer)
        # Nobody can measure it on samples that nobody has apart.
        assert trainer.transferability.weight == 0.5 and not trainer.transferability.samples

    @pytest.mark.parametrize("kind", LOADERS)
    def test_groups_are_whole_batches(self, kind):
        texts = tiny.Texts(30)
        trainer = begun(tiny.bert(), None, reading(kind, texts, Trainer))
        before = dict(vars(trainer.accelerator.gradient_state))
        groups = list(draw_groups(trainer, 6, 16))
        assert sizes(groups) == [8, 8] and [len(group) for group in groups] == [2, 2]
        assert rows_of(groups, texts) == [list(range(8)), list(range(8, 16))]
        # All there is, but no batch twice.
        assert sizes(draw_groups(trainer, 8, 100)) == [8, 8, 8, 6]
        # What the probe has read is left out, until there is nothing else.
        again = rows_of(draw_groups(trainer, 4, 24, skip=16), texts)
        assert list(itertools.chain(*again))[:18] == [*range(16, 30), *range(4)]
        assert vars(trainer.accelerator.gradient_state) == before

    def test_empty_ones_are_refused(self):
        trainer = begun(tiny.bert(), None, reading("bare", tiny.Texts(0), Trainer))
        with pytest.raises(ValueError, match="gives no sample to train on"):
            list(draw_groups(trainer, 6, 16, skip=4))
