"""On real images that lie outside the repository, where `SKILLEARN_DATA` says."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.data import load

NUM_TRAIN, NUM_HELDOUT = 160, 40


@pytest.fixture(scope="module")
def folder():
    folder = os.environ.get("SKILLEARN_DATA", "")
    if not folder:
        pytest.skip("SKILLEARN_DATA names no folder of real data")
    return pathlib.Path(folder)


def existing(file):
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    return file


def decoded(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def jpegs(folder):
    """The first training and test images of CIFAR-10 as `{split: [(bytes, label)]}`."""
    with np.load(existing(folder / "cifar10_jpegpack.npz")) as pack:
        header, body, offsets = pack["header"].tobytes(), pack["body"], pack["offsets"]
        labels = {"train": pack["train_labels"], "test": pack["test_labels"]}
    chosen = {"train": (0, NUM_TRAIN), "test": (50000, NUM_HELDOUT)}
    return {
        split: [
            (
                header + body[offsets[first + i] : offsets[first + i + 1]].tobytes(),
                int(labels[split][i]),
            )
            for i in range(count)
        ]
        for split, (first, count) in chosen.items()
    }


def rows(pairs):
    return sorted((image.tobytes(), int(label)) for image, label in pairs)


def assert_holds(data, jpegs):
    for examples, split in ((data.train, "train"), (data.heldout, "test")):
        expected = [(decoded(content), label) for content, label in jpegs[split]]
        pairs = zip(np.asarray(examples.image), examples.label, strict=True)
        assert rows(pairs) == rows(expected)


def test_cifar10_as_a_folder(jpegs, tmp_path):
    for split, images in jpegs.items():
        for i, (content, label) in enumerate(images):
            file = tmp_path / split / str(label) / f"{i:03}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    data = load("folder", str(tmp_path))
    assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
    assert_holds(data, jpegs)


def test_cifar10_as_a_tfds_directory(jpegs, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()

    class Cifar10Jpeg(tfds.core.GeneratorBasedBuilder):
        """CIFAR-10 of JPEG files."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in jpegs}

        def _generate_examples(self, split):
            for i, (content, label) in enumerate(jpegs[split]):
                yield i, {"image": content, "label": label}

    Cifar10Jpeg(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert_holds(load("tfds:cifar10_jpeg", str(tmp_path)), jpegs)


def test_cifar100_pixels_through_npz(folder):
    file = existing(folder / "cifar100_lossless_small.npz")
    data = load("npz", str(file))
    assert (data.num_classes, data.image_shape) == (100, (32, 32, 3))
    assert (data.train.size, data.heldout.size) == (1117, 916)
    with np.load(file) as arrays:
        for examples, split in ((data.train, "train"), (data.heldout, "test")):
            np.testing.assert_array_equal(examples.image, arrays[f"{split}_images"])
            np.testing.assert_array_equal(examples.label, arrays[f"{split}_labels"])
