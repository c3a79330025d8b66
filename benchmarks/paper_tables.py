"""The tables of the paper, from our results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from .contenders import FAMILIES
from .methods import GROUPS
from .protocol import Runs, metric_of, values
from .tables import rows_of, spread

_OURS = {"IOMT, paper preset": ["iomt paper"], "IOMT, nothing set": ["iomt default"]}
_PAPER_RATES = ("lr=0.001", "lr=0.01", "lr=0.1")


def _tuned_over_paper_rates(*families: str) -> dict[str, list[str]]:
    return {
        family: [name for name in FAMILIES[family] if name.partition(":")[2].split(",")[0] in _PAPER_RATES]
        for family in families
    }


def _test(runs: Runs, name: str) -> str:
    return spread(values(runs[name], "test", metric_of(runs)), metric_of(runs))


def _train(runs: Runs, name: str) -> str:
    return spread(values(runs[name], "train", metric_of(runs)), metric_of(runs))


def _f1(runs: Runs, name: str) -> str:
    return spread(values(runs[name], "test", "f1"), "f1")


def _seconds(runs: Runs, name: str) -> str:
    """Median processor seconds, and by the wall's clock those of the assessment, which are among them."""
    found = runs[name].values()
    assessed = statistics.median(run["seconds"]["assessment"] for run in found)
    total = statistics.median(run["processor_seconds"] for run in found)
    return f"{total:.1f}" + (f" ({assessed:.1f})" if assessed else "")


def _as_the_base(runs: Runs, name: str) -> str:
    """In how many runs an ablation ends as what it is an ablation of: no decision was another one there."""
    base = name.partition(",")[0]
    if name == base or base not in runs:
        return ""
    same = [runs[name][seed]["test"] == runs[base][seed]["test"] for seed in runs[name] if seed in runs[base]]
    return f"{sum(same)} of {len(same)}"


_ABLATED = {"train": _train, "test": _test, "seconds": _seconds, "runs as those of the base": _as_the_base}


def _chosen(experiments: Mapping[str, Runs], ending: str, only: tuple[str, ...] = ()) -> dict[str, Runs]:
    return {name: runs for name, runs in experiments.items() if name.endswith(ending) and (not only or name in only)}


def table_1(experiments: Mapping[str, Runs]) -> str:
    """Table 1: full training with single and hybrid optimizers (hybrids at their default rates but for usps)."""
    rows = _tuned_over_paper_rates("sgd", "sgdm", "adagrad", "rmsprop", "adam", "swats", "padam", "adabound")
    names = tuple(
        f"{data}_{model}_full" for data in ("usps", "mnist", "stl10", "cifar10") for model in ("resnet18", "vit")
    )
    return rows_of({**rows, **_OURS}, _chosen(experiments, "", names), {"test": _test})


def table_2(experiments: Mapping[str, Runs]) -> str:
    """Table 2: heads of ViT, until converged, and LoRA; the hybrids at their default rates only."""
    rows = _tuned_over_paper_rates("sgd", "sgdm", "adagrad", "rmsprop", "adam", "swats", "padam", "adabound")
    of_vit = {name: runs for name, runs in experiments.items() if name.endswith("_head") and "_vit_" in name}
    of_texts = {name: runs for name, runs in experiments.items() if name.endswith(("_minilm_lora", "_roberta_lora"))}
    heads = rows_of({**rows, **_OURS}, of_vit, {"test": _test, "seconds": _seconds})
    texts = rows_of({**rows, **_OURS}, of_texts, {"test": _test, "F1": _f1})
    return f"{heads}\n\n{texts}"


def table_4(experiments: Mapping[str, Runs]) -> str:
    """Table 4: more optimizers and schedules."""
    rows = _tuned_over_paper_rates("asgd", "adamw", "nadam", "adamax", "sgdm")
    of_sgdm = [name for name in GROUPS["schedules"] if name.startswith("sgdm")]
    for title, ending in (("SGDM, steps", ", steps"), ("SGDM, cosine", ", cosine")):
        rows[title] = [name for name in of_sgdm if name.endswith(ending)]
    return rows_of({**rows, **_OURS}, _chosen(experiments, "", ("usps_resnet18_full", "digits_cnn")), {"test": _test})


def table_5(experiments: Mapping[str, Runs]) -> str:
    """Table 5: ImageNet-A."""
    return rows_of(
        {
            **_tuned_over_paper_rates("sgd", "sgdm", "adagrad", "rmsprop", "adam", "swats", "padam", "adabound"),
            **_OURS,
        },
        _chosen(experiments, "", ("imagenet_a_resnet18_full",)),
        {"test": _test},
    )


def table_6(experiments: Mapping[str, Runs]) -> str:
    """Table 6: heads of several models, until converged; the hybrids at their default rates only."""
    rows = _tuned_over_paper_rates("sgdm", "adam", "swats", "padam", "adabound")
    return rows_of({**rows, **_OURS}, _chosen(experiments, "_head"), {"test": _test, "seconds": _seconds})


_SWITCHING = {
    "random": ["iomt paper, random"],
    "cyclical": ["iomt paper, cyclical"],
    "without ω_t": ["iomt paper, without ω_t"],
    "without halving": ["iomt paper, without halving"],
    "paper preset": ["iomt paper"],
    "default's safety, random": ["iomt grid, random"],
    "default's safety, cyclical": ["iomt grid, cyclical"],
    "default's safety, without ω_t": ["iomt grid, without ω_t"],
    "default's safety, without halving": ["iomt grid, without halving"],
    "default's safety, the other Eq. 7": ["iomt grid, the other Eq. 7"],
    "default's safety, uniform start": ["iomt grid, uniform start"],
    "default's safety, no race": ["iomt grid, no race"],
    "default's safety, no rollback": ["iomt grid, no rollback"],
    "default's safety": ["iomt grid"],
}


def table_7(experiments: Mapping[str, Runs]) -> str:
    """Table 7: ways to switch, with the same 15 candidates."""
    chosen = _chosen(experiments, "", ("usps_resnet18_full", "digits_cnn"))
    return rows_of(_SWITCHING, chosen, _ABLATED)


def table_9(experiments: Mapping[str, Runs]) -> str:
    """Table 9: random and cyclical switching on another model."""
    rows = {title: _SWITCHING[title] for title in _SWITCHING if "without" not in title}
    chosen = _chosen(experiments, "", ("usps_mobilenet_full",))
    return rows_of(rows, chosen, _ABLATED)


def table_10(experiments: Mapping[str, Runs]) -> str:
    """Table 10: compressions of the parameter state."""
    rows = {
        f"{base}, {title}": [f"iomt {base}{ending}"]
        for base in ("paper", "grid")
        for title, ending in (
            ("PCA", ""),
            ("random projection", ", random projection"),
            ("UMAP", ", umap"),
            ("no parameter state", ", no parameter state"),
        )
    }
    chosen = _chosen(experiments, "", ("usps_resnet18_full", "digits_cnn"))
    return rows_of(rows, chosen, _ABLATED)


PAPER_TABLES = {
    "table1": table_1,
    "table2": table_2,
    "table4": table_4,
    "table5": table_5,
    "table6": table_6,
    "table7": table_7,
    "table9": table_9,
    "table10": table_10,
}
