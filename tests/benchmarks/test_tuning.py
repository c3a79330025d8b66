"""What frozen layers compute once is what they would compute each time; splits do not overlap; seeds hold."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from benchmarks import data, models, tuning
from benchmarks.experiment import Experiment
from hf_iomt.candidate_list import kind_of_tuning


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Invented pictures and texts, and a tiny ViT, where real ones would lie."""
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setenv(models.WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setenv(tuning.CACHE_VARIABLE, str(tmp_path / "cache"))
    # What another test has read from other files.
    data.load_splits.cache_clear()
    tuning._samples.cache_clear()
    draw = np.random.default_rng(0)
    (tmp_path / "data" / "usps").mkdir(parents=True)
    (tmp_path / "data" / "mrpc").mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 12), ("test", 20)):
        pictures = draw.integers(256, size=(count, 16, 16)).astype(np.uint8)
        np.savez(tmp_path / "data" / "usps" / f"{split}.npz", image=pictures, label=np.arange(count) % 3)
        sentences = [
            f"the {item} of {split} is {' '.join(['very'] * int(draw.integers(9)))} red" for item in range(count)
        ]
        rows = {"sentence1": sentences, "sentence2": sentences[::-1], "label": [item % 2 for item in range(count)]}
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "data" / "mrpc" / f"{split}.parquet"))
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    folder = tmp_path / "weights" / "vit-tiny-patch16-224"
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return tmp_path


def experiment(**settings):
    common = {"name": "mine", "tier": "smoke", "methods": (), "batch_size": 4, "steps": 3, "validation": 8}
    return Experiment(**{**common, **settings})


def batch_of(samples):
    return tuning.collate([samples[index] for index in range(len(samples))])


def test_features_are_what_the_frozen_backbone_gives_the_head(files):
    task = tuning.build_task(experiment(data="usps", model="vit_tiny", tuning="head", size=32), seed=3)
    whole = tuning.build_task(experiment(data="usps", model="vit_tiny", tuning="full", size=32), seed=3)
    backbone = AutoModelForImageClassification.from_pretrained(
        files / "weights" / "vit-tiny-patch16-224", num_labels=3, ignore_mismatched_sizes=True
    ).eval()
    backbone.classifier.load_state_dict(task.model.classifier.state_dict())
    with torch.no_grad():
        expected = backbone(pixel_values=batch_of(whole.test)["pixel_values"]).logits
        found = task.model(**batch_of(task.test))["logits"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # A trainer sees the same share of the model train as with the backbone.
    frozen = sum(item.numel() for item in task.model.parameters() if not item.requires_grad)
    assert frozen == sum(item.numel() for item in backbone.base_model.parameters())
    assert kind_of_tuning(task.model) == "head" and kind_of_tuning(whole.model) == "full"
    # A second process reads what the first has written.
    before = {path: path.stat().st_mtime_ns for path in (files / "cache").iterdir()}
    tuning._samples.cache_clear()
    again = tuning.build_task(experiment(data="usps", model="vit_tiny", tuning="head", size=32), seed=3)
    torch.testing.assert_close(batch_of(again.train)["features"], batch_of(task.train)["features"])
    assert len(before) == 3 and {path: path.stat().st_mtime_ns for path in (files / "cache").iterdir()} == before


def test_a_resized_vit_takes_small_pictures(files):
    small = tuning.build_task(experiment(data="usps", model="vit_tiny", tuning="full", size=16), seed=3).model.eval()
    whole = AutoModelForImageClassification.from_pretrained(files / "weights" / "vit-tiny-patch16-224").eval()
    whole.config.num_labels, pixels = 3, torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(small.vit(pixel_values=pixels).last_hidden_state, expected)


def test_layers_that_are_cut_off_compute_the_same(files):
    settings = {"data": "mrpc", "model": "minilm", "tuning": "lora", "size": 24}
    cut = tuning.build_task(experiment(**settings, cached=True), seed=1)
    whole = tuning.build_task(experiment(**settings), seed=1)
    # Adapters begin as nothing; the classifier is new, and has to be the same one.
    for task in (cut, whole):
        torch.manual_seed(0)
        task.model.eval().base_model.model.classifier.modules_to_save["default"].reset_parameters()
    with torch.no_grad():
        expected, found = (task.model(**batch_of(task.test)).logits for task in (whole, cut))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    names = [sum(item.requires_grad for item in task.model.parameters()) for task in (whole, cut)]
    assert names[0] == names[1] and expected.std() > 0


def test_splits_do_not_overlap_and_are_the_same_for_every_seed(files):
    found = data.load_splits("usps", train=20, validation=8, test=10)
    sizes = [len(rows.labels) for rows in (found.train, found.validation, found.test)]
    assert sizes == [20, 8, 10] and found.classes == 3
    pictures = [{np.asarray(item).tobytes() for item in rows.items} for rows in (found.train, found.validation)]
    assert not pictures[0] & pictures[1]
    # A set with a validation split of its own keeps all of its training data.
    texts = data.load_splits("mrpc", validation=8)
    assert len(texts.train.labels) == 40 and all("validation" in item[0] for item in texts.validation.items)


def test_a_seed_gives_the_initial_weights_whatever_was_before(files):
    made = []
    for seed, drawn in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(drawn)
        model = tuning.build_task(experiment(data="digits", model="small_cnn", tuning="full", size=8), seed).model
        made.append(torch.cat([item.detach().reshape(-1) for item in model.parameters()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_batch_normalisation_stays_as_it_was():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    from benchmarks.scratch import freeze_batch_norm

    freeze_batch_norm(model)
    model.train()(torch.randn(4, 3, 2, 2) + 5)
    assert float(model[0].running_mean.abs().max()) == 0 and model[0].weight.requires_grad


def test_padding_is_what_the_model_takes_for_padding():
    rows = [
        {"input_ids": torch.tensor([5, 6]), "attention_mask": torch.ones(2)},
        {"input_ids": torch.tensor([7]), "attention_mask": torch.ones(1)},
    ]
    batch = tuning.collate(rows, padding=2)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 2]] and batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_metrics_count_what_is_predicted():
    logits, labels = np.eye(2)[[0, 1, 1, 1]], np.array([0, 0, 1, 1])
    prediction = type("Prediction", (), {"predictions": logits, "label_ids": labels})
    expected = {"accuracy": 0.75, "f1": 0.8, "largest_predicted_share": 0.75}
    assert tuning.classification_metrics(prediction) == pytest.approx(expected)
