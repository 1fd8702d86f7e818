"""Optimisers that pass no response term are found out and named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.framework import measure_gain, optimizer_gains

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {"w": jnp.asarray([0.3, -0.7, 1.1]), "v": jnp.asarray([[2.0, -1.0]])}
GRADIENT = {"w": jnp.asarray([0.5, 2.0, -1.5]), "v": jnp.asarray([[0.1, 0.4]])}


def gain_of(optimizer, steps=1):
    measured = measure_gain(optimizer)
    state = measured.init(PARAMS)
    for _ in range(steps):
        updates, state = measured.update(GRADIENT, state, PARAMS)
    plain = optimizer.init(PARAMS)
    for _ in range(steps):
        want, plain = optimizer.update(GRADIENT, plain, PARAMS)
    # It measures and changes nothing.
    jax.tree.map(np.testing.assert_array_equal, (updates, state.inner), (want, plain))
    return {name: float(gain) for name, gain in state.gain.items()}


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_gradient_descent_has_gain_one_at_any_rate(rate):
    assert gain_of(optax.sgd(rate)) == pytest.approx({"w": 1, "v": 1}, rel=1e-6)


def test_heavy_ball_gains_by_how_far_it_goes():
    """At step 2 of a constant gradient the step is (1 + mu) g, the derivative 1."""
    gain = gain_of(optax.sgd(0.1, momentum=0.5), steps=2)
    assert gain == pytest.approx({"w": 1 / 1.5, "v": 1 / 1.5}, rel=1e-6)


def test_sign_descent_and_clipping_by_value_have_none():
    assert gain_of(optax.sign_sgd(0.1)) == {"w": 0, "v": 0}
    assert gain_of(optax.chain(optax.clip(0.05), optax.sgd(0.1))) == {"w": 0, "v": 0}


def test_adam_has_almost_none_in_a_fresh_state_and_some_later():
    fresh = gain_of(optax.adam(0.1, eps_root=1e-16))
    later = gain_of(optax.adam(0.1, eps_root=1e-16), steps=20)
    assert all(value < 1e-6 for value in fresh.values())
    assert all(value > 1e-3 for value in later.values())


def test_a_saturated_norm_clip_takes_one_direction_only():
    gain = gain_of(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)))
    assert 0.3 < gain["w"] <= 1


def test_a_zero_gradient_measures_nothing(toy):
    measured = measure_gain(optax.sgd(0.1, momentum=0.5))
    zero = jax.tree.map(jnp.zeros_like, GRADIENT)
    _, state = measured.update(GRADIENT, measured.init(PARAMS), PARAMS)
    _, state = measured.update({**GRADIENT, "v": zero["v"]}, state, PARAMS)
    assert state.gain["w"] > 0
    assert np.isnan(state.gain["v"])


def test_each_set_has_its_own(toy):
    program = toy.program(
        {"optimizer": optax.sgd(0.1)},
        {"optimizer": {"v": optax.sign_sgd(0.1)}},
    )
    state = program.init(toy.params, jax.random.key(0))
    gains = optimizer_gains(program, state, toy.batches)
    assert gains["first"]["w"] == pytest.approx(1, rel=1e-6)
    assert gains["second"]["v"] == 0
    (warning,) = program.check(state, toy.batches).warnings
    assert warning.startswith("stage 'second' passes 0.0e+00")
    assert str(program.check(state, toy.batches)).endswith(f"! {warning}")


def test_a_warm_program_is_not_warned_about(toy, warm):
    program = toy.program()
    fresh = program.init(toy.params, jax.random.key(0))
    assert len(program.check(fresh, toy.batches).warnings) == 1
    state = warm(program, toy.params, toy.batches, steps=5)
    assert program.check(state, toy.batches).warnings == ()


def test_half_precision_does_not_hide_a_gain():
    """The norm of 70,000 numbers, or of ones below 1e-4, is none in float16."""
    measured = measure_gain(optax.sgd(0.1))
    for gradient in (
        jnp.full(70_000, 0.5, jnp.float16),
        jnp.full(9, 1e-4, jnp.float16),
    ):
        params = {"w": jnp.ones_like(gradient)}
        _, state = measured.update({"w": gradient}, measured.init(params), params)
        assert float(state.gain["w"]) == pytest.approx(1, rel=1e-2)
