"""Runs on a data set that stays in its files: trained on, judged, and gone on with."""

import functools
import json
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from skillearn_jax.data import (
    Augmentation,
    ColourJitter,
    Reading,
    StreamingData,
    TrainingImages,
)
from skillearn_jax.errors import InputError, Interrupted
from skillearn_jax.parallel import Devices, gather_rows
from skillearn_jax.predict import predict
from skillearn_jax.train import images, load, run, trained
from skillearn_jax.train.checks import check, check_batches
from skillearn_jax.train.evaluation_data import heldout_batches, training_batches
from skillearn_jax.train.images import load_images, search_images
from skillearn_jax.train.judge import judge
from skillearn_jax.train.saving import Saver

TRAIN, HELDOUT, CLASSES = 50, 21, 7
STREAMED = {
    "skill": "baseline",
    "genotype": "DARTS_V2",
    "space.num_nodes": 4,
    "data.name": "stream:photos",
    "data.image_size": 16,
    "data.flip": True,
    "data.colours": (0.4, 0.4, 0.4, 0.2),
    "data.stream.shorter_side": 20,
    "evaluation.epochs": 2,
    "evaluation.batch_size": 8,
    "evaluation.label_smoothing": 0.1,
    "evaluation.num_random": 0,
}
STEPS_PER_EPOCH = TRAIN // 8

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prepare_photos):
    """`folder(file_format)`: where the photographs are prepared in it."""

    @functools.cache
    def prepared(file_format):
        counts = {"train": TRAIN, "validation": HELDOUT}
        into = tmp_path_factory.mktemp("photos")
        return prepare_photos(into, file_format, counts, CLASSES)

    return prepared


@pytest.fixture
def streamed(tiny, folder):
    """`streamed(file_format, changes)`: the config of such a run."""
    return lambda file_format="array_record", changes=(): tiny(
        {**STREAMED, "data.dir": folder(file_format), **dict(changes)}
    )


def left_by(workdir):
    names = ("metrics.jsonl", "evaluation.json", "heldout.json")
    return {name: (workdir / name).read_text() for name in names}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_run_that_ends_in_mid_epoch_goes_on_bit_for_bit(
    streamed, tmp_path, monkeypatch, read_rows, photo, file_format
):
    config = streamed(file_format)
    result = run(config, tmp_path / "whole", quiet=True)
    assert result.summary["num_train"] == TRAIN
    assert result.summary["num_heldout"] == HELDOUT
    pipeline = {"tfrecord": "tf.data", "array_record": "Grain"}[file_format]
    assert result.summary["dataset"] == f"photos (tfds 1.0.0, {pipeline})"
    rows = read_rows(tmp_path / "whole")
    assert [(row["seed"], row["step"]) for row in rows] == [
        (0, 6),
        (0, 12),
        (1, 6),
        (1, 12),
    ]
    # The trainings see other orders and other crops.
    assert rows[0]["train_loss"] != rows[2]["train_loss"]
    judged = json.loads((tmp_path / "whole" / "heldout.json").read_text())["derived"]
    confusion = np.array(judged["0"]["confusion"])
    assert np.sum(confusion) == HELDOUT
    # A folder of the same pictures is cut and judged like them, but for other decoders.
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(HELDOUT):
        (pictures / f"{i:02}.jpg").write_bytes(photo(i))
    trained = load(tmp_path / "whole")
    assert trained.apply.facts.shorter_side == 20
    labels = [trained.apply.facts.label(i) for i in range(CLASSES)]
    predicted = np.zeros_like(confusion)
    for i, found in enumerate(predict(trained, pictures, print)):
        predicted[i % CLASSES, labels.index(found.label)] += 1
    assert np.abs(predicted - confusion).sum() <= 2

    # In the second epoch of the second training.
    with monkeypatch.context() as patch:
        offer = Saver.offer

        def offered(self, steps, *args, offset, **more):
            if offset and steps[-1] == STEPS_PER_EPOCH + 2:
                signal.raise_signal(signal.SIGTERM)
            offer(self, steps, *args, offset=offset, **more)

        patch.setattr(Saver, "offer", offered)
        with pytest.raises(Interrupted, match="saved at step 8"):
            run(config, tmp_path / "broken", quiet=True)
    run(config, tmp_path / "broken", quiet=True)
    assert left_by(tmp_path / "broken") == left_by(tmp_path / "whole")


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_change_rounding_and_no_more(streamed, tmp_path, read_rows, backend):
    short = {"evaluation.epochs": 1, "evaluation.num_seeds": 1}
    found = {}
    for devices in (1, 4):
        changes = {"parallel.devices": devices, "parallel.backend": backend, **short}
        run(streamed(changes=changes), tmp_path / str(devices), quiet=True)
        found[devices] = read_rows(tmp_path / str(devices))[0]["train_loss"]
    assert found[4] == pytest.approx(found[1], rel=1e-4)


def test_the_judge_sees_every_image_once_in_any_number_of_processes(streamed):
    """What two processes send each other is put together here by hand."""
    # Batches of another test's size may be normalised by what that test has compiled with
    # all optimisations, which rounds otherwise; here bits are compared.
    jax.clear_caches()
    data = load_images(streamed())

    def logits(images):
        means = np.asarray(images).mean((1, 2))  # by colour
        return np.concatenate([means, means**2, -means[:, :1]], axis=1)

    whole = judge(logits, heldout_batches(data)[0], CLASSES)
    assert np.sum(whole.confusion) == HELDOUT
    assert 0 < whole.error < 100

    def rows_of(process):
        own = data.reread(batch_size=16, process=process, num_processes=2)
        rows = []
        judge(logits, own.eval_batches(), CLASSES, lambda own: rows.append(own) or own)
        return rows

    sent = [rows_of(process) for process in range(2)]
    assert [len(array) for array in sent[0]] == [len(array) for array in sent[1]]
    both = iter(zip(*sent, strict=True))
    again = judge(
        logits,
        data.eval_batches(),
        CLASSES,
        lambda _: np.concatenate(next(both)),
    )
    assert again == whole


def test_config_keys_reach_the_reader(streamed):
    config = streamed(
        changes={
            "data.stream.train_split": "train[:30]",
            "data.stream.heldout_split": "train[30:]",
            "data.stream.least_area": 0.9,
            "data.stream.shuffle_buffer": 5,
            "data.stream.max_damaged": 3,
            "evaluation.cutout": 4,
        }
    )
    data = load_images(config)
    assert (data.num_train, data.num_heldout) == (30, 20)
    assert data.image_shape == (16, 16, 3)
    assert data.damage.limit == 3
    assert data.reader.reading.least_area == 0.9
    assert data.reader.reading.shuffle_buffer == 5
    augmentation = data.augmentation
    assert (augmentation.flip, augmentation.cutout) == (True, 4)
    assert augmentation.padding == 0  # cropped already
    assert vars(augmentation.colours) == {
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.2,
    }
    batches = training_batches(config, data)
    assert batches.steps_per_epoch == 3
    size = load_images(
        streamed(changes={"data.image_size": 0, "data.stream.shorter_side": 256})
    ).image_shape
    assert size == (224, 224, 3)


SEARCHED = {
    "genotype": "",
    "space.num_nodes": 1,
    "hypergrad.adjoint": "first_order",
    "search.warmup_epochs": 0,
    "search.epochs": 1,
    "data.batch_size": 7,
    "data.per_class": (3, 1),
    "evaluation.epochs": 0,
    # Neither is read: it has no evaluation.
    "evaluation.batch_size": 51,
    "evaluation.rivals": ("/nowhere",),
}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_search_gets_a_class_balanced_part(streamed, file_format):
    config = streamed(file_format, SEARCHED)
    data = load_images(config)
    training = search_images(config, data)
    assert type(training) is TrainingImages
    assert training.train.image.shape == (CLASSES * 4, 16, 16, 3)
    assert np.bincount(training.train.label).tolist() == [4] * CLASSES
    # They are training images, whole and in the middle.
    split = {"heldout_split": "train", "batch_size": TRAIN}
    (every,) = data.reread(**split).reader.heldout()
    chosen = np.flatnonzero(
        [sum(every.label[: i + 1] == label) <= 4 for i, label in enumerate(every.label)]
    )
    np.testing.assert_array_equal(training.train.label, every.label[chosen])
    gaps = training.train.image.astype(int) - every.image[chosen]
    assert np.abs(gaps).max() <= 1


def test_a_streamed_set_is_searched_on(streamed, tmp_path, read_rows):
    config = streamed(changes=SEARCHED)
    result = run(config, tmp_path / "run", quiet=True)
    assert result.summary["search"]["steps"] == 3  # 21 images in batches of 7
    assert np.isfinite(read_rows(tmp_path / "run")[0]["learner/loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"genotype": ""},
            r"images stay in files.* --config.data.per_class=.*genotype",
        ),
        ({"data.colours": (0.4,)}, r"four strengths.*--config.data.colours"),
        ({"data.colours": (0.4, 0.4, 0.4, 0.6)}, r"hue up to 0.5"),
        ({"data.per_class": (4,)}, r"two numbers.*--config.data.per_class"),
        (
            {"skill": "joint", "tasks": ("stream:photos",), "genotype": ""},
            r"'stream:photos', but .* in memory: set --config.tasks",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(tiny, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check(tiny({**STREAMED, **changes}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation.batch_size": 51}, "--config.evaluation.batch_size"),
        ({"data.image_size": 21}, "image size 21 .* 20: set --config.data.image_size"),
        ({"data.stream.train_split": "trian"}, "--config.data.stream.train_split"),
        ({"data.dir": "/nowhere"}, "--config.data.dir"),
        ({"evaluation.auxiliary_weight": 0.4}, "16x16 pixels; the auxiliary head"),
        ({**SEARCHED, "data.batch_size": 8}, "at most 7, .*--config.data.batch_size"),
        ({**SEARCHED, "data.per_class": (6, 3)}, "class 1 .* 7 images, but 9"),
    ],
)
def test_mistakes_end_a_run_in_one_line(streamed, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        run(streamed(changes=changes), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)


def test_grey_images_have_no_colours_to_change(tiny_baseline, tmp_path):
    changes = {"data.colours": (0.4, 0.0, 0.0, 0.0)}
    with pytest.raises(InputError, match=r"digits have 1 channels .*data.colours"):
        run(tiny_baseline(changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# Without the libraries that read files, which a plain installation lacks.


@pytest.fixture
def opened():
    """What is known of 50 training images of 7 classes, without files."""
    data = object.__new__(StreamingData)
    features = {"label": SimpleNamespace(names=[f"c{i}" for i in range(CLASSES)])}
    data.prepared = SimpleNamespace(info=SimpleNamespace(features=features))
    data.name, data.mean, data.std = "photos", (0.5,) * 3, (0.25,) * 3
    data.reader = SimpleNamespace(
        reading=Reading("photos", "", 8, image_size=16, shorter_side=20),
        train_size=TRAIN,
        num_classes=CLASSES,
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    return data


@pytest.mark.parametrize(("process", "processes"), [(0, 1), (1, 2)])
def test_config_keys_reach_any_reader(tiny, opened, monkeypatch, process, processes):
    asked = []
    monkeypatch.setattr(
        images,
        "open_streaming",
        lambda reading, **options: asked.append((reading, options)) or opened,
    )
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    changes = {
        "data.dir": "there",
        "data.stream.train_split": "train[:30]",
        "data.stream.heldout_split": "train[30:]",
        "data.stream.least_area": 0.9,
        "data.stream.shuffle_buffer": 5,
        "data.stream.max_damaged": 3,
        "data.padding": 2,
        "data.cutout": 1,
        "evaluation.cutout": 4,
    }
    config = tiny({**STREAMED, **changes})
    assert load_images(config) is opened
    reading = Reading(
        "photos",
        "there",
        8,
        train_split="train[:30]",
        heldout_split="train[30:]",
        image_size=16,
        shorter_side=20,
        process=process,
        num_processes=processes,
        least_area=0.9,
        shuffle_buffer=5,
    )
    colours = ColourJitter(0.4, 0.4, 0.4, 0.2)
    augmentation = Augmentation(0, True, 4, colours)  # the crop is the reader's
    assert asked == [(reading, {"augmentation": augmentation, "max_damaged": 3})]
    # Of a search alone no batch is read; and photographs have 224 pixels.
    sizes = {"data.image_size": 0, "data.stream.shorter_side": 256}
    load_images(tiny({**STREAMED, **SEARCHED, **sizes}))
    of_search = asked[1][0]
    assert (of_search.batch_size, of_search.image_size) == (processes, 224)


def test_every_phase_reads_what_it_needs(tiny, opened, monkeypatch):
    """Three processes judge 256 images each; a search holds both its parts."""
    asked = []

    def reread(self, **changes):
        asked.append(changes)
        return SimpleNamespace(eval_batches=lambda: "batches")

    monkeypatch.setattr(StreamingData, "reread", reread)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    assert heldout_batches(opened) == ("batches", gather_rows)
    assert asked == [{"batch_size": 768}]
    monkeypatch.setattr(images, "read_subset", lambda *of: of)
    search = {**STREAMED, **SEARCHED}
    assert search_images(tiny(search), opened) == (opened, 4)
    check_batches(tiny(search), opened, Devices(1))
    evaluated = {"evaluation.epochs": 1, "evaluation.rivals": ()}
    for key, changes, most in (
        ("data.batch_size", {"data.batch_size": 8}, 7),
        ("evaluation.batch_size", evaluated, 50),
    ):
        wrong = tiny({**search, **changes})
        with pytest.raises(InputError, match=rf"{key} is .* at most {most},"):
            check_batches(wrong, opened, Devices(1))


def test_a_network_knows_how_the_images_that_it_was_judged_on_were_cut(
    tiny, opened, tmp_path, monkeypatch
):
    notes = []
    monkeypatch.setattr(trained, "_built", lambda *of: (None, {}))
    monkeypatch.setattr(
        trained.Checkpoints, "save", lambda self, seed, tree, note: notes.append(note)
    )
    cells = SimpleNamespace(to_json=lambda: "the cells")
    workdir = SimpleNamespace(path=tmp_path)
    of_training = (cells, "derived", 1, {}, 12.5)
    trained.keep(workdir, tiny(STREAMED), opened, *of_training)
    assert notes == [
        {
            "network": "derived",
            "seed": 1,
            "dataset": "photos",
            "image_shape": (16, 16, 3),
            "num_classes": CLASSES,
            "mean": opened.mean,
            "std": opened.std,
            "class_names": opened.class_names,
            "error": 12.5,
            "shorter_side": 20,
            "cells": "the cells",
        }
    ]
