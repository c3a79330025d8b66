"""Samples read on the side, in all the ways that training may read them, through real trainers."""

from __future__ import annotations

import os

import pytest
import tiny
import torch
from sampled import STEPS, assert_all_parts, begun, make, rows_of, sizes
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

from hf_iomt import IOMTTrainer
from hf_iomt.probe import Probe
from hf_iomt.samples import _pack, draw_groups

pytestmark = pytest.mark.usefixtures("small_heap")


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
