"""The search phase by itself."""

import numpy as np
import pytest

from skillearn_jax.data import ImageData, load
from skillearn_jax.parallel import Devices
from skillearn_jax.train.console import Console
from skillearn_jax.train.search import search
from skillearn_jax.train.search_streams import search_streams
from skillearn_jax.train.workdir import Workdir


@pytest.fixture
def guarded():
    """The digits without their held-out images: to touch them is an AttributeError."""
    data = load("digits")
    bare = object.__new__(ImageData)
    for name, value in vars(data).items():
        if name != "heldout":
            object.__setattr__(bare, name, value)
    return bare


def test_the_guard_holds(guarded):
    with pytest.raises(AttributeError):
        _ = guarded.heldout


def test_a_search_never_touches_the_held_out_images(
    guarded, tiny_baseline, tmp_path, count_traces, read_rows
):
    config = tiny_baseline({"log_every": 3, "search.epochs": 3})
    workdir = Workdir(tmp_path / "run", config)
    found = search(config, guarded, workdir, Devices(1), Console(quiet=True))
    assert (found.epochs, found.steps) == (3, 6)
    assert found.compile_s > 0
    assert found.steps_s > 0
    # One program for the warm-up and one for the search, each of them traced once.
    assert count_traces == {("learner",): 2}
    assert (tmp_path / "run" / "genotype.json").exists()
    # Every third step has a row, and each epoch's end.
    rows = read_rows(tmp_path / "run")
    assert [row["step"] for row in rows if "learner/loss" in row] == [3, 6]
    assert [row["step"] for row in rows if "alphas/entropy/normal" in row] == [2, 4, 6]
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["6", "digests.json"]


@pytest.mark.parametrize("stratified", [False, True])
def test_the_streams_are_the_two_parts_of_the_training_images(
    tiny, guarded, stratified
):
    config = tiny({"data.stratified": stratified, "data.train_fraction": 0.6})
    streams = search_streams(config, guarded.train, guarded)
    assert set(streams) == {"train", "val", "bank"}
    first, second = streams["train"].examples, streams["val"].examples
    assert streams["bank"].examples.image is second.image  # one copy on the device
    assert abs(first.size - 0.6 * guarded.train.size) < 6
    assert first.size + second.size == guarded.train.size
    both = np.concatenate([first.image, second.image]).reshape(guarded.train.size, -1)
    whole = guarded.train.image.reshape(guarded.train.size, -1)
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole, axis=0))
    orders = [streams[name].order for name in ("train", "val", "bank")]
    assert orders == ["epochs", "random", "random"]
