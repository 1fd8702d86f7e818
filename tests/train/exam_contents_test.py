"""What the exam of a search holds, of functions that can be foretold."""

import base64
import dataclasses
import io
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from skillearn_jax.data import Examples, Stream, load
from skillearn_jax.framework import State
from skillearn_jax.skills import Curriculum, LearnerModel, TesterModel
from skillearn_jax.skills.curriculum import CURRICULUM
from skillearn_jax.train import exam_contents as module
from skillearn_jax.train.exam_contents import (
    contact_sheet,
    exam_caption,
    exam_contents,
    exam_text,
    write_exam,
)
from skillearn_jax.train.stages import search_stage


@pytest.fixture
def models():
    """The score of an image is its brightness; so is the loss, but for its sign."""

    def brightness(batch):
        return batch["image"].mean((1, 2, 3))

    def losses(weights, supporting, model_state, batch, key):
        return weights * brightness(batch)

    learner = LearnerModel(losses, losses, optax.sgd(0.1), {"alphas": optax.sgd(0.1)})
    tester = TesterModel(
        encode=lambda encoder, state, batch, key: (brightness(batch), {}),
        losses=lambda *args: jnp.zeros(1),
        scores=lambda creator, features: features,
        optimizers=dict.fromkeys(("encoder", "executor", "creator")),
        accuracies=lambda *args: jnp.zeros(1),
    )
    return learner, tester


@pytest.fixture
def bank():
    """Ten grey images, the i-th of `level(i)`, of classes 0 1 0 1 ..."""
    pixels = np.tile(20 * np.arange(10, dtype=np.uint8), (3, 2, 1, 1)).transpose(
        3, 1, 0, 2
    )
    examples = Examples(pixels, np.arange(10, dtype=np.int32) % 2)
    # Ten in batches of four: the last one looks back.
    return Stream(examples, 4, (0.25,), (0.5,), order="random")


def level(i):
    """Of the pixel 20 i, as a network sees it."""
    return (20 * i / 255 - 0.25) / 0.5


def state_of(weights, model_state=()):
    params = dict.fromkeys(("alphas", "encoder", "creator"), jnp.zeros(()))
    return State(
        {**params, "weights": jnp.asarray(weights)},
        {},
        dict(model_state),
        jnp.zeros((), jnp.int32),
        jax.random.key(0),
    )


def test_the_half_with_the_top_scores_is_the_exam(models, bank):
    exam = exam_contents(*models, state_of(1.0), bank, 3)
    assert exam["selected"] == [5, 6, 7, 8, 9]
    assert (exam["size"], exam["bank_size"], exam["share"]) == (5, 10, 0.5)
    assert [entry["index"] for entry in exam["hardest"]] == [9, 8, 7, 6, 5]
    assert [entry["index"] for entry in exam["easiest"]] == [5, 6, 7, 8, 9]
    assert exam["correlation"] == pytest.approx(1)
    # 5, 7, 9 of class 1 and 6, 8 of class 0, five of each in the bank; no class 2.
    np.testing.assert_allclose(exam["class_shares"], [0.4, 0.6, 0])
    np.testing.assert_allclose(exam["class_rates"], [level(4), level(5), 0], rtol=1e-5)
    assert exam["exam_loss"] == pytest.approx(level(7))
    assert exam["bank_loss"] == exam["mean_score"] == pytest.approx(level(4.5))
    assert "0.600" in exam_text(exam)


def test_an_exam_of_what_is_known_has_a_negative_correlation(models, bank):
    exam = exam_contents(*models, state_of(-1.0), bank, 2)
    assert exam["correlation"] == pytest.approx(-1)
    assert exam["hardest"][0]["index"] == 5


def test_the_order_of_a_bank_changes_little(models):
    """Where networks normalise by their batch, and a folder comes class by class."""
    learner, tester = models
    tester = dataclasses.replace(
        tester, scores=lambda creator, features: features - features.mean()
    )
    levels = np.arange(200, dtype=np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (200, 2, 2, 1))
    bank = Stream(Examples(pixels, levels // 20), 20, (0.0,), (1.0,), order="random")
    exam = exam_contents(learner, tester, state_of(1.0), bank, 10)
    assert exam["correlation"] > 0.9  # batch by batch in their order it is 0.1
    assert np.mean(exam["class_shares"][5:]) > 0.8


def test_a_curriculum_decides_the_share(models, bank):
    """By the hardness that the search has come to, and not what it began with."""
    curriculum = Curriculum(start=1.0)
    reached = curriculum.init()._replace(hardness=jnp.array(4.0))
    state = state_of(1.0, {CURRICULUM: reached})
    exam = exam_contents(*models, state, bank, 2, curriculum)
    assert exam["share"] == pytest.approx(0.2)
    assert exam["selected"] == [8, 9]


def test_what_is_written_is_the_exam_of_the_bank_at_its_hardness(
    models, bank, tiny, monkeypatch
):
    """Not of the validation set, which may be another one; once for each end."""
    seen, files = [], {"exam.json": {"step": 3}}
    monkeypatch.setattr(
        module, "exam_contents", lambda *of: seen.append(of) or {"size": 7}
    )
    config = tiny({"lpt.curriculum.active": True, "lpt.curriculum.threshold": 0.125})
    stage = search_stage(config, 0, config.space.build())
    streams = {"train": bank, "val": None, "bank": dataclasses.replace(bank)}
    workdir = SimpleNamespace(
        read_object=lambda name: files[name], write_json=files.__setitem__
    )
    for step in (3, 5, 5):
        state = state_of(1.0)._replace(step=jnp.int32(step))
        write_exam(config, load("digits"), state, streams, workdir, stage)
    ((_, _, of_state, of_bank, num_classes, curriculum),) = seen
    assert of_bank is streams["bank"]
    assert (int(of_state.step), num_classes) == (5, 10)
    assert curriculum == config.lpt.curriculum.build() != Curriculum()
    assert files == {"exam.json": {"step": 5, "size": 7}}
    files["exam.json"]["step"] = 3  # of a data set, the name is there too
    write_exam(
        config, load("digits"), state, streams, workdir, stage, load("mnist5k").training
    )
    assert files == {"exam.json": {"step": 5, "bank": "mnist5k", "size": 7}}


def test_the_sheet_shows_the_images(models, bank):
    rows = [[{"index": 9}, {"index": 0}], [{"index": 4}]]
    sheet = contact_sheet(bank.examples, rows)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))))
    assert pixels.shape == (2 * 2 + 1, 2 * 3 + 1)
    assert pixels[0, 0] == 180
    assert pixels[0, 4] == 0
    assert pixels[3, 0] == 80
    assert pixels[2, 0] == pixels[3, 4] == 128


def test_the_sheet_of_colour_images_has_their_colours():
    pixels = np.arange(2 * 1 * 2 * 3, dtype=np.uint8).reshape(2, 1, 2, 3)
    examples = Examples(pixels, np.zeros(2, np.int32))
    sheet = contact_sheet(examples, [[{"index": 1}, {"index": 0}]])
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))))
    np.testing.assert_array_equal(shown[:, :2], pixels[1])
    np.testing.assert_array_equal(shown[:, 3:], pixels[0])


def test_an_exam_in_words_has_every_figure_in_its_own_place():
    exam = {
        "size": 5,
        "bank_size": 10,
        "exam_loss": 2.5,
        "bank_loss": 1.25,
        "correlation": -0.375,
        "class_rates": [0.25, 0.5],
        "class_shares": [0.125, 0.75],
        "hardest": [{"label": 1, "loss": 4.0, "score": 0.5, "index": 7}],
        "easiest": [{"label": 0, "loss": 0.5, "score": 0.25, "index": 3}],
    }
    assert exam_caption(exam).startswith(
        "The exam that the search ended with: the 5 of 10 images of the bank with the "
        "largest scores."
    )
    assert exam_caption(exam | {"bank": "mnist5k"}).startswith(
        "The exam that the search ended with: the 5 of 10 images of the bank, which is "
        "mnist5k, with the largest scores."
    )
    assert exam_caption(exam).endswith(
        "mean loss is 2.500 on the exam and 1.250 on the bank; score and loss correlate "
        "with -0.38."
    )
    assert [line.split() for line in exam_text(exam).splitlines()] == [
        ["class", "mean", "score", "share", "in", "the", "exam"],
        ["0", "0.2500", "0.125"],
        ["1", "0.5000", "0.750"],
        [],
        ["hardest:", "label,", "loss,", "score,", "index", "in", "the", "bank"],
        ["1", "4.000", "0.5000", "7"],
        [],
        ["easiest:", "label,", "loss,", "score,", "index", "in", "the", "bank"],
        ["0", "0.5000", "0.2500", "3"],
    ]
    small = exam_text(exam | {"class_rates": [3e-5, 0.5]}).splitlines()
    assert small[1] == "    0   3.000e-05              0.125"  # not as nothing
    known = exam | {"easiest": [exam["easiest"][0] | {"loss": 2.5e-6}]}
    assert exam_text(known).splitlines()[-1] == "    0   2.500e-06      0.2500  3"
    named = exam_text(exam, ("ant", "hippopotamus")).splitlines()
    assert named[:3] == [
        "       class  mean score  share in the exam",
        "         ant      0.2500              0.125",
        "hippopotamus      0.5000              0.750",
    ]
    assert named[5].split() == ["hippopotamus", "4.000", "0.5000", "7"]
    assert named[8].split() == ["ant", "0.5000", "0.2500", "3"]
    for others in (("ant",), ("ant", "bee\n")):
        assert exam_text(exam, others) == exam_text(exam)
