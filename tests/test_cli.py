from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from hf_iomt import __version__
from hf_iomt.cli import main
from hf_iomt.optim import PRESETS, list_families, parse_candidates

# What is printed on stderr: progress bars, one after the other.
BAR = re.compile(r"(Pre-training|IOMT|AdamW|Grid): +\d+%\|.*")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["demo", "--help"], ["demo", "--steps", "0"], ["report", "--help"], ["report"]],
)
def test_what_needs_no_torch_does_not_wait_for_it(arguments):
    code = (
        "import sys\n"
        "from hf_iomt.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "finally:\n"
        "    print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    loaded = run_python("-c", code).stderr
    assert "'hf_iomt'" in loaded
    for name in ("torch", "transformers", "peft", "sklearn", "numpy"):
        assert f"'{name}'" not in loaded


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("demo", "candidates", "report"))


@pytest.mark.parametrize("arguments", [[], ["candidates"]])
def test_help_teaches_by_examples_that_work(arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    printed = capsys.readouterr().out
    lines = [
        line.removeprefix("  hf-iomt ") for line in printed.splitlines() if line.startswith("  hf-iomt candidates")
    ]
    # What an example is for stands beside it.
    examples = [re.split(r" {3,}", line)[0] for line in lines]
    assert len(examples) >= 2
    for example in examples:
        assert main(shlex.split(example)) == 0, example
    assert all(len(line) <= 119 for line in printed.splitlines())


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hf-iomt {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["report"], "the following arguments are required: RUN"),
        (["train"], "invalid choice: 'train'"),
        (["demo", "--steps", "0"], "argument --steps: must be a whole number between 1 and"),
        (["demo", "--steps", "many"], "but got 'many'"),
        (["demo", "--seed", str(2**32)], "argument --seed: must be a whole number between 0 and 4,294,967,295"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_candidates_lists_families_and_presets(capsys):
    assert main(["candidates"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for family in list_families():
        assert any(line.startswith(f"  {family} ") and " lr," in line for line in lines)
    for name, text in PRESETS.items():
        assert any(line.split()[:1] == [name] and line.endswith(text) for line in lines)
    assert any(line.startswith("  paper ") and " 15 candidates" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "sgdm:lr=0.1|0.01,momentum=0.9; adamw:lr=1e-3",
            ["sgdm:lr=0.1,momentum=0.9", "sgdm:lr=0.01,momentum=0.9", "adamw:lr=0.001"],
        ),
        ("adam:lr=1e-3,betas=0.9/0.99", ["adam:lr=0.001,betas=0.9/0.99"]),
        (" paper ", [candidate.name for candidate in parse_candidates(PRESETS["paper"])]),
        # Not registered: transformers knows it.
        ("adafactor:lr=0.001", ["adafactor:lr=0.001"]),
    ],
)
def test_candidates_expands_one_a_line(text, names, capsys):
    assert main(["candidates", text]) == 0
    assert capsys.readouterr().out.splitlines() == names


def test_relative_rates_are_shown_for_a_unit_of_1(capsys):
    assert main(["candidates", "auto"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:3] == ["nadamw:lr=1", "nadamw:lr=1.5", "nadamw:lr=0.7"]
    assert "a range test finds x before training" in printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The candidate list is empty. Write family:key=value|value,key=value"),
        ("lroa", "Cannot read 'lroa' in the candidate list."),
        ("lroa", "Presets: auto, paper, paper_wide, lora, head, full."),
        ("adamm:lr=1", "Unknown optimizer family 'adamm'. Known families: sgd,"),
        ("adam:lr=-1", "`lr > 0` must hold, but got lr=-1 for the family 'adam'."),
        ("adam:momentum=0.9", "Unknown hyperparameter 'momentum' for the family 'adam'. It can set: lr,"),
        ("adamw:lr=ax", "Cannot read the learning rate 'ax': write a number before the x, as in lr=3x."),
    ],
)
def test_candidates_explains_what_it_cannot_read(text, message, capsys):
    assert main(["candidates", text]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("hf-iomt candidates: error: ")
    assert message in printed.err


class TestReport:
    @pytest.fixture
    def folder(self, tmp_path):
        cycles = [(1, 30, "sgdm:lr=0.1"), (31, 40, "adam:lr=0.001")]
        history = [
            {
                **{"cycle": index, "first_step": first, "last_step": last, "candidate": name, "phase": "surrogate"},
                **{"family": name.partition(":")[0], "learning_rate": 0.1},
            }
            for index, (first, last, name) in enumerate(cycles)
        ]
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "iomt_history.json").write_text(json.dumps(history))
        return tmp_path / "run"

    def test_prints_a_summary_and_writes_beside_the_run(self, folder, capsys):
        assert main(["report", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "SGDM at 0.1 did 75 % of the steps and Adam at 1e-3 25 %."
        written = [folder / f"iomt_report{suffix}" for suffix in (".html", ".png", ".svg")]
        assert lines[-4:] == ["Written:", *map(str, written)]
        assert all(path.stat().st_size > 10_000 for path in written)

    def test_compares_several_where_it_is_told(self, folder, tmp_path, capsys):
        other = shutil.copytree(folder, tmp_path / "other")
        assert main(["report", str(folder), str(other), "--output", str(tmp_path / "out")]) == 0
        assert {"run:", "other:"} <= set(capsys.readouterr().out.splitlines())
        assert "<h2>Comparison</h2>" in (tmp_path / "out" / "iomt_report.html").read_text(encoding="utf-8")
        assert not (folder / "iomt_report.html").exists()

    def test_a_terminal_without_greek_letters_loses_no_report(self, folder):
        code = f"import sys; from hf_iomt.cli import main; sys.exit(main(['report', {str(folder)!r}]))"
        environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=300)
        assert done.returncode == 0 and done.stderr == b"" and b"?_t" in done.stdout
        assert (folder / "iomt_report.html").exists()

    def test_a_folder_that_is_none_exits_with_2(self, folder, tmp_path, capsys):
        assert main(["report", str(folder), str(tmp_path / "nowhere")]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("hf-iomt report: error: ")
        assert "nowhere has no iomt_history.json. Give the `output_dir` of a run" in printed.err

    def test_a_damaged_history_exits_with_2(self, folder, capsys):
        (folder / "iomt_history.json").write_text("[")
        assert main(["report", str(folder)]) == 2
        assert "iomt_history.json is damaged" in capsys.readouterr().err

    def test_a_place_that_cannot_be_written_exits_with_2(self, folder, capsys):
        assert main(["report", str(folder), "--output", str(folder / "iomt_history.json" / "new")]) == 2
        assert "iomt_history.json" in capsys.readouterr().err

    def test_without_matplotlib_the_summary_is_there_and_the_extra_is_named(self, folder):
        code = (
            "import sys\nsys.modules['matplotlib'] = None\nfrom hf_iomt.cli import main\n"
            f"sys.exit(main(['report', {str(folder)!r}]))"
        )
        done = run_python("-c", code)
        assert done.returncode == 2 and "SGDM at 0.1 did 75 % of the steps" in done.stdout
        assert done.stderr.strip().endswith("Install the extra `plots`: pip install 'hf-iomt[plots]'.")

    def test_does_not_wait_for_torch(self, folder):
        code = (
            f"import sys\nfrom hf_iomt.cli import main\nmain(['report', {str(folder)!r}])\n"
            "print({'torch', 'transformers'} & set(sys.modules), file=sys.stderr)"
        )
        assert run_python("-c", code).stderr.strip() == "set()"


def test_demo_refuses_a_folder_it_cannot_make(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["demo", "--output-dir", str(blocked)]) == 2
    assert str(blocked) in capsys.readouterr().err


def test_demo_prints_its_bars_and_its_table_only(tmp_path):
    folder = tmp_path / "out"
    # Two of the paper's 15 candidates: a grid of them all prints the same lines, and takes longer.
    code = (
        "import sys\n"
        "from hf_iomt.cli import main\n"
        "from hf_iomt.optim import PRESETS\n"
        "PRESETS['paper'] = 'adam:lr=0.1|0.01'\n"
        f"sys.exit(main(['demo', '--steps', '2', '--output-dir', {str(folder)!r}]))\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    # Libraries that happen to be installed may have something to say when they are imported.
    others = run_python("-c", "import peft").stderr.splitlines()
    for line in re.split(r"[\r\n]+", done.stderr.strip()):
        assert BAR.fullmatch(line.strip()) or line in others, line
    lines = done.stdout.splitlines()
    assert "digits 0 to 6" in lines[0] and "4 runs of 2 steps" in lines[0]
    assert [line.split(" ")[0].rstrip(",") for line in lines[2:]] == [
        *("method", "-" * len(lines[3].split(" ")[0]), "IOMT", "AdamW", "Best", "Worst"),
        *("", "Best", "Before", "IOMT's", "The", "What"),
    ]
    assert "after 2 runs: 4 steps" in lines[9]
    assert (folder / "adapter_model.safetensors").exists()
