"""The pages of the documentation agree with the code, and are built without a warning."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from hf_iomt import IOMTTrainingArguments
from hf_iomt.training_args import _CHOICES, PRESET_SETTINGS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAPER = (DOCS / "paper.md").read_text(encoding="utf-8")
# Settings without a symbol in the paper whose meaning the docstring tells in words alone have an empty cell.
SYMBOLS = {"O × Λ", "τ", "n_ini", "ω_min", "α", "ω_t", "ω_p", "ω_d", "β", "n"}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def settings_rows():
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `iomt_")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def show(value):
    """A value as the table shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{' '.join(value)}`" if isinstance(value, list) else f"{value:g}"


def default_of(item):
    value = item.default if item.default is not MISSING else item.default_factory()
    value = PRESET_SETTINGS["default"].get(item.name) if value is None else value
    return "unset" if value is None else show(value)


SETTINGS = {item.name: item for item in fields(IOMTTrainingArguments) if item.name.startswith("iomt_")}


def test_the_table_of_settings_is_that_of_the_code():
    rows = settings_rows()
    assert list(sorted(rows)) == sorted(SETTINGS)
    assert {name: cells[1] for name, cells in rows.items()} == {
        name: default_of(item) for name, item in SETTINGS.items()
    }
    papers = {"iomt_preset": "`paper`"}
    for name, value in PRESET_SETTINGS["paper"].items():
        if value != PRESET_SETTINGS["default"][name]:
            papers[name] = show(value)
    assert {name: cells[2] for name, cells in rows.items() if cells[2]} == papers


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_described_in_full(name):
    symbol, _, _, meaning = settings_rows()[name]
    described = IOMTTrainingArguments.__doc__.partition(f"\n        {name} (")[2].partition("\n        iomt_")[0]
    assert described and meaning
    assert symbol == "" or symbol in SYMBOLS
    assert symbol in ("", "O × Λ", "ω_d", "ω_p") or symbol in described, "the docstring has another symbol"
    kind = _CHOICES.get(name)
    if kind is not None and name != "iomt_preset":
        for choice in kind:
            assert f"`{choice.value}`" in meaning and f'"{choice.value}"' in described


def test_every_symbol_of_the_paper_that_can_be_set_is_there():
    assert {cells[0] for cells in settings_rows().values()} - {""} == SYMBOLS


def test_settings_are_flags_of_a_script():
    known = {action.dest for action in HfArgumentParser(IOMTTrainingArguments)._actions}
    assert set(settings_rows()) <= known


def test_the_papers_page_is_complete():
    first_cells = {line.strip("|").split("|")[0].strip() for line in PAPER.splitlines() if line.startswith("|")}
    expected = {f"Eq. {number}" for number in range(1, 9)}
    expected |= {f"Table {number}" for number in range(1, 11)} | {"Algorithm 1"}
    expected |= {f"Figure {number}" for number in (1, 2, 3, 4, 5, 6, "7(a)", "7(b)", 8, 9, 10, 11)}
    expected |= {"SWATS", "Padam", "AdaBound", "SGD, SGDM, Adagrad, RMSprop, Adam", "ASGD, AdamW, NAdam, Adamax"}
    assert expected <= first_cells


def test_every_test_that_the_papers_page_names_is_there():
    named = re.findall(r"\[`([\w.]+)(?:::(\w+))?`\]\(\.\./(tests/[\w./]+)\)", PAPER)
    assert len(named) > 40
    for base, test, path in named:
        assert Path(path).name == base
        assert (ROOT / path).is_file(), path
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not test or re.search(rf"^ *def {test}\(", text, re.MULTILINE), test


def test_every_item_of_the_papers_page_has_code_and_a_test():
    for line in PAPER.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and cells[0] not in ("item", "system", "---"):
            assert cells[1] and cells[2] and "../tests/" in cells[3], line


@pytest.mark.parametrize(
    "page",
    [
        path.relative_to(ROOT).as_posix()
        for pages in ("*.md", "benchmarks/**/*.md", "docs/**/*.md", "examples/**/*.md", "model_cards/**/*.md")
        for path in ROOT.glob(pages)
    ],
)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for _, target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def test_every_equation_is_shown_and_linked():
    text = (DOCS / "how_it_decides.md").read_text(encoding="utf-8")
    for number in range(1, 8):
        assert text.count(f"\\text{{(Eq. {number})}}") == 1
    linked = {(name, target) for name, target in LINK.findall(text) if "hf_iomt" in target}
    functions = {"score", "InitialSampling", "upper_confidence", "transferability_aware", "transferability_weight"}
    assert {f"`{name}`" for name in functions | {"gain", "variance_weight"}} <= {name for name, _ in linked}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site; a warning ends the build."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_needs_no_network(site):
    for page in ("index.html", "how_it_decides.html", "reference/settings.html"):
        text = (site / page).read_text(encoding="utf-8")
        assert not re.search(r"<(script|link|img)\b[^>]*(src|href)=\"(https?:)?//", text), page


def test_formulas_are_mathml(site):
    text = (site / "how_it_decides.html").read_text(encoding="utf-8")
    assert text.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == 7
    assert "$$" not in text and "arithmatex" not in text
    # Where formulas are not shown, the LaTeX can be read.
    assert 'title="\\omega_r = \\max' in text


def test_docstrings_are_lists_with_links(site):
    text = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert "<strong><code>iomt_switch_steps</code></strong> (<code>float</code>, <em>optional</em>):" in text
    assert "<p><strong>Parameters that control the candidates</strong></p>" in text
    for page in (site / "reference").glob("*.html"):
        plain = html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
        assert "[~" not in plain and not re.search(r"^ *(Args|Raises|Returns):\s*\n +\w+ \(", plain), page


def test_equations_link_to_their_functions(site):
    text = (site / "how_it_decides.html").read_text(encoding="utf-8")
    for anchor in ("scoring.score", "acquisition.gain", "initial_sampling.InitialSampling"):
        assert f'href="reference/selection.html#hf_iomt.selection.{anchor}"' in text
    assert 'href="reference/transferability.html#hf_iomt.transferability.weight.transferability_weight"' in text


def test_every_module_is_in_the_reference(site):
    found = {
        name
        for page in (site / "reference").glob("*.html")
        for name in re.findall(r'<h2 id="(hf_iomt[\w.]*)"', page.read_text(encoding="utf-8"))
    }
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "hf_iomt").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= found


def extension():
    """The rewriting of docstrings."""
    pytest.importorskip("griffe", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "extensions" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_become_lists():
    docstring = (
        "Does it.\n\nArgs:\n    size (`int`, *optional*, defaults to 3): How many,\n        at least 1.\n"
        "    names (`list[str]`):\n        Which.\n\nReturns:\n    A number.\n\n"
        "Raises:\n    ValueError: It is 0.\nEnd."
    )
    assert extension().to_markdown(docstring).split("\n") == [
        *("Does it.", "", "**Args:**", ""),
        *("- **`size`** (`int`, *optional*, defaults to 3):", "    How many,", "    at least 1."),
        *("- **`names`** (`list[str]`):", "    Which.", ""),
        *("**Returns:**", "", "A number.", ""),
        *("**Raises:**", "", "- **`ValueError`**:", "    It is 0.", "", "End."),
    ]


def test_references_become_links():
    link = extension().link
    objects = dict.fromkeys(("pkg", "pkg.a", "pkg.a.One", "pkg.optim", "pkg.optim.inner", "pkg.optim.inner.Two"))
    text = "[`One`], [`~optim.Two`], [`a.One`], [`~transformers.Trainer`], [`Three`], [`~optim.Four`] and [`x`](y)"
    assert link(text, "pkg.a", "pkg", objects) == (
        "[`One`][pkg.a.One], [`Two`][pkg.optim.inner.Two], [`a.One`][pkg.a.One], `transformers.Trainer`, "
        "[`Three`][Three], [`Four`][optim.Four] and [`x`](y)"
    )
