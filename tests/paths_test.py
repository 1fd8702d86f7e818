"""Paths as users type them: `--flag=~/x` reaches the program as it is."""

import os
import pathlib

import pytest

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.nas import find_genotype
from skillearn_jax.paths import folder_name, replaced, user_path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_is_the_home_folder(home):
    assert user_path("~/runs/a") == home / "runs" / "a"
    assert user_path(pathlib.Path("~")) == home
    assert user_path("runs/~a") == pathlib.Path("runs/~a")


def test_what_names_no_user_is_a_path_that_is_not_there(home):
    assert user_path("~nosuchuser/a") == pathlib.Path("~nosuchuser/a")
    with pytest.raises(InputError, match=r"^~nosuchuser/a/train is not a folder"):
        load("folder", "~nosuchuser/a")


def test_a_folder_has_letters_numbers_dots_and_dashes():
    assert folder_name("random 1") == "random_1"
    assert folder_name("lpt-2/é:v1.0") == "lpt-2_é_v1.0"


def test_a_genotype_is_found_at_home(home):
    genotype = find_genotype("DARTS_V2")
    (home / "cell.txt").write_text(genotype.to_text())
    assert find_genotype("~/cell.txt") == genotype


def test_a_file_that_cannot_be_written_leaves_the_old_one_alone(tmp_path):
    (tmp_path / "a.json").write_text("old")

    def disk_full():
        with replaced(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011 (it has no text)
        disk_full()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "old"}


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Else a machine that goes down may leave an empty one, as of a run's config."""
    path, synced = tmp_path / "config.json", []

    def sync(handle):
        synced.append((os.fstat(handle).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    with replaced(path) as partial:
        partial.write_text("new")
    assert synced == [(path.stat().st_ino, False)]


def test_a_move_that_fails_leaves_nothing(tmp_path):
    """As onto a folder."""
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="Is a directory"), replaced(tmp_path / "a") as to:
        to.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
