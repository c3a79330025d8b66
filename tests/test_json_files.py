from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_iomt.json_files import write_json


def test_missing_folders_are_created_and_strings_are_paths(tmp_path):
    path = tmp_path / "checkpoint-5" / "deep" / "history.json"
    write_json([{"cycle": 0}], str(path))
    assert json.loads(path.read_text()) == [{"cycle": 0}]


def test_writing_again_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "history.json"
    write_json([{"cycle": 0}] * 50, path)
    write_json([{"cycle": 1}], path)
    assert json.loads(path.read_text()) == [{"cycle": 1}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_leaves_the_old_file_whole(tmp_path, value):
    path = tmp_path / "history.json"
    write_json([{"cycle": 0}], path)
    with pytest.raises((ValueError, TypeError)):
        write_json([{"cycle": 1, "score": value}], path)
    assert json.loads(path.read_text()) == [{"cycle": 0}]


def test_the_new_file_is_complete_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
    path = tmp_path / "history.json"
    write_json([{"cycle": 0}], path)
    seen = []
    replace = Path.replace

    def spy(source, target):
        seen.append((json.loads(Path(target).read_text()), json.loads(source.read_text())))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_json([{"cycle": 1}], path)
    assert seen == [([{"cycle": 0}], [{"cycle": 1}])]
