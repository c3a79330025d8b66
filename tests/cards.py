"""Reading a model card back, and what holds for all of them."""

from __future__ import annotations

import re

from huggingface_hub import ModelCard, metadata_load

from hf_iomt.model_card import hub_id

TITLE = "## How the optimizer was chosen"


def read(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def part(text, heading):
    """The text under a heading, up to the next one."""
    return text.partition(f"\n### {heading}\n")[2].partition("\n### ")[0].strip()


def table(text):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return rows[2:]


def assert_valid(folder):
    """Metadata that the Hub takes, and a text without holes, paths or what was left empty."""
    text = read(folder)
    metadata = metadata_load(folder / "README.md")
    card = ModelCard.load(folder / "README.md")
    assert "iomt" in metadata["tags"] and metadata["library_name"]
    for entry in metadata.get("model-index") or []:
        for result in entry["results"]:
            assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            assert all(isinstance(metric["value"], float) and metric["type"] for metric in result["metrics"])
    base = card.data.base_model
    assert base is None or isinstance(base, list) or hub_id(base) == base
    assert text.count(TITLE) == text.count("<!-- hf-iomt: end mark -->") == 1
    section = text.partition(TITLE)[2]
    assert "\n\n\n" not in section
    assert not re.search(r"None|\$\w", re.sub(r"```.*?```", "", section, flags=re.DOTALL))
    assert not re.search(r"(?<![\w:/.])/(?:home|tmp|work|root|usr|somewhere|private|var|mnt|data)\b", text)
    for line in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert line.startswith("http") or (folder / line).exists()
    return text, metadata
