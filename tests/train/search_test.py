"""The search phase by itself."""

import contextlib
import dataclasses
import importlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from skillearn_jax.data import ImageData, TrainingImages, load
from skillearn_jax.errors import InputError
from skillearn_jax.nas.schedules import Stability
from skillearn_jax.parallel import Devices
from skillearn_jax.train import experiment, records
from skillearn_jax.train.console import Console
from skillearn_jax.train.search import _Recorder, search
from skillearn_jax.train.search_shown import shown
from skillearn_jax.train.search_streams import search_streams
from skillearn_jax.train.stages import search_stage
from skillearn_jax.train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_module")


class Watched(Console):
    """Notes what each step is a part of."""

    @contextlib.contextmanager
    def progress(self, label, total):
        self.parts = []
        yield lambda step, metrics, part="": self.parts.append(part)


@pytest.fixture
def training():
    """All that a search gets of the digits: to ask for more is an AttributeError."""
    return load("digits").training


def test_a_run_hands_its_search_no_held_out_images(
    tiny_baseline, tmp_path, monkeypatch
):
    handed = []

    class Enough(Exception):
        pass

    def spy(config, data, *rest):
        handed.append(data)
        raise Enough

    monkeypatch.setattr(experiment, "search", spy)
    digits = load("digits")
    with pytest.raises(Enough):
        experiment.run(tiny_baseline(), tmp_path / "one", data=digits, quiet=True)
    several = {"skill": "joint", "tasks": ("digits",)}
    with pytest.raises(Enough):
        experiment.run(tiny_baseline(several), tmp_path / "two", quiet=True)
    for training in (handed[0], handed[1]["digits"]):
        assert type(training) is TrainingImages
        assert not isinstance(training, ImageData)
        assert not hasattr(training, "heldout")
        assert training.train.size == digits.train.size


def test_a_search_never_touches_the_held_out_images(
    training, tiny_baseline, tmp_path, count_traces, read_rows
):
    config = tiny_baseline({"log_every": 3, "search.epochs": 3})
    workdir = Workdir(tmp_path / "run", config)
    console = Watched(quiet=True)
    found = search(config, training, workdir, Devices(1), console)
    assert (found.epochs, found.steps) == (3, 6)
    assert console.parts == 2 * ["warmup"] + 4 * ["search"]
    # One program for the warm-up and one for the search, each of them traced once.
    assert count_traces == {("learner",): 2}
    assert (tmp_path / "run" / "genotype.json").exists()
    # Every third step has a row, and each epoch's end.
    rows = read_rows(tmp_path / "run")
    assert [row["step"] for row in rows if "learner/loss" in row] == [3, 6]
    assert [row["step"] for row in rows if "alphas/entropy/normal" in row] == [2, 4, 6]
    folder = tmp_path / "run" / "checkpoints" / "search"
    kept = sorted(p.name for p in folder.iterdir())
    assert kept == ["4", "6"]


def test_the_loss_that_is_shown_is_one_of_training():
    """The learner's where there is one; a validation stage may have a `loss` too."""
    assert shown({"tester/loss": 4.0, "learner/loss": 2.0, "x/y": 1.0}) == {"loss": 2.0}
    turns = {"turn_1_a/loss": 1.0, "turn_2_b/loss": 4.0, "validation/loss": 100.0}
    assert shown(turns) == {"loss": 2.5}
    assert shown({"validation/loss": 1.0, "validation/objective": 3.0}) == {
        "objective": 3.0
    }
    names = (
        "validation/objective",
        "validation/exam_loss",
        "validation/tester_accuracy",
        "hypergrad/alphas/norm",
        "hypergrad/creator/norm",
    )
    values = {name: float(i) for i, name in enumerate(("learner/loss", *names))}
    of_bar = ["loss", "objective", "exam", "tester acc", "|dA|", "|dC|"]
    assert list(shown(values).items()) == list(zip(of_bar, range(6), strict=True))


@pytest.mark.parametrize("stratified", [False, True])
def test_the_streams_are_the_two_parts_of_the_training_images(
    tiny, training, stratified
):
    config = tiny({"data.stratified": stratified, "data.train_fraction": 0.6})
    streams = search_streams(config, training)
    assert set(streams) == {"train", "val", "bank"}
    first, second = streams["train"].examples, streams["val"].examples
    assert streams["bank"].examples.image is second.image  # one copy on the device
    assert abs(first.size - 0.6 * training.train.size) < 6
    assert first.size + second.size == training.train.size
    both = np.concatenate([first.image, second.image]).reshape(training.train.size, -1)
    whole = training.train.image.reshape(training.train.size, -1)
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole, axis=0))
    orders = [streams[name].order for name in ("train", "val", "bank")]
    assert orders == ["epochs", "random", "random"]


def test_a_class_balanced_part_may_be_searched_on(tiny, training):
    config = tiny({"data.per_class": (20, 7), "data.batch_size": 8})
    streams = search_streams(config, training)
    for name, start, stop in (("train", 0, 20), ("val", 20, 27), ("bank", 20, 27)):
        examples = streams[name].examples
        expected = [
            np.flatnonzero(training.train.label == label)[start:stop]
            for label in range(10)
        ]
        chosen = training.train.take(np.sort(np.concatenate(expected)))
        np.testing.assert_array_equal(examples.label, chosen.label)
        np.testing.assert_array_equal(examples.image, chosen.image)
    with pytest.raises(InputError, match=r"from 1 to 13\d, .*--config.data.per_class"):
        search_streams(tiny({"data.per_class": (100, 50)}), training)


@pytest.mark.parametrize(("skips", "stops"), [(1.0, False), (2.0, True), (3.0, True)])
def test_so_many_skips_end_a_search(tiny_baseline, skips, stops):
    config = tiny_baseline({"search.stop": "skips", "search.stop_skips": 2})
    stage = search_stage(config, 0, config.space.build())
    recorder = _Recorder(config, stage, None, None, None, 2)
    assert recorder._stops(skips, Stability(), None) is stops


def test_a_search_that_goes_on_forgets_what_comes_after_its_checkpoint(
    tiny_baseline, tmp_path
):
    """In all three files, and of no other phase; without a checkpoint all of it."""
    phases = ("warmup", "search", "search", "evaluate")
    config = tiny_baseline()
    stage = search_stage(config, 0, config.space.build())
    for number, saved in enumerate(
        (SimpleNamespace(step=2, note={"stability": [["a"], 3], "stopped": True}), None)
    ):
        workdir = Workdir(tmp_path / str(number), config)
        recorder = _Recorder(config, stage, workdir, None, None, 2)
        for name in ("metrics.jsonl", "alphas.jsonl", "exams.jsonl"):
            for step, phase in enumerate(phases, start=1):
                if phase != "evaluate" or name == "metrics.jsonl":
                    row = {"phase": phase, "step": step}
                    workdir.append_rows([row], name)
        wanted = (Stability(["a"], 3), True) if saved else (Stability(), False)
        assert recorder.go_on(saved) == wanted
        done = [1, 2] if saved else []
        for name, steps in (
            ("metrics.jsonl", [*done, 4]),
            ("alphas.jsonl", done),
            ("exams.jsonl", done),
        ):
            assert [row["step"] for row in workdir.read_rows(name)] == steps, name


@pytest.mark.parametrize("searching", [True, False])
def test_an_epoch_ends_with_its_cell_its_logits_and_how_stable_they_are(
    tiny_baseline, searching
):
    """The second of two steps; in a warm-up no ranking is counted, and nothing stops."""
    config = tiny_baseline({"search.stop": "skips", "search.stop_skips": 2})
    stage = search_stage(config, 0, config.space.build())
    logits = {
        "normal": [[0.0, 0.0, 9.0, 0.0], [0.0, 1.0, 8.0, 2.0]],  # two skips
        "reduction": [[0.0, 9.0, 0.0, 0.0], [0.0, 1.0, 8.0, 2.0]],  # one
    }
    alphas = {kind: np.array(rows) for kind, rows in logits.items()}
    state = SimpleNamespace(params={"alphas": alphas})
    table = SimpleNamespace(
        look_up=lambda cells: {"benchmark/skips": len(cells.normal)}
    )
    files = {"metrics.jsonl": [], "alphas.jsonl": []}

    def append_rows(rows, name="metrics.jsonl"):
        files[name] += json.loads(json.dumps(list(rows)))

    workdir = SimpleNamespace(append_rows=append_rows)
    recorder = _Recorder(config, stage, workdir, None, None, 2, table)
    program = SimpleNamespace(validation="one" if searching else None)
    phase = SimpleNamespace(name="search" if searching else "warmup", program=program)
    ranks = dict.fromkeys(("normal", "reduction"), [["dil_conv_3x3"]] * 2)
    before = Stability(ranks, 4)
    stability, stopped = recorder.end_epoch(phase, 6, state, before)
    assert stability == Stability(ranks, 5 if searching else 4)
    assert stopped is searching
    (row,) = files["metrics.jsonl"]
    place = {"phase": phase.name, "step": 6}
    assert row.items() >= {**place, "epoch": 2, "benchmark/skips": 2}.items()
    assert (row["alphas/skips/normal"], row["alphas/skips/reduction"]) == (2, 1)
    assert row["alphas/stable_epochs"] == stability.epochs
    assert row["stopped"] is searching
    assert files["alphas.jsonl"] == [{**place, **logits}]


@pytest.mark.parametrize("phase", ["search", "evaluate"])
def test_checkpoints_stay_as_the_config_says(
    training, tiny_baseline, tmp_path, monkeypatch, phase
):
    """By the best metric those of a search; in folders of their own."""

    class Seen(Exception):
        pass

    def opens(path, **options):
        raise Seen(path, options)

    changes = {"keep": 3, "keep_best": 4, "best_metric": "learner/loss"}
    config = tiny_baseline({f"checkpoint.{key}": v for key, v in changes.items()})
    workdir = SimpleNamespace(path=tmp_path)
    console = Console(quiet=True)
    module = importlib.import_module(search.__module__)
    monkeypatch.setattr(module if phase == "search" else records, "Checkpoints", opens)

    def opened():
        if phase == "search":
            return search(config, training, workdir, Devices(1), console)
        given = (config.checkpoint, workdir, console, 2, 4)
        return records.open_records(phase, *given).__enter__()

    with pytest.raises(Seen) as seen:
        opened()
    path, options = seen.value.args
    assert path == tmp_path / "checkpoints" / {"evaluate": "evaluation"}.get(
        phase, phase
    )
    assert options.pop("say") == console.message
    wanted = {"beside": tmp_path, **changes}
    if phase == "evaluate":
        wanted = {"beside": tmp_path, "keep": 3}
    assert options == wanted


def test_stages_follow_each_other_and_begin_with_keys_of_their_own(
    training, tiny_baseline, tmp_path, monkeypatch
):
    config = tiny_baseline(
        {
            "search.epochs": 2,
            "search.warmup_epochs": 1,
            "search.stage_cells": (1, 2),
            "search.stage_candidates": (4, 3),
            "search.stage_skip_dropout": (0.0, 0.3),
        }
    )
    built, ran, labels = [], [], []

    def build_program(config, data, key, steps_per_epoch, axis_name, stage):
        key = tuple(jax.random.key_data(key).tolist())
        built.append((key, steps_per_epoch, stage))
        return SimpleNamespace(phases=[SimpleNamespace(program=stage.index)])

    def run_phases(setup, streams, key, devices, recorder, state, saved):
        ran.append((setup.phases[0].program, recorder.stage, state, saved))
        return SimpleNamespace(step=4 * len(ran), alphas=f"of stage {len(ran)}")

    def next_space(config, stage, alphas, workdir):
        return f"the space after {stage.index} by {alphas}"

    def derived(state, space, config):
        assert (state.alphas, space) == ("of stage 2", built[1][2].space)
        return found

    class Labels(Console):
        @contextlib.contextmanager
        def progress(self, label, total):
            labels.append((label, total))
            yield None

    found = SimpleNamespace(to_json=lambda: {"the": "cells"})
    module = importlib.import_module(search.__module__)
    for name, stand_in in (
        ("build_program", build_program),
        ("_run_phases", run_phases),
        ("next_space", next_space),
        ("_alphas", lambda state: state.alphas),
        ("_check_best_metric", lambda *of: None),
        ("derived", derived),
    ):
        monkeypatch.setattr(module, name, stand_in)
    workdir = Workdir(tmp_path / "run", config)
    result = search(config, training, workdir, Devices(1), Labels(quiet=True))
    assert result == (found, 4, 8)  # two steps an epoch
    first, second = (of_stage for *_, of_stage in built)
    assert second.space == "the space after 0 by of stage 1"
    assert (first.cells, second.cells) == (1, 2)
    assert [spe for _, spe, _ in built] == [2, 2]
    assert len({key for key, *_ in built}) == 2
    assert labels == [("search 1/2", 8), ("search 2/2", 8)]
    assert [(program, stage) for program, stage, *_ in ran] == [
        (0, first),
        (1, second),
    ]
    before = [(state and state.alphas, saved) for *_, state, saved in ran]
    assert before == [(None, None), ("of stage 1", None)]


@pytest.mark.parametrize("ranked", [False, True])
def test_a_ranking_that_stages_have_left_nothing_of_ends_no_search(
    training, tiny_baseline, tmp_path, monkeypatch, ranked
):
    """It would stand from the first epoch of the last stage on; one edge is enough."""
    config = tiny_baseline(
        {
            "space.ops": ("none", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"),
            "search.stage_cells": (1, 2),
            "search.stage_candidates": (4, 3),
            "search.stage_skip_dropout": (0.0, 0.0),
            "search.stop": "ranking",
            "search.stop_ranking_epochs": 1,
        }
    )
    whole = config.space.build()
    left, both = ("none", "max_pool_3x3", "dil_conv_3x3"), whole.ops[1:]
    last = dataclasses.replace(
        whole, normal=(left, left), reduction=(left, both if ranked else left)
    )
    recorder = _Recorder(config, search_stage(config, 1, last), *3 * [None], 2)
    assert recorder._stops(0.0, Stability({}, 1), None) is ranked
    assert not recorder._stops(0.0, Stability({}, 0), None)

    said = []
    stages = iter((4, 8))
    module = importlib.import_module(search.__module__)
    for name, stand_in in (
        (
            "build_program",
            lambda *of: SimpleNamespace(phases=[SimpleNamespace(program="a program")]),
        ),
        ("_run_phases", lambda *of: SimpleNamespace(step=next(stages), params={})),
        ("next_space", lambda *of: last),
        ("_alphas", lambda state: {}),
        ("_check_best_metric", lambda *of: None),
        ("derived", lambda *of: SimpleNamespace(to_json=lambda: {})),
    ):
        monkeypatch.setattr(module, name, stand_in)
    monkeypatch.setattr(Console, "message", lambda self, text, **how: said.append(text))
    search(config, training, Workdir(tmp_path, config), Devices(1), Console(quiet=True))
    word = [text for text in said if "'ranking' has nothing to judge" in text]
    assert said == ["a program", "a program", *word]
    assert len(word) == (not ranked)
