"""A run knows its data again: what of them is compared, and what it says of others."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from skillearn_jax.data import StreamingData, from_arrays
from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201 import Table
from skillearn_jax.parallel import processes
from skillearn_jax.train import Config
from skillearn_jax.train.fingerprint import check_fingerprint, fingerprint
from skillearn_jax.train.workdir import Workdir

TRAIN, HELDOUT = "training images", "held-out images"
TABLE = "benchmark table"


def arrays(train=None, heldout=None, classes=2, first=0):
    """Returns six small images, with another first pixel where one is given.

    `first` is the class of the first.
    """
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
    for place, pixel in ((0, train), (4, heldout)):
        if pixel is not None:
            images[place, 0, 0, 0] = pixel
    labels = (np.arange(6) + first) % 2
    return from_arrays(
        "mine", images[:4], labels[:4], images[4:], labels[4:], num_classes=classes
    )


def streamed(part="train", num_bytes=1000, take=-1, folder="/a", skip=0, shard=50):
    """Returns what TFDS notes of two splits, without files."""

    def of(name, skip=0, take=-1):
        file = SimpleNamespace(
            filename=f"{folder}/photos-{name}.array_record-00000-of-00001",
            skip=skip,
            take=take,
            examples_in_shard=shard,
        )
        size = num_bytes if name == "train" else 400
        return SimpleNamespace(file_instructions=[file], num_bytes=size)

    class Splits(dict):
        def __missing__(self, key):
            return of("train", skip, take)

    splits = Splits(train=of("train"), validation=of("validation"))
    data = object.__new__(StreamingData)
    data.prepared = SimpleNamespace(info=SimpleNamespace(splits=splits))
    reading = SimpleNamespace(train_split=part, heldout_split="validation")
    data.reader = SimpleNamespace(reading=reading)
    return data


def test_every_pixel_label_and_class_counts():
    known = fingerprint(arrays())
    assert set(known) == {TRAIN, HELDOUT}
    assert fingerprint(arrays()) == known
    for other, changed in (
        (arrays(train=9), {TRAIN}),
        (arrays(heldout=9), {HELDOUT}),
        (arrays(classes=3), {TRAIN, HELDOUT}),
        (arrays(first=1), {TRAIN, HELDOUT}),
    ):
        found = fingerprint(other)
        assert {name for name in known if found[name] != known[name]} == changed


def test_tasks_and_a_bank_have_names_of_their_own():
    bank = fingerprint(arrays(), arrays(train=9).training)
    assert bank["exam bank"] == fingerprint(arrays(train=9))[TRAIN]
    accuracies = np.full((15625, 6), 90.0)
    table = fingerprint(arrays(), table=Table(accuracies))[TABLE]
    assert table == fingerprint(arrays(train=9), table=Table(accuracies.copy()))[TABLE]
    accuracies[-1, -1] = 90.01
    assert table != fingerprint(arrays(), table=Table(accuracies))[TABLE]
    tasks = fingerprint({"a": arrays(), "b": arrays(heldout=9)})
    assert tasks["training images of a"] == tasks["training images of b"]
    assert tasks["held-out images of a"] != tasks["held-out images of b"]


def test_of_files_their_notes_count_and_not_their_place():
    known = fingerprint(streamed())
    assert fingerprint(streamed(folder="/b")) == known
    other = fingerprint(streamed(num_bytes=1001))
    assert other[TRAIN] != known[TRAIN]
    assert other[HELDOUT] == known[HELDOUT]
    tenth = fingerprint(streamed("train[:10%]", take=5))
    assert tenth[TRAIN] != known[TRAIN]
    larger = fingerprint(streamed("train[:10%]", take=5, num_bytes=1001))
    assert larger[TRAIN] != tenth[TRAIN]
    second = fingerprint(streamed("train[10%:20%]", skip=5, take=5))
    assert second[TRAIN] not in (tenth[TRAIN], known[TRAIN])
    assert fingerprint(streamed(shard=60))[TRAIN] != known[TRAIN]


@pytest.mark.parametrize(
    ("old", "new", "dirs", "flag"),
    [
        ({TRAIN: "a"}, {TRAIN: "b"}, [], "data.dir"),
        ({f"{TRAIN} of x": "a"}, {f"{TRAIN} of x": "b"}, ["y"], "data.dirs"),
        ({TRAIN: "a", "exam bank": "c"}, {TRAIN: "a"}, [], "lpt.bank_dir"),
        ({TABLE: "a"}, {TABLE: "b"}, [], "benchmark.table"),
        ({TRAIN: "a", TABLE: "c"}, {TRAIN: "b", TABLE: "d"}, [], "data.dir"),
    ],
)
def test_other_data_are_named_with_their_flag(tmp_path, old, new, dirs, flag):
    names = ", the ".join(name for name in old if old[name] != new.get(name))
    config = {"data": {"dirs": dirs}}
    check_fingerprint(tmp_path, config, old, dict(old))
    with pytest.raises(
        InputError, match=rf"\(the {names}\): set --config.{flag} "
    ) as e:
        check_fingerprint(tmp_path, config, old, new)
    assert "\n" not in str(e.value)


def test_a_run_of_a_version_that_noted_no_table_goes_on_with_it(tmp_path):
    config = {"data": {"dirs": []}}
    check_fingerprint(tmp_path, config, {TRAIN: "a"}, {TRAIN: "a", TABLE: "b"})
    with pytest.raises(InputError, match=rf"\(the {TABLE}\)"):
        check_fingerprint(tmp_path, config, {TRAIN: "a", TABLE: "b"}, {TRAIN: "a"})


def at(folder):
    return Config.parse({"data": {"name": "npz", "dir": folder}})


@pytest.fixture
def begun(tmp_path):
    """The workdir of a run on `arrays()`, which lay in /a."""
    Workdir(tmp_path / "run", at("/a"), fingerprint(arrays())).write_config("program")
    return tmp_path / "run"


def test_equal_data_may_lie_elsewhere(begun):
    workdir = Workdir(begun, at("/b"), fingerprint(arrays()))
    (moved,) = workdir.changes
    assert (moved.path, moved.more) == ("config.data.dir", False)


@pytest.mark.parametrize("folder", ["/a", "/b"])
def test_other_data_are_refused_wherever_they_lie(begun, folder):
    before = (begun / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"run on other data \(the held-out images\):"):
        Workdir(begun, at(folder), fingerprint(arrays(heldout=9)))
    assert (begun / "config.json").read_bytes() == before


def test_data_that_are_not_read_stay_noted(begun):
    before = (begun / "config.json").read_bytes()
    workdir = Workdir(begun, at("/a"))
    assert workdir.changes == []
    workdir.write_config("program")
    assert (begun / "config.json").read_bytes() == before
    # Elsewhere they have to be read, to be compared.
    (moved,) = Workdir(begun, at("/b")).changes
    assert moved.more


def test_processes_with_other_data_are_refused(monkeypatch, tmp_path):
    """Seen from the second of two, which hears what the first has."""
    config, known = at("/a"), fingerprint(arrays())
    said = iter((config.to_dict(), str(tmp_path), known))

    def broadcast(data):
        return json.dumps({"value": json.dumps(next(said))}).encode()

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "_broadcast", broadcast)
    with pytest.raises(InputError, match=r"content of --config.data.dir of process 1"):
        Workdir(tmp_path, config, fingerprint(arrays(train=9)))
