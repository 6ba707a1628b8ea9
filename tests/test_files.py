"""Files: known checksum, all or nothing, strict UTF-8 with the line that breaks it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from refusal_bench.errors import InputError
from refusal_bench.files import read_text, sha256_of, write_atomic


def test_checksum_is_the_published_one_of_abc(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_makes_folders_and_leaves_only_the_file(tmp_path):
    write_atomic(tmp_path / "a" / "b.txt", "é\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é\n".encode()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failed_write_keeps_the_old_content_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    whole = Path.write_bytes

    def half(self, data):
        whole(self, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "b.txt", "content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "b.txt", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"one\ntwo\nthr\xe9e\n", r"t\.txt:3: byte 0xe9"),
        (b"\xef\xbb\xbfone\n", r"t\.txt:1: starts with a byte order mark"),
        ("one\n".encode("utf-16"), r"t\.txt:1: starts with a byte order mark"),
    ],
)
def test_what_is_not_utf8_is_named_with_its_line(tmp_path, data, message):
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / "t.txt")


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"t\.txt: cannot be read"):
        read_text(tmp_path / "t.txt")
