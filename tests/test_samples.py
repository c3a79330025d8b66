"""Samples read on the side, in all the ways that training may read them, through real trainers."""

from __future__ import annotations

import itertools
import os

import pytest
import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.probe import Probe
from hf_iomt.samples import _pack, draw_groups

pytestmark = pytest.mark.usefixtures("small_heap")

# Few, but enough for a race and for the range test of an adapter or a head.
STEPS = 80


def make(path, model=None, data=None, cls=IOMTTrainer, evaluation=None, collator=None, loss=None, **settings):
    settings = {"iomt_candidates": "adamw:lr=1x|3x; sgd:lr=0.01", "max_steps": STEPS, **settings}
    return cls(
        tiny.bert() if model is None else model,
        IOMTTrainingArguments(**tiny.quiet(path, **settings)),
        train_dataset=data,
        eval_dataset=evaluation,
        data_collator=collator,
        compute_loss_func=loss,
    )


def begun(model, data, cls=Trainer, **settings):
    """A trainer as it is when training has begun."""
    args = TrainingArguments(**tiny.quiet("run", **settings))
    trainer = cls(model, args, train_dataset=data)
    trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
    trainer.model.train()
    return trainer


def assert_all_parts(trainer):
    """A run to its end, with a range test and a race."""
    assert trainer.state.global_step == STEPS and trainer.range_test is not None
    assert "race" in {record["phase"] for record in trainer.iomt_history}


def sizes(groups):
    return [sum(count for _, count in group) for group in groups]


def rows_of(groups, texts):
    """Which texts are in each group."""
    places = {tuple(row): index for index, row in enumerate(texts.ids.tolist())}
    return [[places[tuple(row)] for inputs, _ in group for row in inputs["input_ids"].tolist()] for group in groups]


class Located(tiny.Texts):
    """Knows in which process each sample was read."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "process": torch.tensor(os.getpid())}


class Noting(IOMTTrainer):
    """Notes the processes that samples were read in."""

    def __init__(self, *args, **kwargs):
        self.processes = set()
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.processes.update(inputs.pop("process").tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)


class Noisy(tiny.Texts):
    """Draws random numbers when it is read, as augmentation does."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {**item, "input_ids": (item["input_ids"] + torch.randint(0, 30, (tiny.LENGTH,))) % 30 + 2}


class TestWorkers:
    """With workers, no sample is read in the process that starts them: they would share a file that it has opened."""

    @pytest.mark.parametrize("stream", [False, True], ids=["rows", "stream"])
    def test_a_run_reads_in_them_only(self, tmp_path, stream):
        data = Located(4 * STEPS)
        settings = {"dataloader_num_workers": 1, "remove_unused_columns": False}
        trainer = make(tmp_path, tiny.lora(), tiny.Stream(data) if stream else data, Noting, **settings)
        trainer.train()
        assert trainer.processes and os.getpid() not in trainer.processes
        # What reads samples on the side was there.
        assert_all_parts(trainer)
        assert trainer.transferability.parts

    def test_held_out_samples_are_read_in_one(self, tmp_path):
        settings = {"dataloader_num_workers": 1, "remove_unused_columns": False}
        trainer = make(tmp_path, None, Located(), Noting, Located(80, seed=1), **settings)
        Probe(trainer, 64, 8, trainer.get_eval_dataloader())()
        assert len(trainer.processes) == 1 and os.getpid() not in trainer.processes

    @pytest.mark.parametrize("split", ["train", "eval"])
    def test_a_stream_is_assessed_in_them(self, tmp_path, split):
        settings = {"dataloader_num_workers": 1, "remove_unused_columns": False, "iomt_transferability_split": split}
        stream = tiny.Stream(Located(40))
        found = make(tmp_path, None, stream, Noting, stream, **settings)
        assert found.assess_transferability().samples == 40
        assert len(found.processes) == 1 and os.getpid() not in found.processes

    @pytest.mark.parametrize("skip", [0, 8])
    @pytest.mark.parametrize("stream", [False, True], ids=["rows", "stream"])
    def test_the_samples_are_the_same(self, stream, skip):
        texts = tiny.Texts(20)
        data = tiny.Stream(texts) if stream else texts
        drawn = [
            rows_of(draw_groups(begun(tiny.bert(), data, dataloader_num_workers=count), 6, 30, skip), texts)
            for count in (0, 2)
        ]
        assert drawn[0] == drawn[1] != []

    def test_one_start_is_enough(self):
        data = Located(20)
        for dataset in (data, tiny.Stream(data)):
            trainer = begun(tiny.bert(), dataset, dataloader_num_workers=2, remove_unused_columns=False)
            groups = list(draw_groups(trainer, 6, 60, 8))
            assert sizes(groups) == [6] * 10
            assert len({int(process) for group in groups for inputs, _ in group for process in inputs["process"]}) == 1

    def test_global_generators_are_left_alone(self):
        trainer = begun(tiny.bert(), Noisy(20), dataloader_num_workers=1)
        drawn = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            drawn.append(next(draw_groups(trainer, 6, 6))[0][0]["input_ids"])
            assert torch.equal(torch.get_rng_state(), state)
        # What workers draw follows from the seed alone.
        assert torch.equal(*drawn)

    def test_samples_take_no_shared_memory(self):
        """Each tensor in it keeps a file open, and a part of a tensor would be there with all of it."""
        data = TensorDataset(torch.arange(1000000).reshape(-1, 4))
        assert len(_pack({"parts": [data[5]]})) < 2000
        trainer = begun(tiny.bert(), data, dataloader_num_workers=1)
        trainer.callback_handler.train_dataloader.collate_fn = lambda rows: {"rows": rows}
        ((inputs, count),) = next(draw_groups(trainer, 4, 4))
        assert count == 4 and not any(x.is_shared() for (x,) in inputs["rows"])
        assert all(torch.equal(x, data[int(x[0]) // 4][0]) for (x,) in inputs["rows"])

    def test_errors_tell_what_has_happened(self):
        class Broken(tiny.Texts):
            def __getitem__(self, index):
                raise RuntimeError("a broken file")

        with pytest.raises(RuntimeError, match="a broken file"):
            list(draw_groups(begun(tiny.bert(), Broken(), dataloader_num_workers=1), 6, 6))


class Divided:
    """A loss that divides by the number of items, as Trainer lets a subclass do it."""

    loss_is_scaled_for_ga = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class Stepwise(Divided):
    """The same by the number of batches, which Trainer knows in its steps only."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels) / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss


class Sequences(Dataset):
    """Texts for a causal language model, some of whose tokens do not count."""

    def __init__(self, count=24):
        self.ids = tiny.Texts(count).ids
        self.labels = self.ids.masked_fill(self.ids % 5 == 0, -100)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, initializer_range=0.2, **sizes))


class InParts(nn.Module):
    """Does what `DataParallel` does on several devices: cuts tensors up, one part for each, and gathers the losses."""

    def __init__(self, module, devices):
        super().__init__()
        self.module, self.devices = module, devices

    def forward(self, **inputs):
        chunks = {name: item.chunk(self.devices) for name, item in inputs.items()}
        # As there: what is shortest says how many.
        parts = [dict(zip(chunks, part, strict=True)) for part in zip(*chunks.values(), strict=False)]
        return {"loss": torch.stack([self.module(**part)["loss"] for part in parts])}


class TestNumberOfItems:
    @pytest.mark.parametrize("loss", [Divided, Stepwise])
    def test_losses_of_ones_own_may_divide_by_it(self, tmp_path, loss):
        class Own(loss, IOMTTrainer):
            pass

        trainer = make(tmp_path, tiny.lora(), tiny.Texts(), Own, gradient_accumulation_steps=2)
        trainer.train()
        assert_all_parts(trainer)

    @pytest.mark.parametrize("loss", [Divided, Stepwise])
    def test_the_probe_has_the_mean(self, loss):
        class Own(loss, Trainer):
            pass

        trainer = begun(tiny.bert(), tiny.Texts(24), Own, gradient_accumulation_steps=2)
        assert Probe(trainer, 24)()[0] == pytest.approx(tiny.loss_of(tiny.bert(), tiny.Texts(24)), rel=1e-5)

    @pytest.mark.parametrize("devices", [1, 2, 4])
    @pytest.mark.parametrize("across", [False, True])
    def test_models_that_ignore_it_have_the_loss_of_before(self, devices, across):
        trainer = begun(tiny.bert(), tiny.Texts(24), average_tokens_across_devices=across)
        assert trainer.model_accepts_loss_kwargs
        if devices > 1:
            trainer.args._n_gpu, trainer.model_wrapped = devices, InParts(trainer.model, devices)
        assert Probe(trainer, 24)()[0] == pytest.approx(tiny.loss_of(tiny.bert(), tiny.Texts(24)), rel=1e-5)
        assert trainer.args.average_tokens_across_devices is across

    @pytest.mark.parametrize("devices", [1, 2, 4])
    @pytest.mark.parametrize("across", [False, True])
    def test_language_models_have_the_mean_over_tokens(self, devices, across):
        data = Sequences()
        # 24 samples in batches of 8, and as many devices as there are samples, or more.
        settings = {"per_device_train_batch_size": 8, "average_tokens_across_devices": across}
        trainer = begun(llama(), data, **settings)
        if devices > 1:
            trainer.args._n_gpu, trainer.model_wrapped = devices, InParts(trainer.model, devices)
        model = llama().eval()
        for size in (24, 3):
            groups = list(draw_groups(trainer, size, size))
            with torch.no_grad():
                losses = [(float(model(**inputs).loss), count) for inputs, count in groups[0]]
            expected = sum(loss * count for loss, count in losses) / size
            assert Probe(trainer, size)()[0] == pytest.approx(expected, rel=1e-5)


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
