"""Runs over several data sets: their programs, their streams, what they leave."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import from_arrays, halves, load
from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import FirstOrder
from skillearn_jax.nas import Supernet
from skillearn_jax.nas.nasbench201 import Architecture
from skillearn_jax.parallel import Devices
from skillearn_jax.train import run
from skillearn_jax.train.build import build_search
from skillearn_jax.train.build_tasks import build_tasks, schedule_of
from skillearn_jax.train.checks import check
from skillearn_jax.train.exams import load_bank
from skillearn_jax.train.images import load_images
from skillearn_jax.train.optimizers import learning_rate
from skillearn_jax.train.report_summary import story
from skillearn_jax.train.search_shown import shown
from skillearn_jax.train.search_streams import longest_epoch, streams_of
from skillearn_jax.train.tasks import task_config

pytestmark = pytest.mark.usefixtures("quick_module")

NAMES = ("a", "b")
TASKS = {
    "skill": "interleaving",
    "tasks": NAMES,
    "hypergrad.adjoint": "first_order",
    "search.warmup_epochs": 0,
    "search.epochs": 1,
    "data.batch_size": 8,
    "evaluation.batch_size": 8,
    "evaluation.num_seeds": 1,
    "evaluation.num_random": 0,
}


def make(name, side, channels, classes, count):
    rng = np.random.default_rng(side)
    pixels = rng.integers(0, 256, (count, side, side, channels), np.uint8)
    labels = np.arange(count) % classes
    return from_arrays(name, pixels, labels, pixels[:10], labels[:10])


@pytest.fixture(scope="module")
def given():
    """Two sets that agree in nothing."""
    return {"b": make("b", 8, 3, 3, 40), "a": make("a", 6, 1, 2, 20)}


@pytest.mark.parametrize("other", ["digits", (np.zeros(3), np.zeros(3))])
def test_data_of_another_kind_are_refused(other, config, given, tiny_baseline):
    match = f"data holds a {type(other).__name__}; it must be what .*from_arrays"
    with pytest.raises(InputError, match=match):
        load_images(tiny_baseline(), other)
    with pytest.raises(InputError, match=match):
        load_images(config(), {**given, "a": other})


@pytest.fixture
def config(tiny):
    return lambda changes=(): tiny({**TASKS, **dict(changes)})


@pytest.mark.parametrize(
    ("changes", "stages", "sets"),
    [
        (
            {"interleaving.weights": "copies"},
            ["turn_1_a", "turn_2_b", "turn_3_a", "turn_4_b"],
            {f"{part}_{i}" for part in ("encoder", "head") for i in (1, 2, 3, 4)},
        ),
        (
            {"skill": "blocked", "interleaving.weights": "per_task"},
            ["turn_1_a", "turn_2_a", "turn_3_b", "turn_4_b"],
            {f"{part}_{name}" for part in ("encoder", "head") for name in NAMES},
        ),
        ({"skill": "joint"}, ["joint"], {"encoder", "head_a", "head_b"}),
        (
            {"skill": "sequential", "interleaving.rounds": 1},
            ["turn_1_a", "turn_2_b"],
            {"encoder", "head_a", "head_b"},
        ),
        (
            {
                "interleaving.schedule": ("b", "a", "b"),
                "interleaving.transfer": "copy",
                "interleaving.weights": "shared",
                "interleaving.heads": (5, 0),
            },
            ["turn_1_b", "turn_2_a", "turn_3_b"],
            {"encoder", "head_a", "head_b"},
        ),
    ],
)
def test_every_skill_becomes_a_program_that_can_be_traced(
    changes, stages, sets, config, given, monkeypatch
):
    """And the supernet is traced once for each task, however many turns there are."""
    config = config(changes)
    check(config)
    data = load_images(config, given)
    setup = build_tasks(config, data, jax.random.key(0), steps_per_epoch=2)
    (phase,) = setup.phases
    program = phase.program
    assert [stage.name for stage in program.stages] == stages
    assert set(program.sets) == set(setup.params) == sets | {"alphas"}
    assert set(program.streams) == {"train_a", "train_b", "val_a", "val_b"}
    batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.zeros(4, jnp.int32)}
    batches = dict.fromkeys(program.streams, batch)

    def step(key):
        state = program.init(setup.params, key, setup.model_state)
        return state, *program.step(state, batches)

    traces, apply = [], Supernet.apply
    monkeypatch.setattr(
        Supernet, "apply", lambda *args, **kw: traces.append(1) or apply(*args, **kw)
    )
    before, after, metrics = jax.eval_shape(step, jax.random.key(0))
    assert len(traces) == len(NAMES)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert {"validation/loss_a", "validation/loss_b"} <= set(metrics)
    values = dict.fromkeys(metrics, 100.0)
    values |= {f"{name}/loss": float(i) for i, name in enumerate(stages, start=1)}
    first, *_ = of_bar = shown(values)
    assert first == "loss"
    assert of_bar["loss"] == (1 + len(stages)) / 2


def test_turns_begin_alike_and_heads_fit_their_tasks(config, given):
    config = config({"interleaving.heads": (5, 0)})
    data = load_images(config, given)
    params = build_tasks(config, data, jax.random.key(0), 2).params
    for name in ("encoder_2", "encoder_3", "encoder_4"):
        assert jax.tree.all(
            jax.tree.map(np.array_equal, params["encoder_1"], params[name])
        )
    biases = {
        name: [leaf.shape for leaf in jax.tree.leaves(params[name]) if leaf.ndim == 1]
        for name in params
        if name.startswith("head")
    }
    assert biases["head_1"] == biases["head_3"] == [(5,), (2,)]
    assert biases["head_2"] == biases["head_4"] == [(3,)]
    # With one key for both, the smaller array would begin the larger one.
    drawn = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params[name])])
        for name in ("head_1", "head_2", "head_3", "head_4")
    ]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    np.testing.assert_array_equal(drawn[1], drawn[3])
    assert not np.intersect1d(drawn[0], drawn[1]).size


def test_the_encoder_is_that_of_a_search_on_one_set(config, given):
    data = load_images(config(), given)
    several = build_tasks(config(), data, jax.random.key(0), 2).params
    one = dataclasses.replace(config(), skill="baseline", tasks=())
    alone = build_search(one, data["a"], jax.random.key(0), 2).params
    assert set(alone["weights"]) - set(several["encoder_1"]) == {"head"}
    for name, part in several["encoder_1"].items():
        assert jax.tree.all(jax.tree.map(np.array_equal, part, alone["weights"][name]))
    equal = jax.tree.map(np.array_equal, several["alphas"], alone["alphas"])
    assert jax.tree.all(equal)


def test_what_fades_with_the_epochs_counts_steps_and_not_turns(config, given):
    """Three turns of a task in a step are one step for its schedules."""
    config = config(
        {
            "search.auxiliary_skip": "linear",
            "search.epochs": 2,
            "interleaving.schedule": ("a", "a", "a", "b"),
            "interleaving.transfer": "copy",
            "interleaving.weights": "shared",
        }
    )
    data = load_images(config, given)
    setup = build_tasks(config, data, jax.random.key(0), steps_per_epoch=2)
    program = setup.phases[0].program
    state = program.init(setup.params, jax.random.key(0), setup.model_state)
    image = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    batch = {"image": image, "label": jnp.arange(4) % 2}
    (turn,) = [s for s in program.stages if s.name == "turn_1_a"]

    @jax.jit
    def loss(steps):
        learner = {**state.model_state["learner_a"], "steps": steps}
        moves = {name: state.params[name] for name in turn.moves}
        model_state = {**state.model_state, "learner_a": learner}
        reads = {"alphas": state.params["alphas"]}
        value, _ = turn(moves, reads, model_state, {"train_a": batch}, state.key)
        return value

    losses = [float(loss(jnp.int32(steps))) for steps in (0, 5, 6, 11)]
    assert losses[0] == losses[1] != losses[2] == losses[3]


def test_an_epoch_passes_the_largest_task_and_streams_differ(config, given):
    data = load_images(config(), given)
    streams = streams_of(config(), data)
    assert set(streams) == {"train_a", "val_a", "train_b", "val_b"}
    assert streams["train_a"].examples.size == 10
    assert longest_epoch(streams) == 2
    assert streams["train_a"].mean == data["a"].mean != data["b"].mean
    for name, each in data.items():  # the first half of each class trains
        for part, of_task in zip(
            ("train", "val"), halves(each.train, stratified=True), strict=True
        ):
            examples = streams[f"{part}_{name}"].examples
            np.testing.assert_array_equal(examples.image, of_task.image)
            np.testing.assert_array_equal(examples.label, of_task.label)


def test_the_keys_of_interleaving_are_those_of_the_program(config, given):
    """A lambda that a plain step could not take; xi is the rate of the weights."""
    changes = {
        "interleaving.interaction_weight": 2.0,
        "interleaving.proximal_step": True,
        "interleaving.coupling": "stop_gradient",
        "search.alphas.lr": 0.125,
        "search.epochs": 4,
        "search.weights.lr": 0.5,
        "search.weights.momentum": 0.0,
        "search.weights.clip": 0.0,
        "search.weights.weight_decay": 0.0,
    }
    data, weights = load_images(config(), given), config(changes).search.weights
    setups = []
    jax.eval_shape(
        lambda key: setups.append(build_tasks(config(changes), data, key, 2)),
        jax.random.key(0),
    )
    program = setups[0].phases[0].program
    first, second, *_ = program.stages
    assert (first.interaction, second.interaction_weight) == (None, 2.0)
    assert (first.detached, second.detached) == ((), ("encoder_1",))
    assert {type(stage.adjoint) for stage in program.stages} == {FirstOrder}
    alphas, one = {"a": jnp.zeros(1)}, {"a": jnp.ones(1)}
    optimizer = program.validation.minimize["alphas"]
    move, _ = optimizer.update(one, optimizer.init(alphas), alphas)
    assert float(move["a"][0]) == pytest.approx(-0.125, rel=1e-5)
    sets = {name: jnp.zeros(1) for name in second.moves}
    ones = {name: jnp.ones(1) for name in second.moves}
    of_turn, rate = second.optimizer.init(sets), learning_rate(weights, 4, 2)
    for step in range(3):  # of two steps an epoch
        moves, of_turn = second.optimizer.update(ones, of_turn, sets)
        damped = -float(rate(step)) / (1 + 2 * 0.5 * 2)
        assert float(moves["encoder_2"][0]) == pytest.approx(damped, rel=1e-5)
        assert float(moves["head_2"][0]) == pytest.approx(-float(rate(step)), rel=1e-5)
    assert float(rate(2)) < float(rate(1)) == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ()}, "config.tasks"),
        (
            {"tasks": ("a", "a")},
            "set --config.tasks, and --config.data.sources to what",
        ),
        ({"tasks": ("a:8", "A/8")}, "no two may differ in capitals and signs alone"),
        ({"tasks": ("a", "")}, "and none be empty"),
        ({"data.sources": ("npz",)}, "a source for each"),
        (
            {"skill": "baseline", "tasks": (), "data.sources": ("npz",)},
            "config.data.sources is ('npz',), but baseline searches on one data set",
        ),
        ({"data.sources": ("npz", "stream:x")}, "config.data.sources holds 'stream:x'"),
        ({"skill": "lpt"}, "one data set"),
        (
            {"interleaving.schedule": ("a",)},
            "--config.interleaving.schedule=('a',) must hold every task and no other",
        ),
        ({"interleaving.schedule": NAMES, "skill": "blocked"}, "makes its own"),
        ({"interleaving.heads": (1, 2, 3)}, "a width for each"),
        ({"data.dirs": ("x",)}, "a folder for each"),
        (
            {"interleaving.interaction_weight": 100.0},
            "--config.interleaving.interaction_weight=100 with "
            "--config.search.weights.lr=0.025: 2 xi lambda is 5",
        ),
        (
            {"interleaving.coupling": "stop_gradient", "interleaving.transfer": "copy"},
            "transfer=proximal",
        ),
        (
            {"interleaving.proximal_step": True, "interleaving.transfer": "copy"},
            "set --config.interleaving.proximal_step=False, or "
            "--config.interleaving.transfer=proximal",
        ),
        ({"interleaving.weights": "shared"}, "transfer=copy"),
        ({"evaluation.rivals": ("nowhere",)}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_one_line_with_a_flag(changes, words, config):
    with pytest.raises(InputError, match="--config") as error:
        check(config(changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_large_weights_are_fine_with_a_proximal_step(config):
    changes = {"interleaving.proximal_step": True}
    check(config({**changes, "interleaving.interaction_weight": 100.0}))
    # Without it 2 xi lambda may be 1 and no more.
    check(config({"interleaving.interaction_weight": 20.0}))
    with pytest.raises(InputError, match=r"2 xi lambda is 1\.01, and above 1"):
        check(config({"interleaving.interaction_weight": 20.2}))


def test_a_copied_encoder_is_not_pulled_whatever_the_step(config, given):
    config = config(
        {
            "interleaving.interaction_weight": 100.0,
            "interleaving.transfer": "copy",
            "search.weights.lr": 0.6,
        }
    )
    check(config)
    data, program = load_images(config, given), []
    jax.eval_shape(
        lambda key: program.extend(build_tasks(config, data, key, 2).phases),
        jax.random.key(0),
    )
    assert all(stage.interaction is None for stage in program[0].program.stages)


def test_given_data_must_have_the_names(config, given, tiny_baseline):
    with pytest.raises(InputError, match=r"config\.tasks"):
        load_images(config(), {"a": given["a"]})
    with pytest.raises(InputError, match="mapping"):
        load_images(config(), given["a"])
    single = load_images(tiny_baseline({"data.image_size": 4}), given["b"])
    assert single.image_shape == (4, 4, 3)


def test_one_task_alone_has_its_own_folder(config):
    alone = task_config(config({"data.dirs": ("x", "y")}), "b")
    assert (alone.data.name, alone.data.dir, alone.tasks) == ("b", "y", ())
    sources = {"data.dirs": ("x", "y"), "data.sources": ("npz", "folder")}
    alone = task_config(config(sources), "b")
    assert (alone.data.name, alone.data.dir, alone.data.sources) == ("folder", "y", ())


def test_two_sets_of_ones_own_are_told_apart_by_names(config, given, tmp_path):
    files = []
    for name, data in given.items():
        files.append(str(tmp_path / f"{name}.npz"))
        arrays = {
            f"{split}_{key}s": getattr(examples, key)
            for split, examples in (("train", data.train), ("test", data.heldout))
            for key in ("image", "label")
        }
        np.savez(files[-1], **arrays)
    both = config(
        {
            "tasks": ("mine", "yours"),
            "data.sources": ("npz", "npz"),
            "data.dirs": tuple(files),
        }
    )
    check(both)
    read = load_images(both, None)
    assert {name: data.name for name, data in read.items()} == {
        "mine": "b",
        "yours": "a",
    }
    assert schedule_of(config({"interleaving.rounds": 3})) == NAMES * 3


@pytest.fixture(scope="module")
def done(tiny, given, tmp_path_factory, quick_module):
    """A finished joint search, compared with itself under another name."""
    folder = tmp_path_factory.mktemp("tasks")
    config = tiny({**TASKS, "skill": "joint", "evaluation.epochs": 0})
    first = run(config, folder / "first", data=given, quiet=True)
    config = tiny(
        {**TASKS, "skill": "joint", "evaluation.rivals": (str(folder / "first"),)}
    )
    return folder, first, run(config, folder / "second", data=given, quiet=True)


def test_a_run_reports_every_task_beside_its_rivals(done):
    folder, first, second = done
    assert first.genotype == second.genotype
    assert second.summary["dataset"] == "a and b"
    rows = second.summary["evaluation"]["rows"]
    names = [row["name"] for row in rows]
    assert names == ["derived on a", "first on a", "derived on b", "first on b"]
    errors = json.loads((folder / "second" / "evaluation.json").read_text())
    assert set(errors) == {"a", "b"}
    same = "The cells of first are the derived ones."
    assert second.summary["evaluation"]["verdict"] == f"On a: {same} On b: {same}"
    assert [row["task"] for row in rows] == ["a", "a", "b", "b"]
    for name in NAMES:
        of_task = errors[name]
        # The same cells, trained with the same seeds on the same data.
        assert of_task["derived"] == of_task["first"]
        own = folder / "second" / "tasks" / name
        assert (own / "report" / "index.html").exists()
        summary = json.loads((own / "summary.json").read_text())
        assert summary["evaluation"]["comparisons"].keys() == {"first"}
        assert story(summary).startswith(
            "A cell was searched on a and b by joint learning of all tasks. The network "
            f"derived from it was then trained from scratch on {name} for "
        )
    page = second.report.read_text()
    assert "derived on b" in page
    for name in NAMES:
        entry = second.summary["evaluation"]["tasks"][name]
        assert entry["num_heldout"] == 10
        error = f"{entry['rows'][0]['mean']:.2f}"
        assert re.search(f"on {name} for .* errs on {error} % of 10 held-out", page)
        assert f"<dt>parameters on {name}</dt>" in page
    assert "cells of first" in page


def test_a_finished_run_is_not_trained_again(done, given, tiny, monkeypatch):
    folder, _, second = done
    monkeypatch.setattr(Devices, "compile", None)
    config = tiny(
        {**TASKS, "skill": "joint", "evaluation.rivals": (str(folder / "first"),)}
    )
    (folder / "second" / "summary.json").unlink()
    again = run(config, folder / "second", data=given, quiet=True)
    assert again.summary["evaluation"] == second.summary["evaluation"]


def test_rivals_are_of_the_same_space(tiny, tmp_path):
    cell = Architecture.from_index(7).to_json()
    (tmp_path / "genotype.json").write_text(json.dumps(cell))
    config = tiny({"evaluation.rivals": (str(tmp_path),)})
    with pytest.raises(InputError, match=r"not of the space 'darts' of this run: set"):
        check(config)


def test_one_folder_is_that_of_the_tasks_that_read_one(tiny, tmp_path):
    mine = load("digits").train
    arrays = {"images": mine.image[:40], "labels": mine.label[:40]}
    both = {f"{part}_{k}": v for part in ("train", "test") for k, v in arrays.items()}
    np.savez(tmp_path / "mine.npz", **both)
    tasks = {"tasks": ("digits", "npz"), "data.dir": str(tmp_path / "mine.npz")}
    images = load_images(tiny({**TASKS, **tasks}), None)
    assert images["npz"].num_train == 40 != images["digits"].num_train
    none_reads = tiny({**TASKS, **tasks, "tasks": ("digits", "mnist5k")})
    with pytest.raises(
        InputError, match=r"'digits' .* leave --config\.data\.dir empty"
    ):
        load_images(none_reads, None)
    dirs = {"data.dir": "", "data.dirs": ("elsewhere", str(tmp_path / "mine.npz"))}
    with pytest.raises(InputError, match=r"'elsewhere' .* leave --config\.data\.dirs "):
        load_images(tiny({**TASKS, **tasks, **dirs}), None)


def test_data_that_are_not_there_are_named_with_their_own_flags(tiny, tiny_baseline):
    bank = {"lpt.bank": "npz", "lpt.bank_dir": "/no/where.npz"}
    with pytest.raises(InputError, match=r"set --config\.lpt\.bank_dir to"):
        load_bank(tiny(bank), load("digits"))
    tasks = {**TASKS, "tasks": ("mnist5k", "digit")}
    with pytest.raises(InputError, match=r"'digit': set --config\.tasks to one of"):
        load_images(tiny(tasks), None)
    sources = {**TASKS, "data.sources": ("mnist5k", "digit")}
    with pytest.raises(
        InputError, match=r"'digit': set --config\.data\.sources to one"
    ):
        load_images(tiny(sources), None)
    folders = {"tasks": ("mnist5k", "npz"), "data.dirs": ("", "/no/where.npz")}
    with pytest.raises(InputError, match=r"set --config\.data\.dirs to"):
        load_images(tiny({**TASKS, **folders}), None)
    with pytest.raises(InputError, match=r"set --config\.data\.dir to"):
        load_images(tiny_baseline({"data.name": "npz", "data.dir": "/no.npz"}), None)
