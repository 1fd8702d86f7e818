"""From a config to a program: who moves, who reads, and what it starts from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import load
from skillearn_jax.framework import Program
from skillearn_jax.hypergrad import Exact, FirstOrder
from skillearn_jax.layers import PerDevice
from skillearn_jax.nas.schedules import skip_dropout_rate, skip_weight
from skillearn_jax.skills import Curriculum
from skillearn_jax.train import build
from skillearn_jax.train.build import build_search, search_models, supernet_forward
from skillearn_jax.train.optimizers import learning_rate
from skillearn_jax.train.stages import search_stage
from skillearn_jax.tree import is_sharded


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def lpt(tiny, data):
    return build_search(tiny(), data, jax.random.key(0), 2)


@pytest.fixture(scope="module")
def baseline(tiny_baseline, data):
    changes = {"search.warmup_epochs": 0}
    return build_search(tiny_baseline(changes), data, jax.random.key(0), 2)


def test_the_warmup_moves_weights_only(lpt):
    warmup, searching = lpt.phases
    assert (warmup.name, warmup.epochs) == ("warmup", 1)
    assert (searching.name, searching.epochs) == ("search", 1)
    assert warmup.program.validation is None
    assert set(searching.program.validation.minimize) == {"alphas"}
    assert set(searching.program.validation.maximize) == {"creator"}
    assert [stage.moves for stage in searching.program.stages] == [
        ("weights",),
        ("encoder", "executor"),
    ]


def test_a_tester_that_does_not_train_rests_in_the_warmup_and_goes_on(tiny, data):
    """Its encoder ascends with the creator, at the rate of the epoch."""
    config = tiny({"lpt.ablation": "difficulty_only", "search.epochs": 4})
    setup = build_search(config, data, jax.random.key(0), 2)
    warmup, searching = setup.phases
    params = {name: setup.params[name] for name in searching.program.sets}
    marked = {
        name: jax.tree.map(lambda leaf: leaf + 7, value)
        for name, value in params.items()
    }
    state = searching.program.init(marked, jax.random.key(0), setup.model_state)
    for phase in (warmup, searching):  # of the next stage
        state = phase.enter(params, state.key, setup.model_state, state)
    for name in ("encoder", "creator"):
        equal = jax.tree.map(np.array_equal, state.params[name], marked[name])
        assert all(jax.tree.leaves(equal)), name
    equal = jax.tree.map(np.array_equal, state.params["weights"], marked["weights"])
    assert not any(jax.tree.leaves(equal))

    encoder = {"w": jnp.zeros(1)}
    optimizer = searching.program.validation.maximize["encoder"]
    step, _ = optimizer.update({"w": jnp.ones(1)}, optimizer.init(encoder), encoder)
    rate = learning_rate(config.tester.weights, 4, 2)
    assert float(step["w"][0]) == pytest.approx(-float(rate(2)), rel=1e-6)
    assert float(rate(2)) < float(rate(0))


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_stage_begins_with_the_tester_and_the_exams_of_the_one_before(
    tiny, tiny_baseline, data, warmup
):
    changes = {"search.warmup_epochs": warmup}
    exams = {**changes, "lpt.curriculum.active": True}
    tester = {"encoder", "executor", "creator", "tester"}
    fresh = {"tester"} if warmup else {"tester", "creator"}  # optimisers
    for config, carried in (
        (tiny(changes), tester),
        (tiny(exams), {*tester, "curriculum"}),
        (tiny_baseline(changes), set()),
    ):
        setups = []
        jax.eval_shape(
            lambda key, config=config, setups=setups: setups.append(
                build_search(config, data, key, 2)
            ),
            jax.random.key(0),
        )
        first, *later = setups[0].phases
        assert set(first.carry) == carried
        assert set(first.reset) == (fresh if carried else set())
        assert [phase.carry for phase in later] == warmup * [None]  # all goes on


def test_no_warmup_is_no_phase(baseline):
    (only,) = baseline.phases
    assert only.name == "search"
    assert only.program.validation is not None


def test_the_sets_and_streams_are_those_of_the_program(lpt, baseline):
    assert set(lpt.params) == {"weights", "alphas", "encoder", "executor", "creator"}
    assert set(lpt.model_state) == {"learner", "tester"}
    assert set(baseline.params) == {"weights", "alphas"}
    assert set(baseline.model_state) == {"learner"}
    for setup in (lpt, baseline):
        program = setup.phases[-1].program
        assert isinstance(program, Program)
        assert set(program.sets) == set(setup.params)
        assert set(program.streams) <= {"train", "val", "bank"}


def test_the_adjoint_is_that_of_the_config(lpt, baseline):
    assert {type(s.adjoint) for s in lpt.phases[-1].program.stages} == {Exact}
    assert {type(s.adjoint) for s in baseline.phases[-1].program.stages} == {FirstOrder}


def test_every_set_moves_by_its_own_optimiser(tiny, data):
    """At the rates of the search and of its epochs; the evaluation has others."""
    changes = {
        "search.weights.lr": 0.5,
        "search.weights.momentum": 0.0,
        "search.alphas.lr": 0.125,
        "search.epochs": 4,
        "tester.weights.lr": 0.25,
        "tester.weights.momentum": 0.0,
        "tester.creator.lr": 0.0625,
        "evaluation.weights.lr": 9.0,
        "evaluation.epochs": 9,
    }
    by_sgd = {"weights": 0.5, "encoder": 0.25, "executor": 0.25}
    by_adam = {"alphas": 0.125, "creator": 0.0625}
    setups = []
    jax.eval_shape(
        lambda key: setups.append(build_search(tiny(changes), data, key, 2)),
        jax.random.key(0),
    )
    program = setups[0].phases[-1].program
    learner, tester = (stage.optimizer for stage in program.stages)
    supporting = program.validation.minimize | program.validation.maximize
    optimizers = {"weights": learner, **tester, **supporting}
    assert optimizers.keys() == {*by_sgd, *by_adam}
    sets, one = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    for name, optimizer in optimizers.items():
        state, moves = optimizer.init(sets), []
        for _ in range(3):  # of two steps an epoch
            move, state = optimizer.update(one, state, sets)
            moves.append(-float(move["w"][0]))
        if name in by_sgd:
            share = (1 + np.cos(np.pi / 4)) / 2
            last = 0.001 + (by_sgd[name] - 0.001) * share
            expected = [by_sgd[name], by_sgd[name], last]
        else:  # equal gradients make equal moves
            expected = 3 * [by_adam[name]]
        np.testing.assert_allclose(moves, expected, rtol=1e-5, err_msg=name)


def test_what_changes_with_the_epochs_is_that_of_the_epoch(tiny):
    """From the first step of an epoch to its last; the steps are those of the weights."""
    config = tiny(
        {
            "search.epochs": 4,
            "search.warmup_epochs": 2,
            "search.auxiliary_skip": "linear",
            "search.stage_cells": (1,),
            "search.stage_candidates": (4,),
            "search.stage_skip_dropout": (0.6,),
        }
    )

    class Tells:
        def apply(
            self, variables, images, alphas, *, skip_weight, skip_dropout_rate, **rest
        ):
            masks = jax.random.key_data(rest["rngs"]["skip_dropout"])
            told = jnp.stack([skip_weight, skip_dropout_rate]), masks
            return told, {"batch_stats": {}}

    stage = search_stage(config, 0, config.space.build())
    forward = supernet_forward(Tells(), config, 3, stage)
    for steps in range(12):
        before = {"batch_stats": {}, "steps": jnp.int32(steps)}
        key = jax.random.key(steps)
        (told, masks), after = forward({}, {}, before, jnp.zeros(1), key)
        np.testing.assert_array_equal(masks, jax.random.key_data(key))
        expected = (
            skip_weight("linear", steps // 3, 4),
            skip_dropout_rate(0.6, steps // 3, 4, 2),
        )
        np.testing.assert_allclose(told, expected, rtol=1e-6)
        assert after["steps"] == steps + 1


def test_errors_are_of_the_learner_and_accuracies_of_the_tester(
    tiny, data, monkeypatch
):
    """Of logits that are known: one example of four is right."""
    logits = 3.0 * jnp.eye(10)[:4] + 0.5
    labels = jnp.array([0, 4, 5, 6])
    losses = np.log(np.exp(np.array([3.0, 0, 0, 0])).sum() + 6) - [3, 0, 0, 0]

    class Tells:
        def apply(self, *args, **options):
            return logits, {"batch_stats": {}}

    monkeypatch.setattr(build, "make_supernet", lambda *args: Tells())
    config, key = tiny(), jax.random.key(0)
    stage = search_stage(config, 0, config.space.build())
    learner, tester, _ = search_models(config, data, 2, None, stage)
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": labels}
    state = {"learner": {"batch_stats": {}, "steps": jnp.int32(0)}}
    sets = {"weights": {}}, {"alphas": {}}
    loss, told = learner.train_loss(*sets, state, {"train": batch}, key)
    assert float(loss) == pytest.approx(losses.mean(), rel=1e-6)
    assert float(told.metrics["error"]) == 0.75
    of_examples = ({}, {"alphas": {}}, state, batch, key)
    np.testing.assert_allclose(learner.example_losses(*of_examples), losses, rtol=1e-6)
    wrong = [False, True, True, True]
    assert learner.example_errors(*of_examples).tolist() == wrong
    # An executor that hands its features on: they are the logits.
    executor = {"Dense_0": {"kernel": jnp.eye(10), "bias": jnp.zeros(10)}}
    np.testing.assert_allclose(
        tester.losses(executor, logits, batch), losses, rtol=1e-6
    )
    right = tester.accuracies(executor, logits, batch)
    assert right.tolist() == [not each for each in wrong]


def test_the_tasks_are_named_by_the_data_that_are_given(tiny, data):
    """Not by the config, which arrays of one's own leave as it is."""
    config, mine = tiny(), dataclasses.replace(data, name="mine")
    stage = search_stage(config, 0, config.space.build())
    learner, tester, _ = search_models(config, mine, 2, None, stage)
    assert learner.task == "classify mine; supernet of 1 cell"
    assert tester.task == "classify mine; small encoder"


def test_alphas_are_small_and_random(lpt, tiny):
    for logits in lpt.params["alphas"].values():
        assert logits.shape == (2, len(tiny().space.ops))
        assert 0 < float(jnp.abs(logits).max()) < 0.01


def test_the_key_decides(tiny_baseline, data, baseline):
    config = tiny_baseline({"search.warmup_epochs": 0})
    same = build_search(config, data, jax.random.key(0), 2)
    other = build_search(config, data, jax.random.key(1), 2)
    equal = jax.tree.map(np.array_equal, same.params, baseline.params)
    assert all(jax.tree.leaves(equal))
    assert not np.array_equal(
        other.params["alphas"]["normal"], same.params["alphas"]["normal"]
    )


def test_the_learner_does_not_depend_on_the_skill(lpt, baseline):
    """So that a comparison of skills starts from the same weights."""
    for name in ("weights", "alphas"):
        equal = jax.tree.map(np.array_equal, lpt.params[name], baseline.params[name])
        assert all(jax.tree.leaves(equal)), name


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_resnet_may_be_the_tester(tiny, data, stem):
    config = tiny({"tester.encoder": "resnet18", "tester.stem": stem})
    shapes = jax.eval_shape(
        lambda key: build_search(config, data, key, 2).params, jax.random.key(0)
    )
    kernels = [leaf.shape for leaf in jax.tree.leaves(shapes["encoder"])]
    first = (7, 7, 1, 64) if stem == "imagenet" else (3, 3, 1, 64)
    assert first in kernels
    heads = {leaf.shape for leaf in jax.tree.leaves(shapes["executor"])}
    assert heads == {(512, 10), (10,)}


def test_the_keys_of_learning_by_passing_tests_are_those_of_the_skill(
    tiny, data, monkeypatch
):
    class Seen(Exception):
        pass

    def skill(learner, tester, **options):
        raise Seen(options)

    monkeypatch.setattr(build, "learning_by_passing_tests", skill)
    changes = {
        "interaction_weight": 0.5,
        "tester_weight": 0.25,
        "exam_loss": "mean",
        "exam_scores": "fixed",
        "stale_reads": True,
        "ablation": "exam_only",
        "order": "alternate",
    }
    more = {"lpt.curriculum.active": True, "lpt.curriculum.start": 2.0}
    config = tiny({**{f"lpt.{name}": v for name, v in changes.items()}, **more})
    with pytest.raises(Seen) as seen:
        build_search(config, data, jax.random.key(0), 2, "devices")
    (options,) = seen.value.args
    assert options == {
        **changes,
        "curriculum": Curriculum(start=2.0),
        "adjoint": Exact(),
        "tester_adjoint": Exact(),
        "axis_name": "devices",
    }


@pytest.mark.parametrize("split", ["sharded", "replicated"])
@pytest.mark.parametrize("norm", ["synchronized", "per_device"])
def test_the_tester_is_laid_over_the_devices_as_the_config_says(
    tiny, data, monkeypatch, split, norm
):
    axes = []
    monkeypatch.setattr(build, "SmallEncoder", lambda axis_name: axes.append(axis_name))
    changes = {"parallel.tester_optimizer": split, "parallel.batch_norm": norm}
    config = tiny(changes)
    stage = search_stage(config, 0, config.space.build())
    tester = search_models(config, data, 2, "devices", stage).tester
    assert axes == ["devices" if norm == "synchronized" else PerDevice("devices")]
    for name, optimizer in tester.optimizers.items():
        leaves = jax.tree.leaves(optimizer.init({"w": jnp.ones(3)}), is_leaf=is_sharded)
        assert any(map(is_sharded, leaves)) is (
            split == "sharded" and name != "creator"
        )
