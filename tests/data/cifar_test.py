import dataclasses
import pickle
import tarfile

import numpy as np
import pytest

from skillearn_jax.data import cifar, load
from skillearn_jax.data.cifar import ARCHIVES
from skillearn_jax.errors import InputError

NAMES = {
    "cifar10": ("cifar-10", "labels", 10),
    "cifar100": ("cifar-100", "fine_labels", 100),
    "cifar100_coarse": ("cifar-100", "coarse_labels", 20),
}


@pytest.mark.parametrize("kind", ["binary", "python"])
@pytest.mark.parametrize("name", NAMES)
def test_an_archive_comes_back_in_its_order(standin, name, kind):
    stem, key, num_classes = NAMES[name]
    made = standin(f"{stem}-{kind}.tar.gz")
    data = load(name, str(made.file.parent))
    assert data.name == f"{name} ({made.file.name})"
    assert (data.num_classes, data.image_shape) == (num_classes, (32, 32, 3))
    assert data.class_names == tuple(f"{key[:-1]}_{i}" for i in range(num_classes))
    for examples, part in [
        (data.train, slice(None, -20)),
        (data.heldout, slice(-20, None)),
    ]:
        # A record holds a plane of red, one of green, one of blue.
        planes = made.pixels[part].reshape(-1, 3, 1024)
        np.testing.assert_array_equal(
            examples.image.reshape(-1, 1024, 3), planes.swapaxes(1, 2)
        )
        np.testing.assert_array_equal(examples.label, made.labels[key][part])
        assert examples.image.flags.c_contiguous
    by_file = load(name, str(made.file))
    np.testing.assert_array_equal(by_file.train.image, data.train.image)
    assert sorted(p.name for p in made.file.parent.iterdir()) == [made.file.name]


def test_members_may_be_named_from_the_folder_that_was_packed(standin):
    made = standin("cifar-10-binary.tar.gz")
    before = load("cifar10", str(made.file))
    made.folder = f"./{made.folder}"
    made.rewrite()
    again = load("cifar10", str(made.file))
    np.testing.assert_array_equal(again.train.image, before.train.image)


def test_the_stand_in_is_what_numpy_itself_reads(standin):
    # The true unpickler agrees that the python stand-in is a batch of CIFAR.
    made = standin("cifar-10-python.tar.gz", 3)
    content = made.members["data_batch_2"]
    batch = pickle.loads(
        content.replace(b"numpy.core", b"numpy._core"), encoding="latin1"
    )
    np.testing.assert_array_equal(batch["data"], made.pixels[3:6])
    assert batch["labels"] == made.labels["labels"][3:6].tolist()
    names = pickle.loads(made.members["batches.meta"])
    assert names["label_names"][9] == "label_9"


def test_the_binary_archive_comes_first(standin):
    standin("cifar-10-python.tar.gz")
    made = standin("cifar-10-binary.tar.gz")
    (made.file.parent / "cifar10" / "3.0.2").mkdir(parents=True)
    assert load("cifar10", str(made.file.parent)).name.endswith("binary.tar.gz)")
    made.file.unlink()
    assert load("cifar10", str(made.file.parent)).name.endswith("python.tar.gz)")


def test_official_sizes():
    for file, layout in ARCHIVES.items():
        assert len(layout.sha256) == 64, file
        assert len(layout.train) * layout.sizes[0] == 50000
        assert layout.sizes[1] == 10000


def refused(name, path):
    with pytest.raises(InputError) as caught:
        load(name, str(path))
    line = str(caught.value)
    assert "\n" not in line
    assert "--config.data.dir" in line
    return line


def test_another_file_of_that_name_is_refused(standin, monkeypatch):
    made = standin("cifar-10-binary.tar.gz")
    wrong = dataclasses.replace(ARCHIVES[made.file.name], sha256="0" * 64)
    monkeypatch.setitem(cifar.ARCHIVES, made.file.name, wrong)
    assert f"{made.file} is not the official archive" in refused("cifar10", made.file)


def test_no_path_and_wrong_paths(tmp_path):
    assert "cifar10 needs a path" in refused("cifar10", "")
    assert f"{tmp_path} holds neither cifar-10-binary" in refused("cifar10", tmp_path)
    other = tmp_path / "cifar-100-binary.tar.gz"
    other.touch()
    assert f"{other} is not the file of an archive" in refused("cifar10", other)
    assert "is not the file" in refused("cifar10", tmp_path / "nowhere.tar.gz")


def test_a_truncated_archive(standin):
    made = standin("cifar-10-binary.tar.gz")
    content = made.file.read_bytes()
    for length in (0, 100, len(content) // 2):
        made.file.write_bytes(content[:length])
        made.register()
        assert "truncated, damaged or no .tar.gz" in refused("cifar10", made.file)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil"])
def test_a_member_that_points_outside(standin, name):
    made = standin("cifar-10-binary.tar.gz")
    made.rewrite(extra=[(name, b"evil")])
    assert f"{name!r} points outside" in refused("cifar10", made.file)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(standin, kind):
    made = standin("cifar-10-binary.tar.gz")
    info = tarfile.TarInfo(f"{made.folder}/data_batch_1.bin")
    info.type, info.linkname = kind, "/etc/passwd"
    made.rewrite({"data_batch_1.bin": None}, [(info, b"")])
    assert "is a link or a device" in refused("cifar10", made.file)


def test_wrong_members(standin):
    made = standin("cifar-10-binary.tar.gz")
    good = made.members["data_batch_2.bin"]
    for content, message in [
        (None, "lacks its member cifar-10-batches-bin/data_batch_2.bin"),
        (good + b"0", "61461 bytes; it must be a plain file of at most 61460"),
        (good[:-1], "member data_batch_2.bin: its 61459 bytes are no whole records"),
        (good[:-3073], "data_batch_2.bin: it holds 19 images; it must hold 20"),
        (b"\x0a" + good[1:], "train label 10 is out of range: classes go from 0 to 9"),
    ]:
        made.rewrite({"data_batch_2.bin": content})
        assert message in refused("cifar10", made.file)
    made.rewrite({"batches.meta.txt": None})
    assert "lacks its member cifar-10-batches-bin/batches.meta.txt" in refused(
        "cifar10", made.file
    )
    made.rewrite({"batches.meta.txt": b"airplane\n"})
    assert "there must be 10, one for each class" in refused("cifar10", made.file)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_executes_nothing(standin, capsys):
    made = standin("cifar-100-python.tar.gz")
    evil = pickle.dumps({"data": Evil()}, protocol=2)
    made.rewrite({"train": evil})
    line = refused("cifar100", made.file)
    assert "member train: its pickle asks for '__builtin__.print'" in line
    assert capsys.readouterr().out == ""


def test_wrong_pickles(standin):
    made = standin("cifar-100-python.tar.gz")
    good = made.members["train"]
    first, second = (b"](K%c" % column[0] for column in made.labels.values())
    for content, message in [
        (good[:1000], "no batch of CIFAR"),
        (b"", "no batch of CIFAR"),
        (pickle.dumps([1], protocol=2), "no batch of CIFAR"),
        (pickle.dumps({"data": 1}, protocol=2), "no batch of CIFAR"),
        (good.replace(b"fine_labels", b"fine_labelz"), "no batch of CIFAR"),
        (good.replace(b"U\x02u1", b"U\x02f1"), "dtype 'f1'; it must be 'u1'"),
        (good.replace(b"tb\x89", b"tb\x88"), "in C order"),
        (good.replace(b"J\x14\0\0\0", b"J\x28\0\0\0"), "no batch of CIFAR"),
        (
            good.replace(b"J\x14\0\0\0J\0\x0c\0\0", b"J\0\x0c\0\0J\x14\0\0\0"),
            "[3072, 20]",
        ),
        (made.members["test"][:-1] + b"0", "no batch of CIFAR"),
        (good.replace(first, b"](", 1).replace(second, b"](", 1), "[20, 3072] and"),
        (
            good.replace(first, b"](G" + bytes(8), 1),
            "train labels must be [20] integers",
        ),
    ]:
        made.rewrite({"train": content})
        assert message in refused("cifar100", made.file), message
    for names in (b"", pickle.dumps({}), pickle.dumps({"fine_label_names": [1] * 100})):
        made.rewrite({"meta": names})
        line = refused("cifar100", made.file)
        assert "member meta: no names of CIFAR's classes" in line
