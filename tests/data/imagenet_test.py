"""ImageNet from its two tars, small and in their true format, through both pipelines."""

import io
import tarfile

import numpy as np
import pytest

from skillearn_jax.data.prepare import FORMATS, main
from skillearn_jax.data.records import Reading
from skillearn_jax.data.streaming import open_streaming
from skillearn_jax.data.subset import read_subset
from skillearn_jax.errors import InputError

SYNSETS = {"n01440764": 0, "n02690373": 404, "n15075141": 999}  # sorted as the labels
PER_CLASS, HELDOUT = 7, 11
FIRST_VALIDATION_LABELS = (65, 970, 230, 809, 516)


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def archives(tmp_path_factory, photo):
    """The tar of the training images holds one tar for each class."""
    folder = tmp_path_factory.mktemp("archives")
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as whole:
        for synset, label in SYNSETS.items():
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as tar:
                for i in range(PER_CLASS):
                    add(tar, f"{synset}_{i}.JPEG", photo(label + i))
            add(whole, f"{synset}.tar", stream.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for i in reversed(range(HELDOUT)):
            add(tar, f"ILSVRC2012_val_{i + 1:08}.JPEG", photo(5000 + i))
    with tarfile.open(folder / "ILSVRC2012_img_test.tar", "w") as tar:
        for i in range(2):
            add(tar, f"ILSVRC2012_test_{i + 1:08}.JPEG", photo(6000 + i))
    return folder


@pytest.fixture(scope="module")
def prepared(archives, tmp_path_factory):
    """The folders of both formats, written by the command."""
    pytest.importorskip("tensorflow", reason='it needs pip install -e ".[tf]"')
    pytest.importorskip("grain", reason="grain is not installed")
    folders = {}
    for file_format in FORMATS:
        folders[file_format] = tmp_path_factory.mktemp(file_format)
        flags = ["--name=imagenet2012", f"--archives={archives}"]
        flags += [f"--data_dir={folders[file_format]}", f"--file_format={file_format}"]
        assert main(flags) == 0
    return folders


def opened(folder, **changes):
    sizes = {"image_size": 16, "shorter_side": 20, "batch_size": 7, **changes}
    return open_streaming(Reading("imagenet2012", str(folder), **sizes))


def test_the_tars_are_read_back_through_both_pipelines(prepared):
    whole = {}
    for file_format, folder in prepared.items():
        data = opened(folder)
        assert (data.num_classes, data.num_train, data.num_heldout) == (1000, 21, 11)
        epoch = [next(data.reader.train(step)) for step in range(3)]
        names = [name for batch in epoch for name in batch.name]
        assert sorted(names) == sorted(
            f"{synset}_{i}.JPEG" for synset in SYNSETS for i in range(PER_CLASS)
        )
        labels = np.concatenate([batch.label for batch in epoch])
        assert [SYNSETS[name.split("_")[0]] for name in names] == labels.tolist()
        heldout = list(data.reader.heldout())
        by_name = {
            name: (label, image)
            for batch in heldout
            for name, label, image in zip(
                batch.name, batch.label, batch.image, strict=True
            )
        }
        first = [by_name[f"ILSVRC2012_val_{i + 1:08}.JPEG"][0] for i in range(5)]
        assert tuple(first) == FIRST_VALIDATION_LABELS
        assert all(batch.intact.all() for batch in (*epoch, *heldout))
        whole[file_format] = by_name
    for name, (label, image) in whole["tfrecord"].items():
        other_label, other = whole["array_record"][name]
        assert label == other_label
        assert np.abs(image.astype(int) - other).max() <= 1


def test_a_set_without_all_its_classes_gives_no_balanced_part(prepared):
    with pytest.raises(InputError, match=r"class 1 of imagenet2012 .* has 0 images"):
        read_subset(opened(prepared["array_record"]), 2)


def test_a_split_without_labels_is_refused(prepared):
    for folder in prepared.values():
        data = opened(folder, heldout_split="test")
        with pytest.raises(
            InputError, match=r"split test .* the label -1, .* to 999: s"
        ):
            next(data.eval_batches())
        data = opened(folder, train_split="test", batch_size=2)
        with pytest.raises(InputError, match=r"-1, .*--config.data.stream.train_split"):
            read_subset(data, 1)


def test_a_missing_tar_is_one_line(archives, tmp_path, capsys):
    pytest.importorskip("tensorflow", reason='it needs pip install -e ".[tf]"')
    (tmp_path / "ILSVRC2012_img_train.tar").symlink_to(
        archives / "ILSVRC2012_img_train.tar"
    )
    flags = ["--name=imagenet2012", f"--archives={tmp_path}"]
    assert main([*flags, f"--data_dir={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ILSVRC2012_img_val.tar" in line
    assert "--archives" in line
