"""Sweeps: one compiled program for many trade-offs, equal to one program for each."""

import jax
import jax.numpy as jnp
import optax
import pytest

from skillearn_jax.skills import (
    Curriculum,
    TaskModel,
    interleaving_learning,
    learning_by_passing_tests,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this module computes in float64."""


def passing_tests(small, gamma, weight, **options):
    """The program, and its state before the first step."""
    program = learning_by_passing_tests(
        small.learner(),
        small.tester("label"),
        interaction_weight=gamma,
        tester_weight=weight,
        **options,
    )
    return program, program.init(small.params, jax.random.key(0))


def assert_equal_to_the_loop(step, assert_close, *weights):
    """`step(*weights)` for all of them at once, and for one after the other."""
    swept = jax.jit(jax.vmap(step))(*map(jnp.asarray, weights))
    for i, each in enumerate(zip(*weights, strict=True)):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], swept)
        assert_close(row, jax.jit(lambda each=each: step(*each))())


@pytest.mark.parametrize(
    "options", [{}, {"ablation": "exam_only"}], ids=["", "exam_only"]
)
def test_passing_tests_over_both_trade_offs(small, assert_close, options):
    def step(gamma, weight):
        program, state = passing_tests(small, gamma, weight, **options)
        new, metrics = program.step(state, small.batches)
        return new.params, metrics["validation/objective"]

    assert_equal_to_the_loop(step, assert_close, [0.1, 1.0], [2.0, 0.5])


def test_a_traced_0_is_an_interaction_of_weight_0(small, assert_close):
    def gradients(gamma, weight):
        program, state = passing_tests(small, gamma, weight)
        return program.hypergrad(state, small.batches)[0]

    swept = jax.jit(gradients)(0.0, 0.0)
    assert_close(swept, jax.jit(lambda: gradients(0.0, 0.0))())


@pytest.mark.parametrize(
    "options",
    [{}, {"proximal_step": True}, {"proximal_step": True, "optimizer": "each"}],
    ids=["plain", "proximal", "proximal_each"],
)
def test_interleaving_over_the_trade_off_and_the_step(assert_close, options):
    def losses(encoder, head, supporting, model_state, batch, key):
        hidden = jnp.tanh((batch["x"] * supporting["alphas"][None]) @ encoder)
        return (hidden @ head - batch["y"]) ** 2, {}

    def normal(seed, *shape):
        return jax.random.normal(jax.random.key(seed), shape)

    batches = {
        stream: {"x": normal(i, 5, 3), "y": normal(i + 9, 5)}
        for i, stream in enumerate(("train_a", "val_a", "train_b", "val_b"))
    }

    def step(weight, step_size):
        sgd = optax.sgd(0.1, momentum=0.9)
        each = options.get("optimizer")
        program = interleaving_learning(
            [TaskModel("a", losses), TaskModel("b", losses)],
            supporting={"alphas": optax.sgd(0.1)},
            interaction_weight=weight,
            step_size=step_size,
            **{**options, "optimizer": {"encoder": sgd, "head": sgd} if each else sgd},
        )
        params = {
            name: normal(i, *((3, 4) if "encoder" in name else (4,)))
            for i, name in enumerate(program.sets)
        } | {"alphas": jnp.ones(3)}
        state = program.init(params, jax.random.key(0))
        return program.step(state, batches)[0].params

    assert_equal_to_the_loop(step, assert_close, [0.3, 2.0], [0.2, 0.1])


def test_a_curriculum_over_its_thresholds():
    def hardness(threshold, most):
        curriculum = Curriculum(threshold, step=0.5, decay=0.0, max_hardness=most)
        return curriculum.update(curriculum.init(), jnp.array(0.3)).hardness

    swept = jax.vmap(hardness)(jnp.array([0.2, 0.4, 0.4]), jnp.array([2.0, 2.0, 1.25]))
    assert swept.tolist() == [1.0, 1.5, 1.25]
