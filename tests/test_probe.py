from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import tiny
import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.probe import Probe
from hf_iomt.samples import _split, draw_groups


class Normalised(nn.Module):
    """A regression with dropout and batch normalisation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(3, 8), nn.BatchNorm1d(8)
        self.dropout, self.last = nn.Dropout(0.5), nn.Linear(8, 1)
        self.frozen = nn.BatchNorm1d(8)

    def forward(self, x, labels=None):
        predictions = self.last(self.dropout(self.frozen(self.norm(self.first(x))))).squeeze(1)
        return {"loss": (predictions - labels).square().mean(), "predictions": predictions}


class Rows(Dataset):
    """Draws from every global generator when it is read, as augmentation does; knows what was read."""

    def __init__(self, count=40, noise=0.0):
        self.x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
        self.labels = self.x.sum(1)
        self.noise = noise
        self.read = []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.read.append(index)
        shift = random.random() + float(np.random.rand()) + float(torch.rand(()))
        return {"x": self.x[index] + self.noise * shift, "labels": self.labels[index]}


class Streamed(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return (self.rows[index] for index in range(len(self.rows)))


def make_trainer(model, dataset, seed=0, cls=Trainer, **settings):
    args = TrainingArguments(
        output_dir="run", use_cpu=True, report_to="none", seed=seed, per_device_train_batch_size=4, **settings
    )
    trainer = cls(model, args, train_dataset=dataset)
    # What Trainer has set when training begins.
    trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
    trainer.model_wrapped = trainer.model
    trainer.model.train()
    return trainer


def direct(model, rows, indices):
    """Loss over some rows: no dropout, each normalisation by the statistics it would use in training."""
    with torch.no_grad():
        hidden = model.first(rows.x[indices])
        hidden = nn.functional.batch_norm(hidden, None, None, model.norm.weight, model.norm.bias, training=True)
        if model.frozen.training:
            hidden = nn.functional.batch_norm(hidden, None, None, model.frozen.weight, model.frozen.bias, True)
        else:
            frozen = model.frozen
            hidden = nn.functional.batch_norm(
                hidden, frozen.running_mean, frozen.running_var, frozen.weight, frozen.bias
            )
        return float((model.last(hidden).squeeze(1) - rows.labels[indices]).square().mean())


def by_batches(model, rows, indices):
    """The same, in batches of at most 4 rows as in training."""
    batches = np.array_split(indices, -(-len(indices) // 4))
    return sum(len(batch) * direct(model, rows, batch.tolist()) for batch in batches) / len(indices)


class TestLoss:
    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("samples, groups, sizes", [(8, 1, [8]), (16, 4, [4] * 4), (11, 4, [3, 3, 3, 2])])
    def test_it_is_the_loss_over_the_samples_it_drew(self, samples, groups, sizes, frozen):
        model, rows = Normalised(), Rows()
        trainer = make_trainer(model, rows)
        if frozen:
            model.frozen.eval()
            model.frozen.running_mean += 0.3
        losses = Probe(trainer, samples, groups)()
        assert len(rows.read) == len(set(rows.read)) == samples
        assert losses.dtype == np.float64 and losses.shape == (len(sizes),)
        starts = np.cumsum([0, *sizes])
        expected = [by_batches(model, rows, rows.read[a:b]) for a, b in itertools.pairwise(starts)]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)

    def test_it_equals_the_models_own_loss_in_evaluation(self):
        model, texts = tiny.bert(dropout=0.5), tiny.Texts()
        trainer = make_trainer(model, texts)
        probe = Probe(trainer, len(texts))
        model_loss = model.eval()(
            input_ids=texts.ids, attention_mask=torch.ones_like(texts.ids), labels=texts.labels
        ).loss
        model.train()
        assert probe()[0] == pytest.approx(float(model_loss.detach()), rel=1e-5)

    def test_samples_are_drawn_once(self):
        rows = Rows(noise=1.0)
        trainer = make_trainer(Normalised(), rows)
        probe = Probe(trainer, 8)
        first = probe()
        assert len(rows.read) == 8
        assert np.array_equal(probe(), first)
        assert len(rows.read) == 8
        with torch.no_grad():
            trainer.model.last.bias += 1.0
        assert not np.array_equal(probe(), first)

    def test_samples_are_random_and_follow_the_seed(self):
        def drawn(seed):
            rows = Rows()
            Probe(make_trainer(Normalised(), rows, seed=seed), 8)()
            return rows.read

        assert drawn(0) == drawn(0)
        assert set(drawn(0)) != set(range(8)) and set(drawn(0)) != set(drawn(1))

    @pytest.mark.parametrize("samples", [40, 1000])
    def test_few_data_are_all_used(self, samples):
        rows = Rows()
        losses = Probe(make_trainer(Normalised(), rows), samples)()
        assert sorted(rows.read) == list(range(40)) and losses.shape == (1,)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_not_finite_is_infinite(self, value):
        trainer = make_trainer(Normalised(), Rows())
        with torch.no_grad():
            trainer.model.last.bias.fill_(value)
        assert Probe(trainer, 8, 2)().tolist() == [np.inf, np.inf]

    def test_losses_that_take_their_labels_away_find_them_again(self):
        class Taking(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                labels = inputs.pop("labels")
                return (model(inputs.pop("x"), labels)["predictions"] - labels).abs().mean()

        probe = Probe(make_trainer(Normalised(), Rows(), cls=Taking), 8)
        assert np.array_equal(probe(), probe())

    @pytest.mark.parametrize("samples, expected", [(8, 8), (100, 40)])
    def test_data_without_a_length_give_their_first_samples(self, samples, expected):
        model, rows = Normalised(), Rows()
        trainer = make_trainer(model, Streamed(rows), max_steps=3)
        losses = Probe(trainer, samples)()
        assert rows.read[:expected] == list(range(expected))
        assert losses.tolist() == pytest.approx([by_batches(model, rows, list(range(expected)))], rel=1e-5)

    @pytest.mark.parametrize("samples, sizes", [(8, [4, 4]), (9, [3, 3, 3]), (5, [3, 2]), (3, [3]), (1, [1])])
    def test_batches_are_no_larger_than_in_training(self, samples, sizes):
        probe = Probe(make_trainer(Normalised(), Rows()), samples)
        if samples > 1:
            # Batch normalisation has no statistics of one.
            probe()
        assert [len(batch) for batch in _split(list(range(samples)), 4)] == sizes
        assert [count for group in probe._draw() for _, count in group] == sizes

    @pytest.mark.parametrize("rows, most, sizes", [(3, 2, [3]), (5, 2, [3, 2]), (4, 1, [2, 2])])
    def test_no_batch_is_a_single_row(self, rows, most, sizes):
        assert [len(batch) for batch in _split(list(range(rows)), most)] == sizes

    def test_a_stream_without_samples_is_no_training_data(self):
        trainer = make_trainer(Normalised(), Streamed(Rows(0)), max_steps=3)
        with pytest.raises(ValueError, match=r"`train_dataset` gives no sample to train on"):
            Probe(trainer, 8)()

    def test_columns_that_the_model_does_not_take_are_dropped(self):
        datasets = pytest.importorskip("datasets")
        texts = tiny.Texts(12)
        data = datasets.Dataset.from_dict(
            {
                "input_ids": texts.ids.tolist(),
                "attention_mask": torch.ones_like(texts.ids).tolist(),
                "label": texts.labels.tolist(),
                "text": ["words"] * 12,
            }
        )
        model = tiny.bert(dropout=0.0)
        losses = Probe(make_trainer(model, data), 12)()
        expected = Probe(make_trainer(model, texts), 12)()
        assert losses[0] == pytest.approx(expected[0], rel=1e-6)


class TestTraces:
    def test_the_global_generators_are_where_they_were(self):
        trainer = make_trainer(Normalised(), Rows(noise=1.0))
        random.seed(3)
        np.random.seed(4)
        torch.manual_seed(5)
        probe = Probe(trainer, 8)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        for _ in range(2):
            probe()
            assert random.getstate() == states[0]
            assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
            assert torch.equal(torch.get_rng_state(), states[2])

    def test_they_are_put_back_after_a_failure(self):
        class Failing(Rows):
            def __getitem__(self, index):
                super().__getitem__(index)
                raise RuntimeError("a broken file")

        trainer = make_trainer(Normalised(), Failing())
        states = random.getstate(), torch.get_rng_state()
        with pytest.raises(RuntimeError, match="a broken file"):
            Probe(trainer, 8)()
        assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
        assert trainer.model.training

    def test_the_draw_does_not_depend_on_them(self):
        def measure(seed):
            trainer = make_trainer(Normalised(), Rows(noise=1.0))
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            return Probe(trainer, 8)()

        assert np.array_equal(measure(1), measure(2))

    def test_the_model_is_as_it_was(self):
        model, rows = Normalised(), Rows()
        trainer = make_trainer(model, rows)
        model.dropout.eval()
        model.frozen.eval()
        model(rows.x, rows.labels)["loss"].backward()
        state = {name: item.clone() for name, item in model.state_dict().items()}
        gradients = {name: item.grad.clone() for name, item in model.named_parameters()}
        modes = [module.training for module in model.modules()]
        assert set(modes) == {True, False}
        for _ in range(2):
            Probe(trainer, 8, 2)()
        tiny.assert_same(dict(model.state_dict()), state)
        tiny.assert_same({name: item.grad for name, item in model.named_parameters()}, gradients)
        assert [module.training for module in model.modules()] == modes

    def test_gradients_that_are_not_there_stay_away(self):
        trainer = make_trainer(tiny.bert(), tiny.Texts())
        Probe(trainer, 8)()
        assert all(parameter.grad is None for parameter in trainer.model.parameters())


def eighths(seed, *shape):
    """Numbers that are multiplied and added without rounding."""
    return torch.randint(-8, 8, shape, generator=torch.Generator().manual_seed(seed)) / 8


class Merging(nn.Linear):
    """An adapter that `eval()` adds to a frozen weight, and `train()` takes out again, as some libraries do."""

    def __init__(self):
        super().__init__(4, 4, bias=False)
        self.weight = nn.Parameter(eighths(0, 4, 4), requires_grad=False)
        self.a, self.b = nn.Parameter(eighths(1, 2, 4)), nn.Parameter(eighths(2, 4, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a).detach()
            self.merged = not mode
        return self

    def forward(self, x, labels=None):
        outputs = nn.functional.linear(x, self.weight if self.merged else self.weight + self.b @ self.a)
        return {"loss": (outputs.sum(1) - labels).square().mean()}


class Containing(nn.Module):
    """Such an adapter as a part of a model."""

    def __init__(self):
        super().__init__()
        self.part, self.dropout = Merging(), nn.Dropout()

    def forward(self, x, labels=None):
        return self.part(x, labels)


class TestMergedWeights:
    def rows(self):
        rows = Rows(8)
        rows.x = torch.cat([rows.x, rows.x[:, :1]], 1)
        return rows

    def test_they_are_taken_apart_before_parameters_are_exchanged(self):
        model, rows = Containing(), self.rows()
        probe = Probe(make_trainer(model, rows), 8)
        for seed in (3, 4):
            with torch.no_grad():
                expected = float(model(rows.x, rows.labels)["loss"])
                assert probe()[0] == pytest.approx(expected, rel=1e-5)
                assert torch.equal(model.part.weight, eighths(0, 4, 4)) and not model.part.merged
                model.part.b.copy_(eighths(seed, 4, 2))

    def test_models_in_evaluation_stay_merged(self):
        model = Containing()
        trainer = make_trainer(model, self.rows())
        model.eval()
        model.dropout.train()
        merged = model.part.weight.clone()
        Probe(trainer, 8)()
        assert [module.training for module in model.modules()] == [False, False, True]
        assert torch.equal(model.part.weight, merged) and model.part.merged

    def test_a_run_keeps_what_is_frozen(self, tmp_path):
        model, candidates = Containing(), "adam:lr=1e-2; sgd:lr=1e-1"
        args = IOMTTrainingArguments(**tiny.quiet(tmp_path, iomt_candidates=candidates, iomt_score="probe"))
        IOMTTrainer(model, args, train_dataset=self.rows()).train()
        model.train()
        assert not torch.allclose(model.part.b, eighths(2, 4, 2), atol=0.05)
        # But for rounding.
        assert torch.allclose(model.part.weight, eighths(0, 4, 4), atol=1e-5)


class Parts(nn.Module):
    """Takes its keyword arguments as `DataParallel` gives them to its copies: cut up along the first dimension."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.shapes = []

    def forward(self, x, labels=None, **kwargs):
        num_items_in_batch = kwargs["num_items_in_batch"]
        self.shapes.append(tuple(num_items_in_batch.shape))
        items = num_items_in_batch.chunk(2)[0]
        return {"loss": (self.weight * x).square().sum() / items.squeeze()}


def test_numbers_of_items_can_be_cut_up_for_several_devices():
    trainer = make_trainer(Parts(), Rows(8))
    trainer.args._n_gpu = 2
    assert Probe(trainer, 4).counts_items()
    assert trainer.model.shapes == [(2, 1), (2, 1)]


@pytest.mark.parametrize("size, count, skip", [(8, 24, 0), (8, 24, 4), (5, 13, 3), (8, 100, 0)])
def test_processes_share_a_stream_that_one_of_them_reads_for_all(monkeypatch, size, count, skip):
    """Accelerate's way with streams where there are several processes: each has the whole data set."""
    rows = Rows(40)
    trainer = make_trainer(Normalised(), Streamed(rows), max_steps=5)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    loader = DataLoaderDispatcher(Streamed(rows), batch_size=4, collate_fn=lambda items: items)
    drawn = []
    for process in range(2):
        monkeypatch.setattr(TrainingArguments, "process_index", process)
        drawn.append([])
        for group in draw_groups(trainer, size, count, skip, loader):
            drawn[-1].append([float(row["x"][0]) for batch, _ in group for row in batch])
    # Nobody waits for a process that has more.
    assert [len(part) for part in drawn[0]] == [len(part) for part in drawn[1]]
    together = [sorted({*first, *second}) for first, second in zip(*drawn, strict=True)]
    expected = [float(value) for value in rows.x[skip : skip + count, 0]]
    assert together == [sorted(expected[start : start + size]) for start in range(0, len(expected), size)]
