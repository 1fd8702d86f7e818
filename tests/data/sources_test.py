import subprocess
import sys

import numpy as np
import pytest

from skillearn_jax.data import SOURCES, Examples, load
from skillearn_jax.errors import InputError


def rows(examples: Examples) -> set[bytes]:
    return {image.tobytes() for image in np.asarray(examples.image)}


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [("digits", 1797, (8, 8, 1)), ("mnist5k", 5000, (28, 28, 1))],
)
def test_embedded_sets_are_whole_balanced_and_disjoint(name, size, shape):
    data = load(name)
    assert data.name == name
    assert data.image_shape == shape
    assert data.num_classes == 10
    assert data.train.size + data.heldout.size == size
    assert data.train.image.dtype == np.uint8
    assert data.train.image.max() == 255
    train, heldout = np.bincount(data.train.label), np.bincount(data.heldout.label)
    np.testing.assert_allclose(heldout, 0.2 * (train + heldout), atol=0.5)
    # Both sets hold no image twice, so the images themselves tell them apart.
    assert len(rows(data.train)) == data.train.size
    assert not rows(data.train) & rows(data.heldout)


def test_the_split_of_digits_is_fixed_and_shuffled():
    data = load("digits")
    assert data.train.label[:8].tolist() == [0, 6, 3, 8, 1, 8, 4, 1]
    # The nearest of 17 levels, not the one below.
    levels = np.rint(np.arange(17) * 255 / 16).astype(int)
    assert np.unique(data.train.image).tolist() == levels.tolist()
    again = load("digits")
    np.testing.assert_array_equal(data.train.image, again.train.image)
    assert np.bincount(data.train.label[: data.train.size // 2]).min() > 50


def test_heldout_fraction():
    data = load("mnist5k", heldout_fraction=0.5)
    assert np.bincount(data.heldout.label).tolist() == [250] * 10


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1e-6])
def test_a_useless_heldout_fraction_is_refused(fraction):
    with pytest.raises(
        InputError, match=r"heldout fraction .* --config.data.heldout_f"
    ):
        load("digits", heldout_fraction=fraction)


def test_an_unknown_name_lists_the_known_ones():
    known = "cifar10, cifar100, cifar100_coarse, digits, folder, mnist5k, npz, tfds"
    shown = known.replace("folder", "folder[:SIZE]").replace("tfds", "tfds:BUILDER")
    for name in ("cifar1", "", ":digits"):
        with pytest.raises(InputError) as caught:
            load(name)
        assert str(caught.value).startswith(
            f"unknown data set {name!r}: set --config.data.name to one of {shown}, stream:"
        )
    assert ", ".join(sorted(SOURCES)) == known


def test_an_option_where_none_is_taken_is_refused():
    for name in ("digits:8", "npz:"):
        with pytest.raises(InputError, match=f"'{name}': .* --config.data.name="):
            load(name)


def test_a_folder_that_is_not_read_is_refused():
    """Somebody's images, where the name of their kind was forgotten."""
    message = r"'digits' comes with .* 'mine.npz' is given, .* set --config.data.name"
    with pytest.raises(InputError, match=message):
        load("digits", "mine.npz")


def test_importing_the_package_imports_no_data_library():
    libraries = {"sklearn", "mlxtend", "tensorflow", "tensorflow_datasets"}
    code = (
        f"import sys, skillearn_jax.data;sys.exit(bool({libraries} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["cifar10", "folder", "npz"])
def test_what_the_system_does_not_let_read_is_refused(name):
    """As a folder of somebody else's, which the tests may read: they may run as root."""
    path = 300 * "a"  # longer than a name may be
    with pytest.raises(
        InputError, match=r"cannot be read \(.*\): set --config.data.dir"
    ):
        load(name, path)
