"""What a user installs: the wheel's contents, its types, its command, and the bounds of what it needs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import hf_iomt

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder of the wheel and the source distribution, built from a copy."""
    pytest.importorskip("build", reason="needs the extra release")
    source = tmp_path_factory.mktemp("source") / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "hf_iomt", source / "hf_iomt", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # The packages that build are those of the environment: nothing is fetched.
    run(sys.executable, "-m", "build", "--no-isolation", source)
    return source / "dist"


@pytest.fixture(scope="module")
def environment(distributions, tmp_path_factory):
    """An empty environment with the wheel, and nothing of what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (wheel,) = distributions.glob("*.whl")
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    return folder


def run_command(environment, *arguments, **options):
    """`hf-iomt` of the environment, without what this process has on its path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(environment / "bin" / "hf-iomt", *arguments, env=variables, **options)


@pytest.fixture
def lent(environment):
    """The environment while it sees the packages of this one, after its own."""
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but its own .pth files, such as that of an editable install, are not read.
    (packages / "lent.pth").write_text(f"{Path(pytest.__file__).parent.parent}\n")
    yield environment
    (packages / "lent.pth").unlink()


def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ignored = ("__pycache__", ".pyc")
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "hf_iomt").rglob("*") if path.is_file()}
    # Types, templates and whatever else is data lies beside the modules.
    assert names == {name for name in files if not any(part in name for part in ignored)}
    assert "hf_iomt/py.typed" in names


def test_the_source_distribution_builds_the_same(distributions):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "hf_iomt/__init__.py", "hf_iomt/py.typed"} <= names


def test_an_index_can_show_them(distributions):
    pytest.importorskip("twine", reason="needs the extra release")
    printed = run(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir())
    assert printed.count("PASSED") == 2 and "WARNING" not in printed


def test_the_version_is_written_once(distributions):
    assert sorted(path.name for path in distributions.iterdir()) == [
        f"hf_iomt-{hf_iomt.__version__}-py3-none-any.whl",
        f"hf_iomt-{hf_iomt.__version__}.tar.gz",
    ]
    assert PROJECT["dynamic"] == ["version"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hf_iomt.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"] and citation["message"]


def test_the_command_of_an_empty_environment(environment):
    # Nothing that the package needs is there, and these do not miss it.
    assert run_command(environment, "--version") == f"hf-iomt {hf_iomt.__version__}\n"
    assert "candidates" in run_command(environment, "--help")


def test_the_installed_command_works(lent, tmp_path):
    printed = run_command(lent, "candidates", "adam:lr=0.1|0.01", cwd=tmp_path)
    assert printed.splitlines() == ["adam:lr=0.1", "adam:lr=0.01"]
    python = lent / "bin" / "python"
    # It is the wheel that was run.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = run(python, "-c", "import hf_iomt; print(hf_iomt.__file__)", cwd=tmp_path, env=variables)
    assert found.startswith(str(lent))


@pytest.mark.slow
def test_the_installed_demo_works(lent, tmp_path):
    printed = run_command(lent, "demo", "--steps", "30", cwd=tmp_path)
    assert "IOMT, default settings" in printed
    assert (tmp_path / "hf_iomt_demo" / "adapter_model.safetensors").exists()


USER_SCRIPT = """
from hf_iomt import Candidate, ConvergenceCallback, Selector, SelectorSettings, Transferability, parse_candidates
from hf_iomt.selection import score

candidates: list[Candidate] = parse_candidates("adamw:lr=1e-3|3e-4")
name: str = candidates[0].name
selector = Selector(["adamw"], [{"lr": 1e-3}], SelectorSettings(selection="random"), seed=0)
value: float = score([1.0, 0.5], alpha=0.1)
weight: float = Transferability(0.5).weight
reveal_type(parse_candidates)
wrong: int = parse_candidates("adamw:lr=1e-3")
SelectorSettings(selection="chance")
"""


def test_a_users_types_are_checked(environment, tmp_path):
    pytest.importorskip("mypy", reason="needs the extra test")
    script = tmp_path / "script.py"
    script.write_text(USER_SCRIPT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--cache-dir", str(tmp_path)),
            *("--config-file", os.devnull, "--python-executable", str(environment / "bin" / "python"), str(script)),
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = USER_SCRIPT.splitlines()
    found = re.findall(r"^script\.py:(\d+): (error|note): (.*)$", done.stdout, re.MULTILINE)
    # What is typed is seen, and what is wrong, and nothing else is.
    assert [(lines[int(line) - 1].partition("(")[0], kind) for line, kind, _ in found] == [
        ("reveal_type", "note"),
        ("wrong: int = parse_candidates", "error"),
        ("SelectorSettings", "error"),
    ], done.stdout
    assert "list[hf_iomt.optim.candidates.Candidate]" in found[0][2]


def test_help_is_there_in_a_third_of_a_second():
    """In processor time, which other processes of a busy machine do not change much; the best of three."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(sys.executable, "-m", "hf_iomt.cli", "--help", cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def requirements():
    texts = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        texts += extra
    return {requirement.name: requirement for requirement in map(Requirement, texts)}


def read_pins(name):
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return {found.name: str(found.specifier) for found in map(Requirement, lines)}


@pytest.mark.parametrize("name", sorted(requirements()))
def test_every_dependency_is_bounded_on_both_sides(name):
    operators = {item.operator for item in requirements()[name].specifier}
    assert operators in ({">=", "<"}, {"=="})


@pytest.mark.parametrize("name", sorted(read_pins("constraints-min.txt")))
def test_the_least_versions_are_the_lower_bounds(name):
    if name == "torch":
        # Said in the file, with the reason.
        assert read_pins("constraints-min.txt")["torch"] == read_pins("constraints.txt")["torch"]
        return
    (lower,) = (item.version for item in requirements()[name].specifier if item.operator in (">=", "=="))
    pinned = read_pins("constraints-min.txt")[name].removeprefix("==")
    # `4.0` stands for `4.0.0`, and for the newest of the patches where an index has no other.
    assert f"{pinned}.".startswith(f"{lower}.")


def test_every_dependency_has_a_least_version():
    assert {Requirement(text).name for text in PROJECT["dependencies"]} <= set(read_pins("constraints-min.txt"))


def test_tested_versions_are_within_the_bounds():
    known = requirements()
    for name, pin in read_pins("constraints.txt").items():
        if name in known:
            assert known[name].specifier.contains(pin.removeprefix("==")), name
    assert known["transformers"].specifier.contains(version("transformers"))


@pytest.mark.parametrize(
    "requirement", [Requirement(text) for text in PROJECT["dependencies"]], ids=lambda item: item.name
)
def test_dependencies_can_be_installed_on_the_least_python(requirement):
    least = PROJECT["requires-python"].removeprefix(">=")
    named = [item.rpartition(" ")[2] for item in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", item)]
    assert least in named and least == min(named, key=lambda item: int(item.partition(".")[2]))
    assert SpecifierSet(metadata(requirement.name)["Requires-Python"] or "").contains(f"{least}.0")
