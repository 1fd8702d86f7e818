import io
import zipfile

import numpy as np
import pytest

from skillearn_jax.data import load
from skillearn_jax.data.npz import KEYS
from skillearn_jax.errors import InputError


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(9) % 3
    return dict(zip(KEYS, (pixels, labels, pixels[:3], labels[:3]), strict=True))


def test_arrays_come_back(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays())
    data = load("npz", str(tmp_path / "mine.npz"))
    assert (data.name, data.num_classes, data.heldout.size) == ("mine", 3, 3)
    assert data.class_names == ()
    np.testing.assert_array_equal(data.train.image, arrays()["train_images"])


def test_classes_may_have_names(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays(), class_names=("ant", "bee", "Käfer"))
    data = load("npz", str(tmp_path / "mine.npz"))
    assert data.class_names == ("ant", "bee", "Käfer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, "lacks test_labels"),
        (
            {"class_names": ("ant", "bee")},
            r"class_names=\['ant', 'bee'\]; there must be 3",
        ),
        (
            {"class_names": (1, 2, 3)},
            r"class_names must be a row of texts, .* \[3\] int",
        ),
        ({"class_names": (("a", "b", "c"),)}, r"class_names must be a row .* \[1, 3\]"),
        ({"train_images": np.zeros((9, 4, 4, 3))}, "train images must be .* float64"),
        ({"train_images": np.zeros((9, 4), np.uint8)}, r"train images .* \[9, 4\]"),
        ({"train_labels": np.zeros(8, int)}, r"train labels must be \[9\]"),
        ({"test_labels": np.full(3, 5)}, "heldout label 5 is out of range"),
        ({"train_labels": np.arange(9) % 3 + 1}, "no train label is 0, .* from 0"),
        ({"train_labels": np.arange(9) % 2 * 2}, "no train label is 1, .* gaps"),
        ({"test_labels": np.array([{}, 1, 2])}, "Python objects"),
    ],
)
def test_wrong_contents_are_named_in_one_line(tmp_path, change, message):
    contents = {k: v for k, v in {**arrays(), **change}.items() if v is not None}
    file = tmp_path / "mine.npz"
    np.savez(file, **contents)
    with pytest.raises(InputError, match=f"{file}.*{message}") as caught:
        load("npz", str(file))
    assert "--config.data.dir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_wrong_file_and_damaged_file(tmp_path):
    with pytest.raises(InputError, match=r"needs a file: set --config.data.dir"):
        load("npz")
    with pytest.raises(InputError, match=r"nowhere.npz is not a file"):
        load("npz", str(tmp_path / "nowhere.npz"))
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    with pytest.raises(InputError, match=r"text.npz is not an .npz archive"):
        load("npz", str(text))
    damaged = tmp_path / "damaged.npz"
    np.savez(damaged, **arrays())
    content = bytearray(damaged.read_bytes())
    content[200:260] = bytes(60)
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged.npz is damaged"):
        load("npz", str(damaged))


def rewritten(file, **members):
    """Writes an archive with other contents for some members, as no NumPy does."""
    np.savez(file, **arrays())
    with zipfile.ZipFile(file) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**kept, **members}.items():
            archive.writestr(name, content)
    return str(file)


def test_a_member_that_is_no_array_is_refused(tmp_path):
    file = rewritten(tmp_path / "mine.npz", class_names=b"ant\nbee\ncat")
    with pytest.raises(InputError, match=r"class_names must be a row of texts.* \|S11"):
        load("npz", file)


def test_what_memory_cannot_hold_is_refused(tmp_path):
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**15, 9, 9, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    members = {"train_images.npy": header.getvalue()}
    file = rewritten(tmp_path / "mine.npz", **members)
    with pytest.raises(
        InputError, match=r"not fit into .*--config\.data\.dir"
    ) as caught:
        load("npz", file)
    assert "\n" not in str(caught.value)
