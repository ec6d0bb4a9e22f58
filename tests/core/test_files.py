"""Files are written atomically."""

import math
import os

import pytest

from limbeck.core.files import WriteError, replacing, write_bytes, write_json, write_text


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_missing_folders_are_created(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c", b"whole")
    assert (tmp_path / "a/b/c").read_bytes() == b"whole"


def test_a_file_is_readable_by_all(tmp_path):
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("place", ["file/inside", "file/deep/inside"])
def test_a_path_below_a_file_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(WriteError, match="could not be written"):
        write_text(tmp_path / place, "text")


def test_json_with_infinities_is_refused_without_leaving_a_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"a": math.inf})
    assert not list(tmp_path.iterdir())


def test_json_keys_are_sorted(tmp_path):
    write_json(tmp_path / "file.json", {"b": 1, "a": [2]})
    assert (tmp_path / "file.json").read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'
