"""The optimisers of differentiable search, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.train.config import AdamConfig, SgdConfig
from skillearn_jax.train.optimizers import adam, clip_by_global_norm, learning_rate, sgd


def cosine(lr, min_lr, epoch, epochs):
    """The closed form in the documentation of PyTorch's CosineAnnealingLR."""
    return min_lr + (lr - min_lr) * (1 + np.cos(np.pi * epoch / epochs)) / 2


def steps_of(optimizer, params, grads):
    """Returns the parameters after each gradient."""
    state, values = optimizer.init(params), []
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        values.append(params)
    return values


def test_cosine_changes_at_each_epochs_start(x64):
    schedule = learning_rate(SgdConfig(lr=0.025, min_lr=0.001), 5, steps_per_epoch=3)
    rates = [float(schedule(jnp.int32(step))) for step in range(15)]
    expected = [cosine(0.025, 0.001, step // 3, 5) for step in range(15)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert rates[0] == rates[1] == rates[2] == 0.025
    assert rates[3] < rates[2]


def test_by_step_the_rate_falls_within_an_epoch(x64):
    config = SgdConfig(lr=0.1, min_lr=0.0, by_step=True)
    schedule = learning_rate(config, 5, steps_per_epoch=3)
    rates = [float(schedule(jnp.int32(step))) for step in range(16)]
    expected = [cosine(0.1, 0.0, step / 3, 5) for step in range(16)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-17)


def test_by_step_the_rate_rises_within_an_epoch_of_the_warm_up(x64):
    config = SgdConfig(lr=0.1, min_lr=0.0, by_step=True, warmup_epochs=2)
    schedule = learning_rate(config, 5, steps_per_epoch=4)
    rates = [float(schedule(jnp.int32(step))) for step in range(12)]
    expected = [
        cosine(0.1, 0.0, step / 4, 5) * min((step / 4 + 1) / 2, 1) for step in range(12)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_cosine_ends_and_stays_at_its_minimum(x64):
    schedule = learning_rate(SgdConfig(lr=0.025, min_lr=0.001), 5, steps_per_epoch=3)
    for step in (15, 16, 1000):
        assert float(schedule(jnp.int32(step))) == pytest.approx(0.001, rel=1e-12)


def test_sgd_clips_then_decays_then_gathers_momentum(x64):
    config = SgdConfig(lr=0.5, min_lr=0.1, momentum=0.9, weight_decay=0.25, clip=1.0)
    w = np.asarray([2.0, -1.0])
    # The first is clipped from norm 5, the second is left alone.
    grads = [np.asarray([3.0, 4.0]), np.asarray([0.25, 0.5]), np.asarray([0.5, 0.0])]
    optimizer = sgd(config, epochs=2, steps_per_epoch=2)
    taken = steps_of(optimizer, jnp.asarray(w), [jnp.asarray(g) for g in grads])
    buffer = np.zeros(2)
    for step, (grad, value) in enumerate(zip(grads, taken, strict=True)):
        norm = np.linalg.norm(grad)
        grad = grad / norm if norm > 1 else grad
        buffer = 0.9 * buffer + (grad + 0.25 * w)
        w = w - cosine(0.5, 0.1, step // 2, 2) * buffer
        np.testing.assert_allclose(value, w, rtol=1e-12)


def test_clip_zero_does_not_clip_and_momentum_zero_keeps_no_buffer(x64):
    config = SgdConfig(lr=0.5, min_lr=0.5, momentum=0.0, weight_decay=0.0, clip=0.0)
    optimizer = sgd(config, epochs=1, steps_per_epoch=1)
    w, grad = jnp.asarray([1.0, 2.0]), jnp.asarray([300.0, -400.0])
    (value,) = steps_of(optimizer, w, [grad])
    np.testing.assert_allclose(value, w - 0.5 * grad, rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-21, 1e-3])
def test_clipping_has_a_derivative_where_squares_underflow(size):
    """Which optax's has not: hardened exams have gradients of that size in float32."""

    def clipped(scale):
        grads = {"w": jnp.float32(size) * scale * jnp.asarray([3.0, 4.0])}
        clip = clip_by_global_norm(5.0)
        return clip.update(grads, clip.init(grads))[0]["w"].sum()

    want = 7 * size if size * 5 < 5 else 0.0
    assert float(jax.grad(clipped)(1.0)) == pytest.approx(want, rel=1e-6)


def test_an_optimiser_may_start_in_a_later_epoch(x64):
    config = SgdConfig(lr=0.5, min_lr=0.1, momentum=0.0, weight_decay=0.0, clip=0.0)
    for accumulate, updates in ((1, 1), (2, 2)):
        optimizer = sgd(config, 4, 6, accumulate, start_epoch=3)
        ones = [jnp.ones(1)] * updates
        *_, w = steps_of(optimizer, jnp.zeros(1), ones)
        np.testing.assert_allclose(w, -cosine(0.5, 0.1, 3, 4), rtol=1e-12)


def test_adam_has_its_decay_inside_the_gradient(x64):
    config = AdamConfig(lr=0.1, beta1=0.5, beta2=0.75, weight_decay=0.5)
    w = np.asarray([2.0, -1.0, 0.5])
    grads = [np.asarray([1.0, -0.5, 0.0]), np.asarray([0.5, 0.25, -1.0])]
    taken = steps_of(adam(config), jnp.asarray(w), [jnp.asarray(g) for g in grads])
    first, second = np.zeros(3), np.zeros(3)
    for t, (grad, value) in enumerate(zip(grads, taken, strict=True), start=1):
        grad = grad + 0.5 * w
        first = 0.5 * first + 0.5 * grad
        second = 0.75 * second + 0.25 * grad**2
        root = np.sqrt(second / (1 - 0.75**t))
        w = w - 0.1 * first / (1 - 0.5**t) / (root + 1e-8)
        np.testing.assert_allclose(value, w, rtol=1e-9)


@pytest.mark.parametrize("warmup", [0, 2])
def test_linear_exponential_and_warm_up(warmup, x64):
    for name, rate_of in (
        ("linear", lambda epoch: 0.01 + (0.5 - 0.01) * (1 - epoch / 4)),
        ("exponential", lambda epoch: 0.5 * 0.9**epoch),
    ):
        config = SgdConfig(
            lr=0.5, min_lr=0.01, schedule=name, decay=0.9, warmup_epochs=warmup
        )
        schedule = learning_rate(config, 4, steps_per_epoch=3)
        for step in range(12):
            epoch = step // 3
            want = rate_of(epoch) * (min(epoch + 1, warmup) / warmup if warmup else 1)
            assert float(schedule(jnp.int32(step))) == pytest.approx(want, rel=1e-6)
        for step in (12, 15, 1000):  # where it has ended
            last = pytest.approx(rate_of(4), rel=1e-6)
            assert float(schedule(jnp.int32(step))) == last


def test_adam_clips_before_it_decays(x64):
    free = AdamConfig(weight_decay=0.5)
    clipped = AdamConfig(weight_decay=0.5, clip=1.0)
    w, grad = jnp.asarray([2.0, -1.0]), jnp.asarray([3.0, 4.0])
    small = [grad / 5, grad / 5]  # of norm 1
    expected = steps_of(adam(free), w, small)
    np.testing.assert_allclose(
        steps_of(adam(clipped), w, [grad, 2 * grad]), expected, rtol=1e-12
    )
    other = steps_of(adam(free), w, [grad, 2 * grad])
    assert np.abs(np.asarray(other) - np.asarray(expected)).max() > 1e-6


def test_nesterov_looks_ahead_along_the_momentum(x64):
    config = SgdConfig(lr=0.5, min_lr=0.5, weight_decay=0.25, clip=0.0, nesterov=True)
    w, buffer = np.asarray([2.0, -1.0]), np.zeros(2)
    grads = [np.asarray([3.0, 4.0]), np.asarray([0.25, 0.5])]
    taken = steps_of(sgd(config, 1, 2), jnp.asarray(w), [jnp.asarray(g) for g in grads])
    for grad, value in zip(grads, taken, strict=True):
        grad = grad + 0.25 * w
        buffer = 0.9 * buffer + grad
        w = w - 0.5 * (grad + 0.9 * buffer)
        np.testing.assert_allclose(value, w, rtol=1e-12)


@pytest.mark.parametrize("least", [0.0, 0.125])
def test_the_flat_tail_of_a_linear_decay(least, x64):
    """The schedule in P-DARTS's code for ImageNet, shortened; there the least rate is 0."""
    config = SgdConfig(lr=0.5, min_lr=least, schedule="linear", tail_epochs=3)
    schedule = learning_rate(config, 8, steps_per_epoch=2)
    rates = [float(schedule(jnp.int32(2 * epoch))) for epoch in range(9)]
    steep = [(5 - epoch) / 5 for epoch in range(5)]
    flat = [(8 - epoch) / (3 * 5) for epoch in range(5, 9)]
    expected = least + (0.5 - least) * np.array(steep + flat)
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("max_norm", [0.5, 50.0])
def test_clipping_and_its_derivative_are_those_of_optax(max_norm, x64):
    rng = np.random.default_rng(0)
    gradient = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    cotangent = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}

    def pulled_back(clip):
        def clipped(gradient):
            return clip.update(gradient, clip.init(gradient))[0]

        value, pull_back = jax.vjp(clipped, gradient)
        return value, pull_back(cotangent)

    got = pulled_back(clip_by_global_norm(max_norm))
    want = pulled_back(optax.clip_by_global_norm(max_norm))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
