from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_iomt

PACKAGE = Path(hf_iomt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = ("selection", "optim", "transferability")
# What only the layers above may know.
UPPER = {"transformers", "accelerate", "peft"}


def module_of(path):
    """Dotted name of a file's package: what its relative imports start from."""
    return ["hf_iomt", *path.relative_to(PACKAGE).parts[:-1]]


def imported_modules(source, package):
    """Absolute names of everything that a source imports, at whatever depth, `if TYPE_CHECKING` included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names.add(".".join(base))
            # `from .. import optim` imports a module too.
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def forbidden(names, layer):
    own = f"hf_iomt.{layer}"
    return sorted(
        name
        for name in names
        if name.partition(".")[0] in UPPER
        or (name.partition(".")[0] == "hf_iomt" and name != own and not name.startswith(own + "."))
    )


def test_importing_the_package_imports_neither_torch_nor_transformers():
    names = {"torch", "transformers", "sklearn", "numpy", "trl", "sentence_transformers"}
    code = f"import sys, hf_iomt; print(sorted({names} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_the_trainers_need_neither_trl_nor_sentence_transformers():
    code = (
        "import sys, hf_iomt; hf_iomt.IOMTSeq2SeqTrainer; print({'trl', 'sentence_transformers'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120
    )
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("name", hf_iomt.__all__)
def test_every_exported_name_resolves(name):
    assert getattr(hf_iomt, name) is not None
    assert name in dir(hf_iomt)


def test_the_list_of_names_is_that_of_the_lazy_imports():
    assert sorted(hf_iomt.__all__) == sorted(["__version__", *hf_iomt._EXPORTS])


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hf_iomt' has no attribute 'Trainer'"):
        _ = hf_iomt.Trainer


@pytest.mark.parametrize("layer", LAYERS)
def test_every_export_of_a_layer_resolves(layer):
    module = __import__(f"hf_iomt.{layer}", fromlist=["*"])
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.relative_to(PACKAGE).parts[0] in LAYERS],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_the_lower_layers_know_neither_each_other_nor_what_is_above_them(path):
    layer = path.relative_to(PACKAGE).parts[0]
    names = imported_modules(path.read_text(encoding="utf-8"), module_of(path))
    assert forbidden(names, layer) == []


@pytest.mark.parametrize(
    "source, found",
    [
        ("from ..optim import Candidate", ["hf_iomt.optim", "hf_iomt.optim.Candidate"]),
        ("from .. import trainer", ["hf_iomt", "hf_iomt.trainer"]),
        ("import hf_iomt.optim.presets", ["hf_iomt.optim.presets"]),
        ("def f():\n    import transformers.trainer", ["transformers.trainer"]),
        ("if TYPE_CHECKING:\n    from peft import PeftModel", ["peft", "peft.PeftModel"]),
        ("from .scoring import score\nimport numpy as np\nfrom hf_iomt.selection import score", []),
    ],
)
def test_the_layering_test_finds_what_it_looks_for(source, found):
    assert forbidden(imported_modules(source, ["hf_iomt", "selection"]), "selection") == found


def test_no_file_is_longer_than_400_lines():
    assert len(FILES) > 15
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "report").glob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_the_report_knows_only_files_and_numbers(path):
    names = imported_modules(path.read_text(encoding="utf-8"), module_of(path))
    outside = {name.partition(".")[0] for name in names} - {"hf_iomt"}
    assert not outside & {*UPPER, "torch", "sklearn", "datasets"}
    # Of the package its own files, and the version.
    own = {name for name in names if name.startswith("hf_iomt")}
    assert {name for name in own if not name.startswith("hf_iomt.report")} <= {"hf_iomt", "hf_iomt.__version__"}
