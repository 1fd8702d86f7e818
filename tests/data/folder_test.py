import pathlib

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.data import load
from skillearn_jax.data.folder import UNREADABLE_LIMIT
from skillearn_jax.errors import InputError

CLASSES = {"train": {"cat": 3, "ant": 2}, "test": {"cat": 1, "ant": 1}}


def pixels(seed, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two classes of 6x5 images; the seed of an image is its number in its class."""
    root = tmp_path / "pets"
    for split, classes in CLASSES.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels(i)).save(folder / f"{i}.png")
    return root


def test_classes_and_images_are_sorted(root, monkeypatch):
    def backwards(folder, iterdir=pathlib.Path.iterdir):
        return sorted(iterdir(folder), reverse=True)  # as a file system may

    monkeypatch.setattr(pathlib.Path, "iterdir", backwards)
    data = load("folder", str(root))
    assert (data.name, data.num_classes, data.image_shape) == ("pets", 2, (6, 5, 3))
    assert data.class_names == ("ant", "cat")
    assert data.train.label.tolist() == [0, 0, 1, 1, 1]
    assert data.heldout.label.tolist() == [0, 1]
    expected = np.stack([pixels(i) for i in (0, 1, 0, 1, 2)])
    np.testing.assert_array_equal(data.train.image, expected)


def test_the_first_image_or_the_option_gives_the_size(root):
    Image.fromarray(pixels(7, (20, 30))).save(root / "train" / "cat" / "9.JPG")
    data = load("folder", str(root))
    assert (data.train.size, data.image_shape) == (6, (6, 5, 3))
    assert load("folder:8", str(root)).image_shape == (8, 8, 3)
    assert load("folder:4x7", str(root)).image_shape == (4, 7, 3)


def test_a_size_that_is_asked_for_otherwise_is_read_once(root):
    Image.fromarray(pixels(7, (2, 2, 3))).save(root / "train" / "ant" / "!.png")
    direct = load("folder:6x5", str(root))
    asked = load("folder", str(root), size="6x5")
    np.testing.assert_array_equal(asked.train.image, direct.train.image)
    np.testing.assert_array_equal(asked.train.image[1], pixels(0))  # never 2x2
    assert load("folder:4", str(root), size="6x5").image_shape == (4, 4, 3)


def test_more_pixels_than_memory_are_refused(root, monkeypatch):
    pages = {"SC_PAGE_SIZE": 6 * 5 * 3, "SC_PHYS_PAGES": 5}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert load("folder", str(root)).train.size == 5
    pages["SC_PHYS_PAGES"] = 4
    line = refused(root, "--config.data.image_size")
    assert "5 images of 6x5 pixels take" in line


@pytest.mark.parametrize("size", ["0", "-1", "3x", "3x0", "a", "4x4x3", "10000"])
def test_a_wrong_size_is_refused(root, size):
    message = rf"image size '{size}' .*--config.data.name, as in folder:32"
    with pytest.raises(InputError, match=message):
        load(f"folder:{size}", str(root))


def test_other_files_are_left_aside(root):
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "notes.txt").touch()
    (root / "train" / "cat" / "notes.txt").touch()
    (root / "train" / "cat" / ".0.png").touch()
    (root / "train" / "cat" / "more.png").mkdir()
    assert load("folder", str(root)).train.size == 5


def test_unreadable_files_are_named_and_counted(root):
    (root / "train" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 file is left out, .*: train/ant/0.png"):
        load("folder", str(root))
    (root / "test" / "cat" / "5.jpg").touch()
    message = "2 files are left out, .*: train/ant/0.png, test/cat/5.jpg"
    with pytest.warns(UserWarning, match=message):
        data = load("folder", str(root))
    assert (data.train.size, data.heldout.size) == (4, 2)


def refused(root, flag="--config.data.dir"):
    with pytest.raises(InputError) as caught:
        load("folder", str(root))
    line = str(caught.value)
    assert "\n" not in line
    assert flag in line
    return line


def test_too_many_unreadable_files_stop_the_load(root):
    for i in range(UNREADABLE_LIMIT):
        (root / "train" / "cat" / f"x{i:02}.png").touch()
    with pytest.warns(UserWarning, match=f"{UNREADABLE_LIMIT} files are left out"):
        assert load("folder", str(root)).train.size == 5
    (root / "test" / "cat" / "y.png").touch()  # counted together
    line = refused(root)
    assert f"more than {UNREADABLE_LIMIT} files" in line
    assert "train/cat/x00.png" in line


def test_wrong_trees(root, tmp_path):
    assert "folder needs a path" in refused("")
    assert f"{tmp_path / 'train'} is not a folder" in refused(tmp_path)
    (root / "test" / "dog").mkdir()
    assert f"class {root / 'test' / 'dog'} holds no image" in refused(root)
    Image.fromarray(pixels(0)).save(root / "test" / "dog" / "0.png")
    assert f"{root / 'train'} lacks the class dog" in refused(root)
    (root / "test" / "dog").rename(root / "train" / "dog")
    assert f"{root / 'test'} lacks the class dog" in refused(root)
    for split in ("train", "test"):
        (tmp_path / "empty" / split).mkdir(parents=True)
    assert "holds no folder of a class" in refused(tmp_path / "empty")


def test_a_class_of_which_nothing_is_readable(root):
    (root / "test" / "cat" / "0.png").write_bytes(b"no image")
    line = refused(root)
    assert f"none of the images of class cat in {root / 'test' / 'cat'}" in line


def test_constant_images_are_refused(root):
    for file in root.rglob("*.png"):
        Image.new("RGB", (5, 6)).save(file)
    assert "channel 0 of the train images is constant" in refused(root)
