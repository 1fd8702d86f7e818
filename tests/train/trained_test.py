"""A trained network, loaded and exported and on the command line: the same predictions."""

import copy
import csv
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import skillearn_jax
from skillearn_jax import predict as predict_module
from skillearn_jax.data import folder as image_folder
from skillearn_jax.errors import InputError
from skillearn_jax.export import main as export_main
from skillearn_jax.export import to_stablehlo
from skillearn_jax.predict import main as predict_main
from skillearn_jax.predict import predict
from skillearn_jax.train import Trained, load, run
from skillearn_jax.train.judge import judge
from skillearn_jax.train.report import write_report
from skillearn_jax.train.trained import _part

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 60, 40)}


def pictures(root, count):
    """Writes noisy pictures of one colour a class, in folders of that name."""
    rng = np.random.default_rng(count)
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 40, (10, 8, 3))
                pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")


@pytest.fixture(scope="module")
def evaluated(tiny_baseline, tmp_path_factory, quickly):
    """An evaluation of two networks of one seed, on a folder of images."""
    root = tmp_path_factory.mktemp("evaluated")
    pictures(root / "data", 12)
    changes = {
        "genotype": "random:1",
        "data.name": "folder",
        "data.dir": str(root / "data"),
        "data.batch_size": 16,
        "evaluation.batch_size": 18,
        "evaluation.epochs": 4,
        "evaluation.num_seeds": 1,
    }
    with quickly():
        run(tiny_baseline(changes), root / "run", quiet=True)
    data = image_folder.read(str(root / "data"))
    return SimpleNamespace(
        workdir=root / "run", heldout=data.heldout, test=root / "data" / "test"
    )


@pytest.fixture(scope="module")
def derived(evaluated):
    """The derived network, and its logits on the held-out images."""
    trained = load(evaluated.workdir)
    apply, variables = trained
    return trained, np.asarray(jax.jit(apply)(variables, evaluated.heldout.image))


def test_what_is_loaded_is_what_was_judged(evaluated, derived):
    for network in ("derived", "random 1"):
        apply, variables = load(evaluated.workdir, network)
        batch = {
            "image": evaluated.heldout.image,
            "label": evaluated.heldout.label,
            "weight": np.ones(len(evaluated.heldout.label)),
        }
        wanted = json.loads((evaluated.workdir / "heldout.json").read_text())[network]
        got = judge(functools.partial(jax.jit(apply), variables), [batch], 3)
        assert got.error == wanted["0"]["error"] == apply.facts.error
        assert got.loss == pytest.approx(wanted["0"]["loss"], rel=1e-5)
        assert got.confusion == wanted["0"]["confusion"]
    logits = jax.jit(apply)(variables, evaluated.heldout.image)
    assert not np.allclose(logits, derived[1])


def test_it_says_what_it_is(evaluated, derived):
    (apply, variables), _ = derived
    assert str(apply) == (
        "derived, seed 0: 10x8x3 images of data to 3 classes; held-out error "
        f"{apply.facts.error:.2f} %"
    )
    assert apply.facts.class_names == ("blue", "green", "red")
    assert set(variables) == {"params", "batch_stats"}
    assert skillearn_jax.load is load


def test_the_report_names_the_classes_as_long_as_a_network_is_kept(evaluated, tmp_path):
    names = {f">{name}</text>" for name in COLOURS}
    figure = (evaluated.workdir / "report" / "confusion.svg").read_text()
    assert all(figure.count(name) == 2 for name in names)
    shutil.copytree(evaluated.workdir, tmp_path / "run")
    derived, random = sorted((tmp_path / "run").glob("networks/*/0/manifest.json"))
    derived.write_text("{")
    figure = tmp_path / "run" / "report" / "confusion.svg"
    write_report(tmp_path / "run")
    assert all(figure.read_text().count(name) == 2 for name in names)
    random.unlink()
    write_report(tmp_path / "run")
    assert not any(name in figure.read_text() for name in names)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 10, 8, 3), np.float32),  # normalised by the caller, perhaps
        np.zeros((2, 8, 10, 3), np.uint8),
        np.zeros((10, 8, 3), np.uint8),
    ],
)
def test_other_images_are_refused(derived, images):
    (apply, variables), _ = derived
    with pytest.raises(InputError, match=r"takes uint8\[B, 10, 8, 3\], pixels in 0..2"):
        apply(variables, images)
    with pytest.raises(
        InputError, match=r"are a list; .* give np.asarray\(images, np.u"
    ):
        apply(variables, images.tolist())


def test_the_auxiliary_head_is_left_out():
    """What only the training needed is not kept."""
    deployed = {"params": {"a": 1, "b": {"c": 2}}, "batch_stats": {}}
    trained = {"params": {"a": 1, "b": {"c": 2}, "auxiliary": {"d": 3}}}
    trained["batch_stats"] = {"auxiliary": {"e": 4}}
    assert _part(trained, deployed) == deployed


# StableHLO.

ALONE = """
import sys
sys.modules["skillearn_jax"] = sys.modules["flax"] = None  # neither can be imported
import jax, jax.export, numpy as np
network = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([network.call(images[:5]), network.call(images[5:])]))
"""


def test_the_exported_network_predicts_the_same_without_this_package(
    evaluated, derived, tmp_path, capsys
):
    output = tmp_path / "deep" / "network.stablehlo"
    flags = [f"--workdir={evaluated.workdir}", f"--output={output}"]
    assert export_main(flags) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(output)
    assert said["bytes"] == output.stat().st_size
    assert (said["network"], said["seed"]) == ("derived", 0)
    np.save(tmp_path / "images.npy", evaluated.heldout.image)
    files = [output, tmp_path / "images.npy", tmp_path / "logits.npy"]
    # From elsewhere, so that the repository is not on the path either.
    subprocess.run([sys.executable, "-c", ALONE, *files], cwd=tmp_path, check=True)
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, derived[1], rtol=1e-4, atol=1e-5)


def test_the_exported_network_is_for_all_platforms_and_any_number_of_images(derived):
    exported = to_stablehlo(derived[0])
    assert exported.platforms == ("cpu", "cuda", "tpu")
    (images,), (logits,) = exported.in_avals, exported.out_avals
    assert (str(images.shape), images.dtype) == ("(b, 10, 8, 3)", np.uint8)
    assert (str(logits.shape), logits.dtype) == ("(b, 3)", np.float32)
    assert "stablehlo.convolution" in exported.mlir_module()


def test_by_default_the_file_lies_in_the_workdir(evaluated, capsys):
    assert export_main([f"--workdir={evaluated.workdir}", "--network=random 1"]) == 0
    assert (evaluated.workdir / "export" / "random_1_0.stablehlo").is_file()
    assert json.loads(capsys.readouterr().out)["network"] == "random 1"


def test_a_file_that_cannot_be_written_is_named(evaluated, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "network.stablehlo"
    assert export_main([f"--workdir={evaluated.workdir}", f"--output={output}"]) == 2
    line = capsys.readouterr().err
    assert f"cannot write {output}" in line
    assert "set --output" in line
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        output = tmp_path / name
        flags = [f"--workdir={evaluated.workdir}", f"--output={output}"]
        assert export_main(flags) == 2
        line = capsys.readouterr().err
        assert line == (
            f"export: {output} is there already, and no plain file: set --output\n"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "file",
        "folder",
        "pipe",
    ]


# A folder of images.


def predicted(capsys, evaluated, *flags):
    code = predict_main([f"--workdir={evaluated.workdir}", *flags])
    return code, *capsys.readouterr()


def test_a_folder_is_predicted_like_the_held_out_images(
    evaluated, derived, capsys, monkeypatch
):
    monkeypatch.setattr(predict_module, "_BATCH", 16)  # of 36: two full, and a rest
    where = f"--images={evaluated.test}"
    code, out, err = predicted(capsys, evaluated, where, "--format=json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    files = sorted(evaluated.test.rglob("*.png"))
    names = [file.relative_to(evaluated.test).as_posix() for file in files]
    assert [row["image"] for row in rows] == names
    # The data set has them in this order too.
    probabilities = np.asarray(jax.nn.softmax(derived[1]))
    best = [("blue", "green", "red")[i] for i in probabilities.argmax(1)]
    assert [row["class"] for row in rows] == best
    got = [row["probability"] for row in rows]
    np.testing.assert_allclose(got, probabilities.max(1), rtol=1e-4)
    _, as_csv, _ = predicted(capsys, evaluated, where, "--format=csv")
    table = list(csv.DictReader(io.StringIO(as_csv)))
    assert [row["class"] for row in table] == best
    _, as_text, _ = predicted(capsys, evaluated, where)
    assert as_text.splitlines()[0] == f"{names[0]}  {best[0]}  {got[0]:.4f}"


def test_hidden_files_and_folders_are_left_aside(evaluated, tmp_path, capsys):
    image = Image.new("RGB", (8, 8), COLOURS["red"])
    for name in (".hidden.png", ".thumbnails/a.png", "folder.png/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            image.save(tmp_path / name)
    code, out, err = predicted(capsys, evaluated, f"--images={tmp_path}")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"predict: .* holds no .png, .*: set --images\n", err)
    image.save(os.fsencode(tmp_path) + b"/\xff.png")
    code, out, err = predicted(capsys, evaluated, f"--images={tmp_path}")
    assert (code, err) == (0, "")
    assert out.startswith("\\xff.png  ")


def test_linked_folders_are_looked_into(evaluated, tmp_path, capsys):
    """As classes of a data set that lie elsewhere, which the training reads too."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(evaluated.test)
    (tmp_path / "photos" / "itself").symlink_to(tmp_path / "photos")
    code, out, _ = predicted(capsys, evaluated, f"--images={tmp_path / 'photos'}")
    assert code == 0
    files = [line.split("  ")[0] for line in out.splitlines()]
    assert len(files) == len(list(evaluated.test.rglob("*.png")))
    assert all(file.startswith("linked/") for file in files)


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    evaluated, tmp_path, capsys, monkeypatch
):
    def closed(top, scandir=os.scandir):
        assert not os.path.basename(top).startswith(".")  # nor are these looked into
        if os.path.basename(top) == "green":
            raise PermissionError(13, "Permission denied", top)
        return scandir(top)

    shutil.copytree(evaluated.test, tmp_path / "test")
    (tmp_path / "test" / ".trash").mkdir()
    monkeypatch.setattr(os, "scandir", closed)
    code, out, err = predicted(capsys, evaluated, f"--images={tmp_path / 'test'}")
    assert (code, out) == (2, "")
    folder = tmp_path / "test" / "green"
    assert err == (
        f"predict: {folder} cannot be read (Permission denied): set --images\n"
    )


def test_images_that_no_picture_can_be_are_refused(evaluated):
    apply, variables = load(evaluated.workdir)
    shape = (*apply.facts.image_shape[:2], 2)
    apply.facts = apply.facts._replace(image_shape=shape)
    with pytest.raises(InputError, match="takes images of 2 channels, which no PNG"):
        predict(Trained(apply, variables), evaluated.test, print)  # before any output


def test_other_sizes_are_resized_and_damage_is_named(evaluated, tmp_path, capsys):
    big = Image.new("RGB", (123, 45), COLOURS["red"])
    big.save(tmp_path / "big.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "notes.txt").write_text("no image")
    small = Image.new("RGB", (8, 10), COLOURS["red"])
    small.save(tmp_path / "small.png")
    code, out, err = predicted(capsys, evaluated, f"--images={tmp_path}")
    assert code == 2
    assert err == f"predict: {tmp_path}/broken.png is no readable image\n"
    big, small = (line.split("  ") for line in out.splitlines())
    assert (big[0], small[0]) == ("big.jpg", "small.png")
    assert big[1] == small[1]
    # JPEG changes the colour a little.
    assert float(big[2]) == pytest.approx(float(small[2]), abs=0.05)


def test_a_picture_is_cut_where_held_out_images_are(evaluated, tmp_path):
    apply, variables = load(evaluated.workdir)
    side = apply.facts.image_shape[0]
    wide = np.zeros((2 * side, 6 * side, 3), np.uint8)
    wide[:, :, 0] = 250  # red, and blue in the middle
    wide[:, 2 * side : 4 * side] = 0, 0, 250
    Image.fromarray(wide).save(tmp_path / "wide.png")

    def probability(shorter_side, image):
        cut = copy.copy(apply)
        shape = (side, side, 3)
        cut.facts = apply.facts._replace(image_shape=shape, shorter_side=shorter_side)
        (got,) = predict(Trained(cut, variables), tmp_path, print)
        logits = cut(variables, np.asarray(image)[None])[0]
        want = jax.nn.softmax(logits)
        assert got.label == apply.facts.label(int(want.argmax()))
        assert got.probability == pytest.approx(float(want.max()), rel=1e-4)
        return got.probability

    stretched = Image.fromarray(wide).resize((side, side), Image.Resampling.BILINEAR)
    blue = np.broadcast_to(np.uint8([0, 0, 250]), (side, side, 3))
    assert probability(0, stretched) != probability(side + 2, blue)


# What is refused.


def refused(capsys, main, *flags):
    code, err = main([*flags]), capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    return err


def test_what_is_not_there_is_named(evaluated, tmp_path, capsys):
    for main in (export_main, predict_main):
        more = (f"--images={evaluated.test}",) if main is predict_main else ()
        there = (f"--workdir={evaluated.workdir}", *more)
        err = refused(capsys, main, *there, "--seed=7")
        assert "no trained network 'derived' of seed 7; it holds (network and s" in err
        assert "'derived' 0, 'random 1' 0" in err
        err = refused(capsys, main, f"--workdir={tmp_path}", *more)
        assert f"{tmp_path} holds no trained network 'derived'" in err
        assert "run it with --config.evaluation.epochs" in err
    empty = f"--images={tmp_path}"
    assert "holds no .png" in refused(capsys, predict_main, there[0], empty)
    assert "is not a folder" in refused(
        capsys, predict_main, there[0], f"{empty}/nosuch"
    )


def test_a_workdir_that_is_none_is_named(evaluated, tmp_path, capsys):
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    file.write_text("")
    for path, found in ((nowhere, "does not exist"), (file, "is no folder")):
        said = f"the workdir {path} {found}: name that of a search or an evaluation"
        with pytest.raises(InputError, match=f"^{said}$"):
            load(path)
        assert said in refused(capsys, export_main, f"--workdir={path}")
        images = f"--images={evaluated.test}"
        assert said in refused(capsys, predict_main, f"--workdir={path}", images)
    assert not nowhere.exists()


def test_the_networks_of_a_comparison_are_those_of_its_searches(tmp_path):
    (tmp_path / "config.json").write_text('{"problem": "toy", "seed": 0}')
    match = r"no trained .*; it holds a comparison, without searches: name that of a s"
    with pytest.raises(InputError, match=match):
        load(tmp_path)
    (tmp_path / "search" / "exact").mkdir(parents=True)
    match = r"a comparison, and the networks of its searches lie in .*/search/exact$"
    with pytest.raises(InputError, match=match):
        load(tmp_path)


def test_the_networks_of_tasks_are_pointed_at(tmp_path):
    (tmp_path / "tasks" / "digits").mkdir(parents=True)
    with pytest.raises(InputError, match=r"of its tasks lie in .*tasks/digits"):
        load(tmp_path)


def test_a_network_is_loaded_by_its_own_name_only(evaluated):
    """Another name may have the same folder."""
    with pytest.raises(InputError, match=r"no trained .*'random_1' .* 'random 1' 0"):
        load(evaluated.workdir, "random_1")


@pytest.mark.parametrize("content", [None, "[]", "{}"])
def test_without_its_config_no_network_is_built(evaluated, tmp_path, content):
    shutil.copytree(evaluated.workdir, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    if content is not None:
        (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config.json, which says .* restore it$"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("group", "change", "reason"),
    [
        (
            "evaluation",
            {"channels": 8},
            r"the network .* is not one of {} \(.*mean is fl",
        ),
        ("space", {"name": "nasbench201"}, None),  # the cells say of which they are
        ("evaluation", {"depth": 3}, r"^{}: config.evaluation has no key 'depth'"),
    ],
)
def test_a_config_that_was_changed_is_named(evaluated, tmp_path, group, change, reason):
    """No advice to remove a network that is as it was."""
    shutil.copytree(evaluated.workdir, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    record["config"][group].update(change)
    file.write_text(json.dumps(record))
    if reason is None:
        load(tmp_path / "run")
        return
    with pytest.raises(InputError, match=reason.format(re.escape(str(file)))) as caught:
        load(tmp_path / "run")
    assert "remove" not in str(caught.value)


def test_a_damaged_network_is_refused(evaluated, tmp_path):
    shutil.copytree(evaluated.workdir, tmp_path / "run")
    kept = tmp_path / "run" / "networks" / "derived" / "0"
    assert isinstance(load(tmp_path / "run"), Trained)
    (kept / "manifest.json").unlink()
    with pytest.raises(InputError, match=rf"{kept} cannot be read: it has no manifest"):
        load(tmp_path / "run")
