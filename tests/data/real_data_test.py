"""On real images that lie outside the repository, where `SKILLEARN_DATA` says."""

import io
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.data import load
from skillearn_jax.train import default_config, run


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


def packed(folder, counts):
    """Returns the first images of CIFAR-10 as `{split: [(bytes, label)]}`."""
    with np.load(existing(folder / "cifar10_jpegpack.npz")) as pack:
        header, body, offsets = pack["header"].tobytes(), pack["body"], pack["offsets"]
        labels = {"train": pack["train_labels"], "test": pack["test_labels"]}
    first = {"train": 0, "test": 50000}
    return {
        split: [
            (
                header + body[slice(*offsets[at : at + 2])].tobytes(),
                int(labels[split][at - first[split]]),
            )
            for at in range(first[split], first[split] + count)
        ]
        for split, count in counts.items()
    }


@pytest.fixture(scope="module")
def jpegs(folder):
    return packed(folder, {"train": 320, "test": 40})


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


def write_tfds(folder, jpegs):
    """Writes the images as the TFDS data set `cifar10_jpeg`."""
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()

    class Cifar10Jpeg(tfds.core.GeneratorBasedBuilder, skip_registration=True):
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

    Cifar10Jpeg(data_dir=folder, file_format="array_record").download_and_prepare()


def search_some_steps(folder, workdir):
    """Returns the losses of five steps on 80 of the images in a TFDS directory."""
    values = default_config()
    values.update_from_flattened_dict(
        {
            "skill": "baseline",
            "hypergrad.adjoint": "first_order",
            "data.name": "tfds:cifar10_jpeg",
            "data.dir": str(folder),
            "data.per_class": (8, 2),
            "data.batch_size": 16,
            "data.padding": 4,
            "data.flip": True,
            "space.num_nodes": 1,
            "search.cells": 1,
            "search.channels": 2,
            "search.epochs": 1,
            "search.warmup_epochs": 0,
            "evaluation.epochs": 0,
            "parallel.devices": 1,
        }
    )
    run(values, workdir, quiet=True)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["learner/loss"] for row in rows if "learner/loss" in row]


@pytest.mark.usefixtures("quick_compilation")
def test_cifar10_as_a_tfds_directory_is_searched_on(jpegs, tmp_path):
    write_tfds(tmp_path / "tfds", jpegs)
    assert_holds(load("tfds:cifar10_jpeg", str(tmp_path / "tfds")), jpegs)
    losses = search_some_steps(tmp_path / "tfds", tmp_path / "run")
    assert len(losses) == 5
    assert all(0.5 < loss < 10 for loss in losses)


@pytest.mark.long
@pytest.mark.usefixtures("quick_compilation")
def test_all_of_cifar10_is_written_once_and_searched_on(folder, tmp_path):
    write_tfds(tmp_path / "tfds", packed(folder, {"train": 50000, "test": 10000}))
    data = load("tfds:cifar10_jpeg", str(tmp_path / "tfds"))
    assert (data.num_train, data.num_heldout) == (50000, 10000)
    assert np.bincount(data.train.label).tolist() == [5000] * 10
    assert np.bincount(data.heldout.label).tolist() == [1000] * 10
    assert len(search_some_steps(tmp_path / "tfds", tmp_path / "run")) == 5


def test_cifar100_pixels_through_npz(folder):
    file = existing(folder / "cifar100_lossless_small.npz")
    data = load("npz", str(file))
    assert (data.num_classes, data.image_shape) == (100, (32, 32, 3))
    assert (data.train.size, data.heldout.size) == (1117, 916)
    with np.load(file) as arrays:
        for examples, split in ((data.train, "train"), (data.heldout, "test")):
            np.testing.assert_array_equal(examples.image, arrays[f"{split}_images"])
            np.testing.assert_array_equal(examples.label, arrays[f"{split}_labels"])
