"""The work directory: its lock, its lines, and what a kill can leave."""

import json

import pytest

from zoo.errors import UserError
from zoo.run_folder import RunFolder, read_json, write_atomically


def test_the_lock_is_held_by_one_and_freed(tmp_path):
    with RunFolder(tmp_path), pytest.raises(UserError, match=r"in use by process \d+"):
        RunFolder(tmp_path)
    with RunFolder(tmp_path):
        pass


def test_a_folder_with_files_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(UserError, match=r"config\.json that is not of a run"):
        RunFolder(tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.start(0)
        for step in (5, 10, 15):
            folder.write(step, {"train/loss": 1 / step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "train/lo')  # a kill in the middle of a line
    with RunFolder(tmp_path) as folder:
        assert [line["step"] for line in folder.read()] == [5, 10, 15]
        folder.start(10)
        assert folder.history("train/loss") == [0.2, 0.1]
        folder.write(11, {"validation/loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 11]


def test_atomic_writing_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match=r"cannot write .*report\.json: disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_cut_off_json_file_counts_as_missing(tmp_path):
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "cut.json").write_text('{"step": 1')
    assert read_json(tmp_path / "cut.json") is None
