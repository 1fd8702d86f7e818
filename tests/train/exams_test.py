"""Learning by passing tests in runs: its options, its bank, its sequence of exams."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import from_arrays, load
from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Exact, FirstOrder
from skillearn_jax.train import experiment, run
from skillearn_jax.train.build import build_search
from skillearn_jax.train.checks import check
from skillearn_jax.train.config import CurriculumConfig
from skillearn_jax.train.exams import append_exams, check_exams, load_bank
from skillearn_jax.train.images import load_images
from skillearn_jax.train.search_streams import streams_of

pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(scope="module")
def data():
    return load("digits")


def program_of(config, data):
    check(config)
    setup = build_search(config, data, jax.random.key(0), 2)
    return setup, setup.phases[-1].program


def traced(setup, program):
    """Returns the metrics of a step, as shapes."""
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}
    batches = dict.fromkeys(program.streams, batch)

    def step(key):
        params = {name: setup.params[name] for name in program.sets}
        state = program.init(params, key, setup.model_state)
        new, metrics = program.step(state, batches)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        return metrics

    return jax.eval_shape(step, jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lpt.variant": "released_code"}, {"order": "alternate"}),
        ({"lpt.ablation": "difficulty_only"}, {"maximize": {"encoder", "creator"}}),
        ({"lpt.ablation": "exam_only"}, {"data": ("bank",)}),
        ({"lpt.order": "alternate", "lpt.exam_loss": "mean"}, {"order": "alternate"}),
        ({"lpt.stale_reads": True}, {"before": ("weights", "encoder")}),
        ({"lpt.exam_scores": "normalized", "lpt.tester_weight": 0.0}, {"val": False}),
    ],
)
def test_options_reach_the_program_and_can_be_traced(changes, expected, tiny, data):
    fast = {"search.warmup_epochs": 0, "hypergrad.adjoint": "first_order"}
    setup, program = program_of(tiny({**fast, **changes}), data)
    metrics = traced(setup, program)
    assert "validation/exam_loss" in metrics
    found = {
        "order": program.validation.order,
        "maximize": set(program.validation.maximize),
        "data": program.stages[-1].data,
        "before": program.validation.before,
        "val": "val" in program.streams,
    }
    assert found | expected == found


@pytest.mark.parametrize(
    ("variant", "adjoint"),
    [("released_code", Exact), ("released_code_first_order", FirstOrder)],
)
def test_a_variant_decides_the_adjoints(variant, adjoint, tiny, data):
    name = "exact" if adjoint is Exact else "first_order"
    config = tiny({"lpt.variant": variant, "hypergrad.adjoint": name})
    check_exams(config)
    _, program = program_of(config, data)
    assert {type(stage.adjoint) for stage in program.stages} == {adjoint}
    assert program.validation.order == "alternate"


def test_the_weights_of_the_config_are_those_of_the_program(tiny, data):
    config = tiny({"lpt.interaction_weight": 0.5, "lpt.tester_weight": 0.0})
    _, program = program_of(config, data)
    assert program.stages[-1].interaction_weight == 0.5
    assert "executor" not in program.validation.reads


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search.stop": "curriculum"}, "lpt.curriculum.active"),
        ({"lpt.bank_dir": "images"}, "bank_dir is 'images', but"),
        ({"lpt.bank": "stream:cifar10"}, "images of a bank are held in memory"),
        ({"lpt.bank": "digits", "skill": "baseline"}, "baseline has no exams"),
        ({"lpt.bank": "digits", "skill": "joint"}, "joint has no exams"),
        ({"lpt.variant": "released_code", "lpt.exam_loss": "mean"}, "variant=paper"),
        ({"lpt.variant": "released_code_first_order"}, "adjoint=first_order"),
        (
            {"lpt.ablation": "difficulty_only", "lpt.tester_weight": 3.0},
            "tester_weight",
        ),
        (
            {"lpt.ablation": "difficulty_only", "lpt.exam_scores": "fixed"},
            "exam_scores",
        ),
        (
            {"lpt.interaction_weight": 0.0, "lpt.tester_weight": 3.0},
            "takes no exams nothing moves by it",
        ),
        (
            {"lpt.interaction_weight": 0.0, "lpt.exam_scores": "fixed"},
            "takes no exams reads it not: set --config.lpt.interaction_weight above 0",
        ),
        (
            {"hypergrad.adjoint": "first_order", "lpt.tester_weight": 3.0},
            "in first order nothing moves by it",
        ),
        (
            {"lpt.ablation": "exam_only", "lpt.interaction_weight": 0.0},
            "raise --config.lpt.interaction_weight=",
        ),
        (
            {"lpt.curriculum.active": True, "lpt.curriculum.start": 9.0},
            "--config.lpt.curriculum.start=9.0; it must lie in [0, 4.0]",
        ),
        (
            {
                "lpt.curriculum.active": True,
                "lpt.curriculum.capacity_aware": True,
                "lpt.ablation": "difficulty_only",
            },
            "set --config.lpt.ablation=none, or "
            "--config.lpt.curriculum.capacity_aware=False",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_a_flag(changes, words, tiny):
    with pytest.raises(InputError, match="--config") as error:
        check_exams(tiny(changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_just_fits_is_taken(tiny, data):
    check_exams(tiny({"lpt.curriculum.active": True, "lpt.curriculum.start": 4.0}))
    config = tiny({"lpt.bank": "digits", "data.batch_size": data.num_train})
    assert load_bank(config, data).num_train == data.num_train


def test_the_keys_of_a_curriculum_are_its_own():
    assert CurriculumConfig().build() is None
    built = CurriculumConfig(active=True, threshold=0.5, capacity_aware=True).build()
    assert (built.threshold, built.capacity_aware, built.patience) == (0.5, True, 50)


def test_a_bank_of_its_own_gets_the_shape_of_the_data(tiny, data):
    bank = load_bank(tiny({"lpt.bank": "mnist5k"}), data)
    assert bank.image_shape == data.image_shape
    assert bank.train.size == 4000
    config = tiny({"lpt.bank": "mnist5k"})
    streams = streams_of(config, data, bank)
    assert streams["bank"].examples.size == 4000
    assert streams["bank"].mean == data.mean
    assert streams["val"].examples.size == 717
    assert load_bank(tiny(), data) is None


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("ant", "bee", "cat"), True),
        (("ant", "bee"), True),
        ((), True),
        (("ant", "cat"), False),
        (("bee", "ant", "cat"), False),
    ],
)
def test_a_bank_counts_classes_as_the_learner(tiny, tmp_path, names, taken):
    """Else exams would ask for other classes than those they show."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, 4, 4, 1), np.uint8), np.arange(24)
    given = images, labels % 3, images, labels % 3
    learner = from_arrays("mine", *given, class_names=("ant", "bee", "cat"))
    labels = labels % (len(names) or 3)
    parts = {"train_images": images, "train_labels": labels}
    parts |= {"test_images": images, "test_labels": labels}
    parts |= {"class_names": names} if names else {}
    np.savez(tmp_path / "bank.npz", **parts)
    changes = {"lpt.bank": "npz", "lpt.bank_dir": str(tmp_path / "bank.npz")}
    config = tiny({**changes, "data.batch_size": 8})
    if taken:
        assert load_bank(config, learner).class_names == names
        return
    with pytest.raises(InputError, match=r"calls class \d .*--config\.lpt\.bank$"):
        load_bank(config, learner)


def test_a_grey_bank_has_the_channels_of_a_learner_of_colours(tiny):
    """And as many images as are not held out of it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    given = images, np.arange(20) % 10
    learner = from_arrays("mine", *given, *given)
    config = tiny(
        {"lpt.bank": "digits", "data.heldout_fraction": 0.5, "data.batch_size": 8}
    )
    bank = load_bank(config, learner)
    digits = load("digits", heldout_fraction=0.5)
    assert bank.num_train == digits.num_train < 1000
    np.testing.assert_array_equal(
        bank.train.image, np.repeat(digits.train.image, 3, axis=3)
    )
    assert load_images(tiny({"data.heldout_fraction": 0.5})).num_train == bank.num_train


def test_a_run_hands_its_bank_to_the_search_and_knows_it_again(
    tiny, tmp_path, monkeypatch
):
    class Seen(Exception):
        pass

    def search(config, images, workdir, devices, console, bank, benchmark):
        workdir.write_config("the program")
        raise Seen(bank)

    monkeypatch.setattr(experiment, "search", search)
    with pytest.raises(Seen) as seen:
        run(tiny({"lpt.bank": "digits"}), tmp_path / "run", quiet=True)
    (bank,) = seen.value.args
    assert bank.num_train == load("digits").num_train
    known = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert known["exam bank"] == known["training images"]


def test_a_bank_smaller_than_a_batch_is_refused(tiny, data):
    config = tiny({"lpt.bank": "digits", "data.batch_size": 2000})
    with pytest.raises(InputError, match=r"fewer than a batch.*--config\."):
        load_bank(config, data)


def test_a_bank_that_the_learner_does_not_know_is_refused(tiny):
    """Of other classes; or to be brought to a shape that is no square."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 10
    for shape, classes, words in (
        ((8, 8), 5, "has 10 classes and 1 channels; the learner knows 5 classes"),
        ((8, 6), 10, "have 8x6 pixels, and a bank is brought to a square only"),
    ):
        images = rng.integers(0, 256, (20, *shape), np.uint8)
        given = images, labels % classes
        learner = from_arrays("mine", *given, *given, num_classes=classes)
        with pytest.raises(InputError, match=words):
            load_bank(tiny({"lpt.bank": "digits"}), learner)


def test_the_transcript_has_every_figure_in_its_own_place():
    lines = []
    workdir = SimpleNamespace(append_rows=lambda *of: lines.append(of))
    metrics = {
        "validation/exam_hardness": 3.0,
        "validation/exam_error": 0.4,
        "validation/bank_error": 0.3,
        "curriculum/error": 0.2,
        "curriculum/capacity": 0.7,
        "curriculum/passed": 1.0,
    }
    append_exams(workdir, [{"step": 1, "epoch": 0}])  # of a warm-up
    assert lines == []
    append_exams(workdir, [{"step": 5, "epoch": 2, "learner/loss": 9.0, **metrics}])
    exam = {
        "step": 5,
        "epoch": 2,
        "hardness": 3.0,
        "exam_error": 0.4,
        "bank_error": 0.3,
        "running_error": 0.2,
        "capacity": 0.7,
        "share": 0.25,
        "passed": True,
    }
    assert lines == [([exam], "exams.jsonl")]


CURRICULUM = {
    "hypergrad.adjoint": "first_order",
    "evaluation.epochs": 0,
    "search.epochs": 6,
    "search.stop": "curriculum",
    "log_every": 3,
    "lpt.curriculum.active": True,
    "lpt.curriculum.capacity_aware": True,
    "lpt.curriculum.threshold": 0.999,
    "lpt.curriculum.step": 0.5,
    "lpt.curriculum.tolerance": 1.0,
    "lpt.curriculum.patience": 5,
}


def test_exams_grow_harder_end_and_are_written_down(tiny, tmp_path, read_rows):
    """Two steps an epoch, the first epoch a warm-up: the sixth exam is the end."""
    config = tiny(CURRICULUM)
    result = run(config, tmp_path / "run", quiet=True)
    assert result.summary["search"]["epochs"] == 4
    text = (tmp_path / "run" / "exams.jsonl").read_text()
    exams = [json.loads(line) for line in text.splitlines()]
    assert [exam["step"] for exam in exams] == [3, 4, 5, 6, 7, 8]
    assert exams[0]["hardness"] == 1.0
    assert exams[0]["share"] == 0.5
    assert all(exam["passed"] for exam in exams)
    for before, after in itertools.pairwise(exams):
        steps = exams.index(after) * 0.5
        expected = before["capacity"] * (1 + steps)
        assert after["hardness"] == pytest.approx(min(expected, 4 * before["capacity"]))
    rows = read_rows(tmp_path / "run")
    assert any("curriculum/hardness" in row for row in rows)
    assert "curriculum/hardness" in result.report.read_text().replace(" ", "")
    # A run that goes on from its checkpoint writes no exam twice.
    (tmp_path / "run" / "summary.json").unlink()
    with (tmp_path / "run" / "exams.jsonl").open("a") as file:
        file.write(json.dumps({**exams[-1], "step": 9}) + "\n")
    run(config, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "exams.jsonl").read_text() == text
