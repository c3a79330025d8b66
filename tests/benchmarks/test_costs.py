from __future__ import annotations

import json

import pytest

from benchmarks import accelerator


def test_ratios_are_taken_round_by_round():
    rounds = [
        {
            "Trainer, AdamW": {"seconds": plain, "peak_mib": 100.0},
            **{
                method: {
                    "seconds": plain * ratio,
                    "selection_seconds": plain * ratio / 10,
                    "peak_mib": 121.0,
                    "parameters_mib": 10.0,
                    "expected_mib": 60.0,
                }
                for method in ("IOMTTrainer, AdamW twice", "IOMTTrainer, default")
            },
        }
        for plain, ratio in ((10.0, 1.25), (20.0, 1.5), (4.0, 1.0))
    ]
    summary = accelerator.summarize(rounds)
    assert summary["trainer_seconds"] == 10.0
    default = summary["IOMTTrainer, default"]
    assert default["ratios"] == [1.25, 1.5, 1.0] and default["median_ratio"] == 1.25
    assert default["selection_share"] == pytest.approx(0.1)
    # Beyond the four times that Trainer holds the parameters.
    assert default["extra_mib"] == 21.0 and default["expected_extra_mib"] == 20.0


@pytest.mark.slow
def test_rounds_that_are_there_are_not_made_again(tmp_path):
    path = tmp_path / "result.json"
    command = ["--tiny", "--steps", "12", "--batch-size", "2", "--output", str(path)]
    accelerator.main([*command, "--rounds", "1"])
    first = json.loads(path.read_text())
    assert [len(first[mode]["rounds"]) for mode in ("lora", "full")] == [1, 1]
    accelerator.main([*command, "--rounds", "2"])
    second = json.loads(path.read_text())
    for mode in ("lora", "full"):
        assert len(second[mode]["rounds"]) == 2
        assert second[mode]["rounds"][0] == first[mode]["rounds"][0]
        assert second[mode]["summary"] == accelerator.summarize(second[mode]["rounds"])
