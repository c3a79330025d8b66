"""The assessment of transferability, through real trainers, against the same numbers computed by hand."""

from __future__ import annotations

import logging
import math

import peft
import pytest
import tiny
import torch
from assessed import SIZES, THREE, Rows, StopAtOnce, accuracy, by_hand, causal_lm, columns, make
from torch import nn
from transformers import AutoModelForSequenceClassification, ProgressCallback, ViTConfig, ViTForImageClassification

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt.assessment import take_samples
from hf_iomt.transferability import leep, log_me


class TestParts:
    @pytest.mark.parametrize("model", [tiny.bert, tiny.lora])
    def test_classification(self, tmp_path, model):
        texts = tiny.Texts(50)
        trainer = make(tmp_path, model(), texts)
        features, logits = by_hand(trainer.model, texts)
        found = trainer.assess_transferability()
        expected = float((logits.argmax(1) == texts.labels).float().mean())
        assert found.performance == pytest.approx(expected) and found.performance_metric == "accuracy"
        assert found.log_me == pytest.approx(log_me(features.numpy(), texts.labels.numpy()), rel=1e-4)
        assert (found.leep, found.h_score) == (None, None)
        assert found.left_out == {"leep": "the model does not come from a checkpoint"}
        assert (found.task, found.split, found.samples) == ("classification", "train", 50)
        assert found.weight == pytest.approx(0.5 * expected + 0.5 / (1 + math.exp(-found.log_me)))
        assert 0 < found.seconds < 60

    @pytest.mark.parametrize("labels", [5, 2])
    @pytest.mark.parametrize("adapt", [False, True])
    def test_the_head_of_the_checkpoint(self, tmp_path, labels, adapt):
        texts = tiny.Texts(40)
        source = tiny.bert(labels=5, seed=3)
        source.save_pretrained(tmp_path / "source")
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "source", num_labels=labels, ignore_mismatched_sizes=True
        )
        if adapt:
            model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
        _, logits = by_hand(source, texts)
        found = make(tmp_path, model, texts).assess_transferability()
        assert found.leep == pytest.approx(leep(logits.softmax(-1).numpy(), texts.labels.numpy()), rel=1e-4)
        assert found.left_out == {}

    def test_the_metrics_that_are_asked_for(self, tmp_path):
        trainer = make(tmp_path, iomt_distribution_metrics=["h_score"], iomt_beta=0.25)
        found = trainer.assess_transferability()
        assert found.h_score is not None and (found.log_me, found.leep, found.left_out) == (None, None, {})
        expected = 0.25 * found.performance + 0.75 / (1 + math.exp(-found.h_score))
        assert found.weight == pytest.approx(expected)

    def test_none_of_them(self, tmp_path):
        found = make(tmp_path, iomt_distribution_metrics=[]).assess_transferability()
        assert found.weight == found.performance

    def test_images(self, tmp_path):
        config = ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
        model = ViTForImageClassification(config).eval()
        pixels = torch.randn(30, 3, 8, 8, generator=torch.manual_seed(0))
        labels = torch.arange(30) % 3
        with torch.no_grad():
            features = model.vit(pixel_values=pixels).last_hidden_state[:, 0]
        found = make(tmp_path, model, Rows(pixel_values=pixels, labels=labels)).assess_transferability()
        assert found.log_me == pytest.approx(log_me(features.numpy(), labels.numpy()), rel=1e-4)

    def test_a_model_of_ones_own(self, tmp_path):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

            def forward(self, x, labels):
                logits = self.last(self.first(x).relu())
                return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

        torch.manual_seed(0)
        model, x = Own(), torch.randn(40, 3)
        labels = (x[:, 0] > 0).long()
        trainer = make(tmp_path, model, Rows(x=x, labels=labels))
        with torch.no_grad():
            features = model.first(x).relu()
        trainer.train()
        found = trainer.transferability
        assert found.log_me == pytest.approx(log_me(features.numpy(), labels.numpy()), rel=1e-4)
        assert found.left_out == {"leep": "the model does not come from a checkpoint"}


class TestPerformance:
    def test_the_users_metric(self, tmp_path):
        def compute(prediction):
            return {"score": 0.375, "accuracy": 0.25, "error": 0.75}

        def found(**settings):
            return make(tmp_path, parts={"compute_metrics": compute}, **settings).assess_transferability()

        assert (found().performance, found().performance_metric) == (0.25, "accuracy")
        assert found(iomt_performance_metric="score").performance == 0.375
        assert found(iomt_performance_metric="eval_error").performance == 0.25
        assert found(metric_for_best_model="score").performance_metric == "score"
        lower = found(metric_for_best_model="score", greater_is_better=False)
        assert lower.performance == pytest.approx(1 / 1.375)

    def test_the_loss(self, tmp_path):
        trainer = make(tmp_path, iomt_performance_metric="loss")
        loss = trainer.evaluate(tiny.Texts())["eval_loss"]
        assert trainer.assess_transferability().performance == pytest.approx(math.exp(-loss), rel=1e-4)

    def test_metrics_that_fail_give_way_to_the_logits(self, tmp_path):
        def compute(prediction):
            raise KeyError("answers")

        trainer = make(tmp_path, parts={"compute_metrics": compute})
        trainer.train()
        found = trainer.transferability
        assert found.performance_metric == "accuracy" and found.performance is not None
        assert found.left_out["compute_metrics"] == "`compute_metrics` failed: KeyError: 'answers'"
        assert trainer.compute_metrics is compute

    def test_metrics_in_batches(self, tmp_path):
        right = []

        def compute(prediction, compute_result):
            right.extend((prediction.predictions.argmax(-1) == prediction.label_ids).tolist())
            return {"accuracy": sum(right) / len(right)} if compute_result else {}

        texts = tiny.Texts(50)
        trainer = make(tmp_path, data=texts, parts={"compute_metrics": compute}, batch_eval_metrics=True)
        _, logits = by_hand(trainer.model, texts)
        expected = float((logits.argmax(1) == texts.labels).float().mean())
        assert trainer.assess_transferability().performance == pytest.approx(expected)

    def test_a_name_that_is_not_there_ends_training_before_it_begins(self, tmp_path):
        trainer = make(tmp_path, parts={"compute_metrics": accuracy}, iomt_performance_metric="bleu")
        message = r"`iomt_performance_metric='bleu'` must be a number that the evaluation returns: .*accuracy"
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_a_name_without_metrics(self, tmp_path):
        trainer = make(tmp_path, iomt_performance_metric="f1")
        with pytest.raises(ValueError, match=r"`iomt_performance_metric='f1'` needs `compute_metrics`"):
            trainer.train()

    def test_metrics_that_would_keep_every_logit_are_not_used_unless_asked_for(self, tmp_path):
        model, data, _ = causal_lm()
        shapes = []

        def compute(prediction):
            shapes.append(prediction.predictions.shape)
            return {"score": 0.5}

        parts = {"compute_metrics": compute}
        found = make(tmp_path, model, data, parts=parts).assess_transferability()
        assert found.performance_metric == "token accuracy" and not shapes
        assert found.left_out["compute_metrics"] == "it would need the logits of every token"
        assert (
            make(tmp_path, model, data, parts=parts, iomt_performance_metric="score")
            .assess_transferability()
            .performance
            == 0.5
        )
        reduced = {**parts, "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
        assert make(tmp_path, model, data, parts=reduced).assess_transferability().performance == 0.5

    def test_a_metric_that_is_no_number_gives_way_to_the_logits(self, tmp_path):
        parts = {"compute_metrics": lambda prediction: {"accuracy": math.nan}}
        found = make(tmp_path, parts=parts).assess_transferability()
        assert found.performance_metric == "accuracy" and math.isfinite(found.performance)

    def test_predictions_of_another_number_keep_the_users_metric(self, tmp_path):
        class Doubled(IOMTTrainer):
            """Sees each batch twice, as R-Drop does."""

            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                output = model(**{name: torch.cat([value, value]) for name, value in inputs.items()})
                loss, output = output.loss, {"logits": output.logits[: len(output.logits) // 2]}
                return (loss, {"loss": loss, **output}) if return_outputs else loss

        found = make(tmp_path, cls=Doubled, parts={"compute_metrics": accuracy}).assess_transferability()
        assert found.performance is not None
        assert found.left_out["log_me"] == "the model made 8 rows of predictions for 4 labels"

    def test_an_evaluation_that_fails_is_no_end(self, tmp_path, caplog):
        class Failing(IOMTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                if return_outputs:
                    raise NotImplementedError("no outputs")
                return super().compute_loss(model, inputs)

        trainer = make(tmp_path, cls=Failing, disable_tqdm=False)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        reason = "the evaluation failed: NotImplementedError: no outputs"
        assert trainer.transferability.left_out == {"performance": reason, "log_me": reason, "leep": reason}
        assert trainer.transferability.weight == 0.5 and trainer.state.global_step == 30
        assert "the evaluation failed" in caplog.text
        (bar,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, ProgressCallback)]
        assert bar.prediction_bar is None

    def test_labels_that_the_trainer_takes_away(self, tmp_path):
        class Taking(IOMTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                labels = inputs.pop("labels")
                output = model(**inputs)
                loss = nn.functional.cross_entropy(output.logits, labels)
                return (loss, output) if return_outputs else loss

        expected = make(tmp_path).assess_transferability()
        found = make(tmp_path, cls=Taking).assess_transferability()
        smoothed = make(tmp_path, label_smoothing_factor=0.1).assess_transferability()
        assert found.parts == pytest.approx(expected.parts)
        assert smoothed.parts == pytest.approx(expected.parts)


class TestData:
    def test_training_reads_a_share(self, tmp_path):
        texts = tiny.Texts(4000)
        trainer = make(tmp_path, data=texts, max_steps=1000, gradient_accumulation_steps=2)
        trainer.add_callback(StopAtOnce())
        trainer.train()
        assert trainer.transferability.samples == round(0.03 * 1000 * 8)

    @pytest.mark.parametrize("samples, expected", [(2000, 64), (20, 20)])
    def test_short_runs_read_some(self, tmp_path, samples, expected):
        trainer = make(tmp_path, data=tiny.Texts(300), max_steps=2, iomt_transferability_samples=samples)
        trainer.train()
        assert trainer.transferability.samples == expected

    def test_the_samples_are_random_and_the_same_every_time(self):
        rows = [take_samples(tiny.Texts(100), 20, seed).indices for seed in (0, 0, 1)]
        assert rows[0] == rows[1] != rows[2]
        assert rows[0] == sorted(set(rows[0])) and len(rows[0]) == 20 and rows[0] != list(range(20))

    def test_the_split_that_is_read(self, tmp_path):
        train, evaluation = Rows(**columns(40, 0)), Rows(**columns(30, 1))
        found = make(tmp_path, data=train, evaluation=evaluation).assess_transferability()
        assert (found.split, found.samples, evaluation.read) == ("train", 40, [])
        train.read.clear()
        settings = {"iomt_transferability_split": "eval"}
        found = make(tmp_path, data=train, evaluation=evaluation, **settings).assess_transferability()
        assert (found.split, found.samples, train.read) == ("eval", 30, [])
        several = {"first": evaluation, "second": train}
        assert make(tmp_path, data=train, evaluation=several, **settings).assess_transferability().samples == 30

    @pytest.mark.parametrize("evaluation", [None, {}])
    def test_a_split_that_is_not_there(self, tmp_path, evaluation):
        trainer = make(tmp_path, evaluation=evaluation, iomt_transferability_split="eval")
        with pytest.raises(ValueError, match=r"`iomt_transferability_split='eval'` needs `eval_dataset`"):
            trainer.train()

    def test_a_stream(self, tmp_path):
        texts = tiny.Texts(40)
        expected = make(tmp_path, data=texts).assess_transferability()
        found = make(tmp_path, data=tiny.Stream(texts)).assess_transferability()
        assert found.parts == pytest.approx(expected.parts)
        assert make(tmp_path, data=tiny.Stream(texts)).assess_transferability(10).samples == 10

    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_data_set_with_other_columns(self, tmp_path, streaming):
        datasets = pytest.importorskip("datasets")
        texts = tiny.Texts(40)
        data = datasets.Dataset.from_dict(
            {"input_ids": texts.ids.tolist(), "label": texts.labels.tolist(), "text": ["words"] * 40}
        )
        data = data.to_iterable_dataset() if streaming else data
        expected = make(tmp_path, data=Rows(input_ids=texts.ids, labels=texts.labels)).assess_transferability()
        assert make(tmp_path, data=data).assess_transferability().parts == pytest.approx(expected.parts)
        assert make(tmp_path, data=data).assess_transferability(15).samples == 15

    def test_a_stream_that_knows_its_length(self, tmp_path):
        class Counted(tiny.Stream):
            def __len__(self):
                return len(self.texts)

        texts = tiny.Texts(100)
        trainer = make(tmp_path, data=Counted(texts), iomt_transferability_samples=20)
        # The race's probe reads it too.
        trainer.train()
        assert trainer.transferability.samples == 20 and trainer.transferability.log_me is not None

    def test_a_trainer_that_makes_its_own_loader(self, tmp_path):
        class Own(IOMTTrainer):
            def get_train_dataloader(self):
                return torch.utils.data.DataLoader(tiny.Texts(40), batch_size=4)

        args = IOMTTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=8, iomt_candidates=THREE
        )
        trainer = Own(tiny.bert(), args)
        assert trainer.assess_transferability().left_out["log_me"].endswith("there is no `train_dataset`")
        trainer.train()
        assert trainer.transferability.samples == 40 and trainer.transferability.log_me is not None

    def test_the_last_batch_is_not_dropped(self, tmp_path):
        settings = {"dataloader_drop_last": True, "per_device_train_batch_size": 48, "per_device_eval_batch_size": 48}
        trainer = make(tmp_path, **settings)
        found = trainer.assess_transferability()
        assert found.samples == 64 and found.log_me is not None and trainer.args.dataloader_drop_last

    def test_the_number_that_is_asked_for_counts(self, tmp_path):
        texts = tiny.Texts(50)
        features, _ = by_hand(tiny.bert(), texts)
        found = make(tmp_path, data=texts, iomt_transferability_samples=20).assess_transferability(50)
        assert found.log_me == pytest.approx(log_me(features.numpy(), texts.labels.numpy()), rel=1e-4)

    def test_it_is_one_pass_in_batches_no_larger_than_those_of_training(self, tmp_path):
        sizes = []

        class Counting(IOMTTrainer):
            def compute_loss(self, model, inputs, *args, **kwargs):
                sizes.append(len(inputs["labels"]))
                return super().compute_loss(model, inputs, *args, **kwargs)

        rows = Rows(**columns(30, 0))
        trainer = make(
            tmp_path, data=rows, cls=Counting, parts={"compute_metrics": accuracy}, per_device_eval_batch_size=16
        )
        trainer.assess_transferability()
        assert sizes == [4] * 7 + [2] and sorted(rows.read) == list(range(30))
        assert trainer.args.per_device_eval_batch_size == 16
        sizes.clear()
        make(tmp_path, data=rows, cls=Counting, per_device_eval_batch_size=3).assess_transferability()
        assert max(sizes) == 3
