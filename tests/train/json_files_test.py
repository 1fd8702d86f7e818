"""JSON files: what a run reads has the form of what it writes."""

import errno
import os

import pytest

from skillearn_jax.errors import InputError, StorageError
from skillearn_jax.train.json_files import (
    fits,
    read_json,
    read_rows,
    write_json,
    write_text,
)

ERRORS = {"": {"": 0.0}}


@pytest.mark.parametrize(
    ("value", "like", "expected"),
    [
        ({}, {}, True),
        ([], {}, False),
        ({}, ERRORS, True),
        ({"derived": {"0": 3.5, "1": 4}}, ERRORS, True),
        ({"derived": {"0": "3.5"}}, ERRORS, False),
        ({"derived": {"0": True}}, ERRORS, False),
        ({"derived": 3.5}, ERRORS, False),
        ({"a": {}, "b": 1}, {"a": {}}, True),
        ({"b": 1}, {"a": {}}, False),
        ({"a": None}, {"a": None}, True),
        ([1, 2], [], True),
        ([], [{"a": ""}], True),
        ([{"a": "b"}, {"a": "c", "d": 1}], [{"a": ""}], True),
        ([{"a": "b"}, {}], [{"a": ""}], False),
        (3, "", False),
        (3, None, True),
    ],
)
def test_the_form_of_an_example(value, like, expected):
    assert fits(value, like) is expected


def test_what_is_read_is_what_was_written_or_refused(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path, ERRORS) is None
    write_json(path, {"derived": {"0": 1.5}})
    assert read_json(path, ERRORS) == {"derived": {"0": 1.5}}
    with pytest.raises(
        InputError, match=r"a\.json does not hold what a run .* --workdir"
    ):
        read_json(path, [])
    with pytest.raises(InputError, match=r"is not readable JSON \(.*directory"):
        read_json(tmp_path)


def test_bytes_of_a_path_that_are_no_text_are_written_as_such(tmp_path):
    folder = os.fsdecode(b"d\xe9")
    write_text(tmp_path / "page.html", folder)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "d\\udce9"


def test_a_disk_that_can_only_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(type(tmp_path), "write_text", refuse)
    with pytest.raises(StorageError, match=r"a\.json \(Read-only file system\)"):
        write_json(tmp_path / "a.json", {})


def test_a_file_of_lines_that_cannot_be_read_is_named(tmp_path):
    assert read_rows(tmp_path / "rows.jsonl") == ([], 0)
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(
        InputError, match=r"rows\.jsonl cannot be read \(Is a directory\)"
    ):
        read_rows(tmp_path / "rows.jsonl")
