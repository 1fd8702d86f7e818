"""Batch statistics of all devices, or each device's own; masks know the axis anyway."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.layers import BatchNorm, PerDevice, example_numbers
from skillearn_jax.nas import CellSpace
from skillearn_jax.parallel import AXIS_NAME, Devices
from skillearn_jax.train import Config
from skillearn_jax.train.build import make_supernet
from skillearn_jax.train.stages import search_stage


def normalised(axis_name, x, count):
    """Returns `[count, B / count, C]` and the running means of each device."""
    devices = Devices(count)
    norm = BatchNorm(affine=False, axis_name=axis_name)
    variables = norm.init(jax.random.key(0), x, train=False)

    def step(x):
        part = x[devices.part(jnp.arange(len(x)))]
        y, changed = norm.apply(variables, part, train=True, mutable=["batch_stats"])
        gather = jax.lax.all_gather if count > 1 else lambda leaf, _: leaf[None]
        return gather(y, AXIS_NAME), gather(changed["batch_stats"]["mean"], AXIS_NAME)

    placed = devices.place(x)
    return jax.tree.map(
        np.asarray, devices.fetch(devices.compile(step, placed)(placed))
    )


@pytest.mark.usefixtures("x64")
def test_per_device_each_part_is_normalised_alone():
    x = jnp.asarray(
        np.random.default_rng(0).normal(size=(8, 3)) * np.arange(1, 9)[:, None]
    )
    whole, mean = normalised(None, x, 1)
    synchronised, means = normalised(AXIS_NAME, x, 2)
    np.testing.assert_allclose(synchronised.reshape(8, 3), whole[0], rtol=1e-12)
    np.testing.assert_allclose(means, [mean[0], mean[0]], rtol=1e-12)
    alone, means = normalised(PerDevice(AXIS_NAME), x, 2)
    for part, own, own_mean in zip(x.reshape(2, 4, 3), alone, means, strict=True):
        y, mean = normalised(None, part, 1)
        np.testing.assert_allclose(own, y[0], rtol=1e-12)
        np.testing.assert_allclose(own_mean, mean[0], rtol=1e-12)
    assert np.abs(alone - synchronised).max() > 0.1


def test_examples_are_numbered_over_all_devices_either_way():
    devices = Devices(4)

    def step(x):
        numbers = [
            example_numbers(2, axis) for axis in (AXIS_NAME, PerDevice(AXIS_NAME))
        ]
        return x + jax.lax.all_gather(jnp.stack(numbers), AXIS_NAME)

    placed = devices.place(jnp.zeros((4, 2, 2), jnp.int32))
    found = np.asarray(devices.fetch(devices.compile(step, placed)(placed)))
    np.testing.assert_array_equal(found, [[[2 * i, 2 * i + 1]] * 2 for i in range(4)])
    np.testing.assert_array_equal(example_numbers(3, None), [0, 1, 2])


def test_modules_that_differ_in_it_are_not_taken_for_each_other():
    """Caches of traced programs ask whether two modules are equal."""
    devices = Devices(2)
    norms = [
        BatchNorm(affine=False, axis_name=axis)
        for axis in (AXIS_NAME, PerDevice(AXIS_NAME))
    ]
    assert len(set(norms)) == 2
    x = jnp.arange(8.0)[:, None]
    variables = norms[0].init(jax.random.key(0), x, train=False)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(norm, x):
        y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return jax.lax.all_gather(y, AXIS_NAME)

    def step(x):
        part = x[devices.part(jnp.arange(len(x)))]
        return [apply(norm, part) for norm in norms]

    placed = devices.place(x)
    together, alone = devices.fetch(devices.compile(step, placed)(placed))
    assert np.abs(together.mean(axis=1)).min() > 0.5
    np.testing.assert_allclose(alone.mean(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "kind"), [("synchronized", str), ("per_device", PerDevice)]
)
def test_the_config_says_which(given, kind):
    config = Config.parse({"parallel": {"batch_norm": given}})
    stage = search_stage(config, 0, CellSpace())
    assert type(make_supernet(config, stage, 10, AXIS_NAME).axis_name) is kind
    assert make_supernet(config, stage, 10, None).axis_name is None
