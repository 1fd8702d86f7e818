import hashlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from skillearn_jax.data import load
from skillearn_jax.data.prepare import FORMATS, main, prepare
from skillearn_jax.errors import InputError


@pytest.fixture
def tensorflow():
    return pytest.importorskip("tensorflow", reason='it needs pip install -e ".[tf]"')


@pytest.fixture
def official(standin, monkeypatch):
    """Returns `make(name)`, an archive that the official builder takes for its own."""

    def make(name):
        tfds.disable_progress_bar()
        made = standin(f"{name.replace('cifar', 'cifar-')}-binary.tar.gz")
        builder = tfds.image_classification.cifar
        builder = {"cifar10": builder.Cifar10, "cifar100": builder.Cifar100}[name]
        (url,) = builder.url_infos
        content = made.file.read_bytes()
        info = tfds.core.download.checksums.UrlInfo(
            size=tfds.core.utils.Size(len(content)),
            checksum=hashlib.sha256(content).hexdigest(),
            filename=made.file.name,
        )
        monkeypatch.setattr(builder, "url_infos", {url: info})
        return made

    return make


def rows(examples):
    pairs = zip(np.asarray(examples.image), examples.label.tolist(), strict=True)
    return sorted((image.tobytes(), label) for image, label in pairs)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_official_builder_runs(tensorflow, official, tmp_path, capsys, file_format):
    archive = official("cifar10")
    target = tmp_path / "tfds"
    flags = [f"--archives={archive.file.parent}", f"--data_dir={target}"]
    flags += ["--name=cifar10", f"--file_format={file_format}"]
    assert main(flags) == 0
    version = target / "cifar10" / "3.0.2"
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"cifar10 is in {version}: set --config.data.dir={target}"
    # Nothing of the download and of the unpacked archive is left.
    assert [path.name for path in target.iterdir()] == ["cifar10"]
    data = load("cifar10", str(target))
    assert (data.name, data.num_classes) == ("cifar10 (tfds 3.0.2)", 10)
    direct = load("cifar10", str(archive.file))
    assert rows(data.train) == rows(direct.train)
    assert rows(data.heldout) == rows(direct.heldout)
    # A second time it is there already.
    archive.file.unlink()
    assert main(flags) == 0


def test_the_two_label_sets_of_cifar100(tensorflow, official, tmp_path):
    archive = official("cifar100")
    prepare("cifar100", str(archive.file.parent), str(tmp_path / "tfds"))
    for name in ("cifar100", "cifar100_coarse"):
        data = load(name, str(tmp_path / "tfds"))
        direct = load(name, str(archive.file))
        assert data.num_classes == direct.num_classes
        assert rows(data.train) == rows(direct.train)


def refused(*args):
    with pytest.raises(InputError) as caught:
        prepare(*map(str, args))
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_missing_and_wrong_archives(tensorflow, official, tmp_path):
    file = official("cifar10").file
    line = refused("cifar10", tmp_path / "nowhere", tmp_path / "out")
    assert line == f"{tmp_path / 'nowhere'} is not a folder: set --archives"
    file.write_bytes(file.read_bytes()[:-1])
    line = refused("cifar10", tmp_path, tmp_path / "out")
    assert f"{file} is not the official archive, or is incomplete" in line
    assert line.endswith("set --archives")
    file.unlink()
    line = refused("cifar10", tmp_path, tmp_path / "out")
    assert f"{file} is missing: get it from https://" in line
    assert not (tmp_path / "out").exists()


def test_what_tfds_cannot_prepare(tensorflow, tmp_path):
    line = refused("imagenet2012", tmp_path, tmp_path / "out")
    assert "TFDS cannot prepare imagenet2012" in line
    assert "--archives" in line
    line = refused("caltech_birds2010", tmp_path, tmp_path / "out")
    assert "from the network only" in line
    assert "TFDS cannot prepare cifar10/x" in refused("cifar10/x", tmp_path, tmp_path)


def test_another_format_is_not_mixed_in(tmp_path):
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    info = version / "dataset_info.json"
    info.write_text('{"fileFormat": "tfrecord"}', encoding="utf-8")
    line = refused("cifar10", tmp_path, tmp_path)
    assert f"{version} is there already, as tfrecord: set --file_format" in line
    assert prepare("cifar10", str(tmp_path), str(tmp_path), "tfrecord") == version


def test_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # no import succeeds
    line = refused("cifar10", tmp_path, tmp_path)
    assert line == 'TensorFlow is needed to prepare cifar10: pip install -e ".[tf]"'


def test_a_folder_that_cannot_be_made_is_named_with_its_flag(tmp_path, monkeypatch):
    monkeypatch.setattr("skillearn_jax.data.prepare.tensorflow", lambda *_: None)
    builder = SimpleNamespace(url_infos={})
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: builder)
    target = tmp_path / "file" / "tfds"
    target.parent.write_text("")
    line = refused("cifar10", tmp_path, target)
    assert line == f"cannot write the folder {target} (Not a directory): set --data_dir"


def test_mistakes_exit_with_2(tmp_path, capsys):
    where = [f"--archives={tmp_path}", f"--data_dir={tmp_path}"]
    assert main(["--name=cifar1", *where]) == 2
    error = capsys.readouterr().err
    assert error == "prepare: unknown TFDS builder 'cifar1': set --name\n"
    assert main(["--name=hf:mnist", *where]) == 2
    assert "'hf:mnist' is no TFDS builder" in capsys.readouterr().err
    parquet = ["--name=cifar10", "--file_format=parquet", *where]
    for flags in ([], ["--name=cifar10"], ["--nam=cifar10", *where], parquet):
        with pytest.raises(SystemExit) as caught:
            main(flags)
        assert caught.value.code == 2


def test_help_as_a_module():
    command = [sys.executable, "-W", "error", "-m", "skillearn_jax.data.prepare"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "--file_format {array_record,tfrecord}" in done.stdout
