"""What the documentation tells to run is run, or at least read by the program that it is meant for."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import markdown_blocks
import pytest
import tiny
import torch
from markdown_blocks import ROOT, commands_in_tables, pages, read_blocks, split_commands
from transformers import HfArgumentParser, Trainer, TrainingArguments

from hf_iomt import IOMTTrainer, IOMTTrainingArguments
from hf_iomt import cli as command_line
from hf_iomt.optim import families

PAGES = pages()
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
# Runs of a size that a reader would make take fewer steps here.
SHORTER = {"max_steps=1000": "max_steps=24", "save_steps=500": "save_steps=8"}
# Each is run as it stands elsewhere: in the file, which has the words.
RUN_ELSEWHERE = {
    "mkdocs build --strict": ("tests/test_documentation.py", '"build", "--strict"'),
    "python -m build": ("tests/test_packaging.py", '"build"'),
    "twine check --strict dist/*": ("tests/test_packaging.py", '"check", "--strict"'),
    "ruff check .": (".ci/run", "ruff check ."),
    "ruff format --check .": (".ci/run", "ruff format --check ."),
    "mypy": (".ci/run", "mypy"),
}
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


class Parsed(Exception):
    """The program has understood its arguments."""


@pytest.fixture
def stop_after_parsing(monkeypatch):
    """Programs read their arguments for real, and do nothing with them."""

    def stopping(parse):
        def wrapper(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return wrapper

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))
    name = "parse_args_into_dataclasses"
    monkeypatch.setattr(HfArgumentParser, name, stopping(getattr(HfArgumentParser, name)))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.syspath_prepend(str(ROOT))


def python_pages():
    return sorted({block.page for block in BLOCKS if block.language == "python"})


def names_for_a_reader(path):
    """What the text takes for given: a model, data, and what is the reader's own."""

    @dataclass
    class SomeConfig(TrainingArguments):
        """A configuration of another library."""

    class Lion(torch.optim.Optimizer):
        """Steps by the sign of an interpolation of the gradient and its moving mean."""

        def __init__(self, params, lr, betas=(0.9, 0.99)):
            super().__init__(params, {"lr": lr, "betas": betas})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for item in group["params"]:
                    if item.grad is not None:
                        mean = self.state[item].setdefault("mean", torch.zeros_like(item))
                        item.sub_(mean.lerp(item.grad, 1 - group["betas"][0]).sign(), alpha=group["lr"])
                        mean.lerp_(item.grad, 1 - group["betas"][1])

    model, train, test = tiny.lora(), tiny.Texts(), tiny.Texts(16, seed=1)
    # A run has ended in the folder that the text reads.
    trainer = IOMTTrainer(
        model, IOMTTrainingArguments(**tiny.quiet(path / "run", max_steps=8)), train_dataset=train, eval_dataset=test
    )
    trainer.train()
    return {
        "model": model,
        "train": train,
        "test": test,
        "validation": test,
        "trainer": trainer,
        "Lion": Lion,
        "SomeTrainer": Trainer,
        "SomeConfig": SomeConfig,
        "IOMTTrainer": IOMTTrainer,
        "IOMTTrainingArguments": IOMTTrainingArguments,
    }


@pytest.fixture(autouse=True)
def own_families(monkeypatch):
    """What the text registers is gone afterwards."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


@pytest.mark.parametrize("page", python_pages())
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Where a dataclass looks for the types of its fields.
    module = type(sys)("documentation")
    monkeypatch.setitem(sys.modules, "documentation", module)
    vars(module).update(names_for_a_reader(tmp_path))
    executed = 0
    for block in read_blocks(page):
        if block.language != "python" or block.reason is not None:
            continue
        text = block.text
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        # With the line numbers of the page.
        exec(compile("\n" * block.line + text, page, "exec", dont_inherit=True), vars(module))
        executed += 1
    assert executed or all(block.reason for block in read_blocks(page))


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("bash", "console")], ids=lambda block: block.place
)
def test_commands_run(block, tmp_path, monkeypatch, capsys, stop_after_parsing):
    if block.reason is not None:
        pytest.skip(block.reason)
    commands = split_commands(block.text)
    assert commands
    for words, output in commands:
        check_command(words, tmp_path, monkeypatch)
        printed = capsys.readouterr().out
        assert not output or printed == output, f"{' '.join(words)} printed:\n{printed}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands_in_tables(page)])
def test_commands_in_tables_run(page, tmp_path, monkeypatch, stop_after_parsing):
    for words in commands_in_tables(page):
        check_command(words, tmp_path, monkeypatch)


def check_command(words, path, monkeypatch):
    """Run a command, or have its program read its arguments; an unknown one is an error."""
    while "=" in words[0] and not words[0].startswith("-"):
        # A variable of this command alone.
        words = words[1:]
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    whole = " ".join([program, *rest])
    if whole in RUN_ELSEWHERE:
        file, text = RUN_ELSEWHERE[whole]
        assert text in (ROOT / file).read_text(encoding="utf-8"), f"{file} no longer runs `{whole}`"
    elif program == "export":
        assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in rest)
    elif program == ".ci/run":
        assert (ROOT / program).stat().st_mode & 0o100 and not rest
    elif program == "pip":
        check_pip(rest)
    elif program == "pytest":
        check_pytest(rest)
    elif program == "hf-iomt":
        check_hf_iomt(rest, path, monkeypatch)
    elif program in ("python", "python3.11", "torchrun", "accelerate", "bash"):
        check_python(program, rest)
    else:
        pytest.fail(f"Nothing runs `{whole}`: say here how, or mark the block with `<!-- not executed: reason -->`.")


def check_pip(words):
    """The constraints, the folder and the extras are there; test_packaging.py installs."""
    assert words[0] == "install"
    rest = iter(words[1:])
    for word in rest:
        if word in ("-c", "-r"):
            assert (ROOT / next(rest)).is_file()
        elif word != "-e":
            match = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
            assert match is not None, f"cannot install {word!r} here"
            assert set((match[1] or "").split(",")) - {""} <= EXTRAS


def check_pytest(words):
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    rest = iter(words)
    for word in rest:
        if word == "-m":
            assert any(marker.startswith(f"{next(rest)}:") for marker in markers)
        elif word == "-n":
            assert next(rest).isdecimal()
        else:
            assert (ROOT / word).exists(), word


def check_hf_iomt(words, path, monkeypatch):
    if words[:1] == ["candidates"]:
        # The stop after parsing is for what takes long.
        monkeypatch.undo()
        monkeypatch.chdir(path)
        assert command_line.main(words) == 0
    else:
        try:
            command_line.make_parser().parse_args(words)
        except (Parsed, SystemExit) as stopped:
            # `--help` ends the program too.
            if isinstance(stopped, SystemExit) and stopped.code != 0:
                raise


def check_python(program, words):
    if program.startswith("python") and words[:2] == ["-m", "venv"]:
        return
    if program == "python" and words[:2] == ["-m", "benchmarks"]:
        main = importlib.import_module(f"benchmarks.{words[2]}").main
        with pytest.raises(Parsed):
            main(words[3:])
        return
    script = next(word for word in words if word.startswith("examples/"))
    assert (ROOT / script).is_file()
    if script.endswith(".sh"):
        return
    arguments = words[words.index(script) + 1 :]
    spec = importlib.util.spec_from_file_location(f"documented_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with pytest.raises(Parsed):
        module.main(arguments)


@pytest.mark.parametrize("words", [["rm", "-r", "runs"], ["python", "-m", "http.server"], ["mkdocs", "serve"]])
def test_what_nothing_runs_is_found(words, tmp_path, monkeypatch):
    with pytest.raises((pytest.fail.Exception, StopIteration)):
        check_command(words, tmp_path, monkeypatch)


def test_wrong_arguments_are_found(tmp_path, monkeypatch, stop_after_parsing, capsys):
    with pytest.raises(SystemExit):
        check_command(["python", "-m", "benchmarks", "run", "--tier", "moon"], tmp_path, monkeypatch)
    with pytest.raises(SystemExit):
        check_command(["hf-iomt", "demo", "--stepz", "3"], tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="Some specified arguments are not used"):
        command = "python examples/03_causal_lm_lora.py --model m --dataset d --output_dir o --learn_rate 1"
        check_command(command.split(), tmp_path, monkeypatch)


def test_blocks_are_found_with_their_marks(tmp_path, monkeypatch):
    shell = "```bash\nfirst && second --long \\\n    words\n```\n\n"
    text = f"{shell}<!-- not executed: takes hours -->\n```python\nx = 1\n```\n"
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(markdown_blocks, "ROOT", tmp_path)
    first, second = read_blocks("page.md")
    assert (first.language, first.line, first.reason) == ("bash", 1, None)
    assert split_commands(first.text) == [(["first"], ""), (["second", "--long", "words"], "")]
    assert (second.text, second.reason) == ("x = 1", "takes hours")
    assert split_commands("$ one\nout\nput\n$ two") == [(["one"], "out\nput\n"), (["two"], "")]


def test_every_block_says_what_it_is():
    assert len(BLOCKS) > 20
    assert [
        block.place for block in BLOCKS if block.language not in ("bash", "console", "python", "text", "json")
    ] == []
