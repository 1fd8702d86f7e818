import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from skillearn_jax.data import load
from skillearn_jax.data.tfds import _splits
from skillearn_jax.data.tfds_folder import find_version
from skillearn_jax.errors import InputError

SIZES = {"train": 9, "test": 4}


def pixels(split, index):
    rng = np.random.default_rng(100 * len(split) + index)
    return rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """A user's own builder, which needs no TensorFlow: it hands over encoded images."""

    VERSION = tfds.core.Version("1.0.0")
    features: ClassVar = {
        "image": tfds.features.Image(shape=(6, 5, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
        "coarse_label": tfds.features.ClassLabel(num_classes=2),
    }
    sizes: ClassVar = SIZES

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.features)
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.sizes}

    def _generate_examples(self, split):
        for i in range(self.sizes[split]):
            example = {
                "image": png(self.draw(split, i)),
                "label": i % 3,
                "coarse_label": i % 2,
            }
            yield i, {key: example[key] for key in self.features}

    def draw(self, split, index):
        return pixels(split, index)


class OddSizes(TinyImages):
    """Images of several sizes."""

    features: ClassVar = {**TinyImages.features, "image": tfds.features.Image()}

    def draw(self, split, index):
        return pixels(split, index)[: 3 + index % 2]


class NoLabels(TinyImages):
    """Images alone."""

    features: ClassVar = {"image": tfds.features.Image(shape=(6, 5, 3))}


class ManyImages(TinyImages):
    """More than one batch of TFDS's parquet writer, 100 examples."""

    sizes: ClassVar = {"train": 250, "test": 4}


class OnlyTrain(TinyImages):
    """No split to hold out."""

    sizes: ClassVar = {"train": 3}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    tfds.disable_progress_bar()


def prepare(builder, data_dir, file_format="array_record"):
    builder(data_dir=data_dir, file_format=file_format).download_and_prepare()
    return str(data_dir)


def rows(examples):
    """Returns image and label of each example, in an order of their own."""
    pairs = zip(np.asarray(examples.image), examples.label.tolist(), strict=True)
    return sorted((image.tobytes(), label) for image, label in pairs)


def expected_rows(split, classes=3):
    return sorted(
        (pixels(split, i).tobytes(), i % classes) for i in range(SIZES[split])
    )


def refused(name, data_dir, flag="--config.data.dir"):
    with pytest.raises(InputError) as caught:
        load(name, str(data_dir))
    line = str(caught.value)
    assert "\n" not in line
    assert flag in line
    return line


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_own_builder_comes_back(tmp_path, file_format):
    data = load("tfds:tiny_images", prepare(TinyImages, tmp_path, file_format))
    assert data.name == "tiny_images (tfds 1.0.0)"
    assert (data.num_classes, data.image_shape) == (3, (6, 5, 3))
    assert rows(data.train) == expected_rows("train")
    assert rows(data.heldout) == expected_rows("test")
    again = load("tfds:tiny_images", str(tmp_path))
    np.testing.assert_array_equal(again.train.image, data.train.image)


# A process that does not know the builder's code, nor TensorFlow where that is absent.
FRESH = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        found = super().find_spec(name, *args)
        return None if name == "tensorflow" else found

if sys.argv[2] == "absent":
    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from skillearn_jax.data import load
from skillearn_jax.errors import InputError
try:
    size = load("tfds:tiny_images", sys.argv[1]).train.size
    print(size, "tensorflow" in sys.modules)
except InputError as error:
    print(error)
"""


def load_afresh(data_dir, tensorflow):
    return subprocess.run(
        [sys.executable, "-c", FRESH, str(data_dir), tensorflow],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("file_format", "tensorflow"),
    [("array_record", "absent"), ("array_record", "there"), ("parquet", "absent")],
)
def test_reading_does_without_tensorflow(tmp_path, file_format, tensorflow):
    prepare(TinyImages, tmp_path, file_format)
    # Where it is installed it is not imported: it would take the memory of the GPUs.
    assert load_afresh(tmp_path, tensorflow) == "9 False\n"


def test_tfrecord_needs_tensorflow_and_says_so(tmp_path):
    prepare(TinyImages, tmp_path)
    info = tmp_path / "tiny_images" / "1.0.0" / "dataset_info.json"
    text = info.read_text(encoding="utf-8")
    info.write_text(text.replace("array_record", "tfrecord"), encoding="utf-8")
    line = load_afresh(tmp_path, "absent")
    expected = 'TensorFlow is needed to read tfrecord files: pip install -e ".[tf]"\n'
    assert line == expected


def test_the_highest_version_is_read(tmp_path):
    prepare(TinyImages, tmp_path)
    old = tmp_path / "tiny_images" / "0.9.0"
    old.mkdir()
    (old / "dataset_info.json").touch()
    (tmp_path / "tiny_images" / "2.0.0.incomplete").mkdir()
    assert load("tfds:tiny_images", str(tmp_path)).name.endswith("1.0.0)")


@pytest.mark.parametrize(
    ("splits", "heldout"),
    [
        (("train", "validation", "test"), "test"),
        (("validation", "train"), "validation"),
    ],
)
def test_held_out_is_what_is_called_test_if_anything_is(splits, heldout):
    info = SimpleNamespace(splits=splits)
    assert _splits(Path("mine"), info) == ("train", heldout)


def test_versions_are_ordered_by_their_numbers(tmp_path):
    for version in ("9.0.0", "10.2.0", "10.10.0", "11.0.0.incomplete"):
        (tmp_path / "mine" / version).mkdir(parents=True)
        (tmp_path / "mine" / version / "dataset_info.json").touch()
    (tmp_path / "mine" / "12.0.0").mkdir()  # of which nothing is there yet
    assert find_version("mine", str(tmp_path)).name == "10.10.0"
    assert find_version("yours", str(tmp_path)) is None


def test_cifar100_coarse_reads_the_coarse_labels(tmp_path):
    prepare(TinyImages, tmp_path)
    (tmp_path / "tiny_images").rename(tmp_path / "cifar100")
    for file in (tmp_path / "cifar100" / "1.0.0").iterdir():
        content = file.read_bytes()
        if file.suffix == ".json":
            content = content.replace(b"tiny_images", b"cifar100")
        file.unlink()
        renamed = file.with_name(file.name.replace("tiny_images", "cifar100"))
        renamed.write_bytes(content)
    fine, coarse = (load(f"cifar100{x}", str(tmp_path)) for x in ("", "_coarse"))
    assert (fine.num_classes, coarse.num_classes) == (3, 2)
    assert rows(coarse.train) == expected_rows("train", classes=2)


def test_all_formats_hold_the_same(tmp_path):
    tf = pytest.importorskip("tensorflow", reason='it needs pip install -e ".[tf]"')
    for file_format in ("tfrecord", "array_record"):
        folder = tmp_path / file_format
        data = load("tfds:tiny_images", prepare(TinyImages, folder, file_format))
        assert rows(data.train) == expected_rows("train")
        assert rows(data.heldout) == expected_rows("test")
    assert tf.config.get_visible_devices("GPU") == []


def test_unknown_and_unprepared_builders(tmp_path):
    line = refused("tfds:mnits", tmp_path, "--config.data.name")
    assert "unknown TFDS builder 'mnits'" in line
    line = refused("tfds:mnist", tmp_path)
    assert f"'mnist' is not prepared in {tmp_path}" in line
    command = "python -m skillearn_jax.data.prepare --name=mnist --archives=DIR"
    assert f"{command} --data_dir={tmp_path}" in line
    assert "tfds:mnist needs the folder" in refused("tfds:mnist", "")


@pytest.mark.parametrize("name", ["tfds", "tfds:", "tfds:hf:mnist", "tfds:../x"])
def test_a_malformed_name(tmp_path, name):
    assert "is no TFDS builder" in refused(name, tmp_path, "--config.data.name")


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (OddSizes, r"images of \[3, 5, 3\] and of \[4, 5, 3\]|\[4, 5, 3\] and of \[3"),
        (NoLabels, r"has the features image; .* a ClassLabel 'label'"),
        (OnlyTrain, r"has the splits train; it must have train, and test or valid"),
    ],
)
def test_unfit_builders(tmp_path, builder, message):
    prepare(builder, tmp_path)
    name = builder.name
    with pytest.raises(InputError, match=message) as caught:
        load(f"tfds:{name}", str(tmp_path))
    assert "--config.data.name" in str(caught.value)


def test_damaged_folders(tmp_path):
    prepare(TinyImages, tmp_path)
    folder = tmp_path / "tiny_images" / "1.0.0"
    features = folder / "features.json"
    good = features.read_text(encoding="utf-8")
    for content in ("", "[]", "{}", good[:100]):
        features.write_text(content, encoding="utf-8")
        assert f"{folder} is damaged" in refused("tfds:tiny_images", tmp_path)
    features.write_text(good, encoding="utf-8")
    records = folder / "tiny_images-train.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[:-100])
    assert f"{folder} is damaged" in refused("tfds:tiny_images", tmp_path)
    records.unlink()
    assert f"{folder} is damaged" in refused("tfds:tiny_images", tmp_path)


def test_what_the_parquet_writer_loses_is_missed(tmp_path):
    # When this fails, TFDS has been repaired: let `prepare` offer the format.
    prepare(ManyImages, tmp_path, "parquet")
    line = refused("tfds:many_images", tmp_path)
    assert "holds 150 of the 250 examples of its split train" in line
    whole = prepare(ManyImages, tmp_path / "whole")
    assert load("tfds:many_images", whole).train.size == 250


def test_features_import_no_foreign_code(tmp_path):
    prepare(TinyImages, tmp_path)
    file = tmp_path / "tiny_images" / "1.0.0" / "features.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    label = tree["featuresDict"]["features"]["label"]
    label["pythonClassName"] = "antigravity.Label"
    file.write_text(json.dumps(tree), encoding="utf-8")
    line = refused("tfds:tiny_images", tmp_path)
    assert "names the class 'antigravity.Label', which is none of TFDS" in line
    assert "antigravity" not in sys.modules
