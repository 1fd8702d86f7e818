"""What model functions return: one number for each example, or one line that says so."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.skills import (
    Curriculum,
    TaskModel,
    baseline,
    interleaving_learning,
    joint_learning,
    learning_by_passing_tests,
)
from skillearn_jax.skills.checks import is_left_out, per_example, with_state


def column(function):
    return lambda *args: function(*args)[:, None]


def averaged(function):
    return lambda *args: jnp.mean(function(*args))


def test_only_a_known_0_is_left_out():
    assert is_left_out(0)
    assert is_left_out(jnp.zeros(()))
    assert not is_left_out(1e-30)
    assert not jax.jit(lambda weight: jnp.array(is_left_out(weight)))(0.0)


def trace(program, params, batches, model_state=None):
    params = {name: params[name] for name in program.sets}
    state = program.init(params, jax.random.key(0), model_state)
    jax.eval_shape(program.step, state, batches)


@pytest.mark.parametrize(
    ("change", "found"), [(column, "(10, 1)"), (averaged, "()")], ids=["column", "mean"]
)
@pytest.mark.parametrize("name", ["losses", "scores", "accuracies"])
def test_a_tester_returns_one_number_for_each_example(small, name, change, found):
    wrong = {name: change(getattr(small.tester("label"), name))}
    program = learning_by_passing_tests(small.learner(), small.tester("label", **wrong))
    message = (
        f"TesterModel.{name} returned shape {found}; one number for each example, "
    )
    with pytest.raises(InputError, match=re.escape(f"{message}(10,), is needed")):
        trace(program, small.params, small.batches)


@pytest.mark.parametrize("name", ["example_losses", "example_errors"])
@pytest.mark.parametrize("change", [column, averaged])
def test_a_learner_returns_one_number_for_each_example(small, name, change):
    losses = small.learner().example_losses
    functions = {"example_errors": losses, name: change(losses)}
    learner, curriculum = small.learner(**functions), Curriculum()
    program = learning_by_passing_tests(
        learner, small.tester("label"), curriculum=curriculum
    )
    message = rf"LearnerModel.{name} returned shape .* \(10,\), is needed"
    state = {"curriculum": curriculum.init()}
    with pytest.raises(InputError, match=message):
        trace(program, small.params, small.batches, state)
    if name == "example_losses":
        with pytest.raises(InputError, match=message):
            trace(baseline(learner), small.params, small.batches)


@pytest.mark.parametrize("rows", [2, 10])
def test_features_without_a_model_state_are_refused(small, rows):
    """Those of two examples would unpack as a pair."""
    tester = small.tester("label", encode=lambda e, state, batch, key: batch["x"] @ e)
    program = learning_by_passing_tests(small.learner(), tester)
    batches = jax.tree.map(lambda leaf: leaf[:rows], small.batches)
    with pytest.raises(
        InputError, match=r"TesterModel.encode returned .* with \{\} where"
    ):
        trace(program, small.params, batches)


@pytest.mark.parametrize("skill", [interleaving_learning, joint_learning])
@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            lambda w, h, sup, state, batch, key: (jnp.sum((batch @ w) ** 2) * h, {}),
            r"TaskModel\('a'\).losses returned shape \(\); .* \(6,\)",
        ),
        # A column less a row is a square.
        (
            lambda w, h, sup, state, batch, key: (
                (batch @ w)[:, None] - (batch @ w)[None],
                {},
            ),
            r"returned shape \(6, 6\); .* \(6,\)",
        ),
        (
            lambda w, h, sup, state, batch, key: batch @ w * h,
            r"TaskModel\('a'\).losses returned .*; a pair \(value, new_model_state\)",
        ),
    ],
)
def test_a_task_returns_one_number_for_each_example(skill, losses, message):
    program = skill(
        [TaskModel("a", losses)],
        supporting={"alphas": optax.sgd(0.1)},
        optimizer=optax.sgd(0.1),
    )
    params = {name: jnp.ones(3 if "encoder" in name else ()) for name in program.sets}
    with pytest.raises(InputError, match=message):
        trace(program, params, {"train_a": jnp.ones((6, 3)), "val_a": jnp.ones((6, 3))})


def test_the_number_of_examples_is_that_of_the_batch():
    row, other = jnp.ones(4), {"x": jnp.ones((4, 2)), "rate": 0.5}
    assert per_example("f", row, other) is row
    # Leaves may disagree, and a function may close over its data.
    assert per_example("f", row, [other, jnp.ones(3)]) is row
    assert per_example("f", row, {}) is row
    with pytest.raises(InputError, match=r"\(3,\) or \(4,\), is needed"):
        per_example("f", jnp.ones(1), [other, jnp.ones(3)])
    with pytest.raises(
        InputError, match=r"f returned type tuple; .* \(B,\), is needed"
    ):
        per_example("f", (row, {}), {})
    with pytest.raises(InputError, match=r"a pair, the second of shape \(4,\)"):
        with_state("f", (row, row))


def test_weights_that_are_arrays_are_looked_at(small):
    """Inside jit too, where a comparison of them would be traced."""

    def names(weight):
        return learning_by_passing_tests(
            small.learner(), small.tester("label"), tester_weight=weight
        ).streams

    for zero in (0, np.float32(0), jnp.zeros(())):
        streams = []
        jax.eval_shape(lambda zero=zero, streams=streams: streams.extend(names(zero)))
        assert tuple(streams) == names(zero) == ("train", "bank")
    with pytest.raises(InputError, match="must be a finite number >= 0"):
        names(jnp.array(-1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda small: small.learner(train_loss=None),
            "the learner has train_loss=None; it must be a function",
        ),
        (
            lambda small: small.learner(example_losses=None),
            "the learner has example_losses=None; it must be a function",
        ),
        (
            lambda small: small.learner(example_errors=0.1),
            "the learner has example_errors=0.1; it must be a function or None",
        ),
        (
            lambda small: small.tester("label", scores=None),
            "the tester has scores=None; it must be a function",
        ),
        (
            lambda small: small.tester("label", optimizers={"encode": optax.sgd(1.0)}),
            r"optimizers for \['encode'\]; there must be one for each of 'encoder'",
        ),
        (
            lambda small: TaskModel("a", None),
            "task 'a' has losses=None; it must be a function",
        ),
    ],
)
def test_models_are_made_of_functions(small, make, message):
    with pytest.raises(InputError, match=message):
        make(small)
