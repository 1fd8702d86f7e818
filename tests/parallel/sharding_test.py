"""Sharded optimiser states: the numbers of replicated ones, and a part on each device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import one_step
from skillearn_jax.parallel import AXIS_NAME, Devices, sharded
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.tree import Sharded, by_path, is_sharded

SEVERAL = pytest.mark.parametrize("backend", ["pmap", "shard_map"])
STEPS = 6


def check_close(got, want, rel):
    """Compares leaves by path: that of a sharded state is that of a plain one."""
    got, want = by_path(got), by_path(want)
    assert got.keys() == want.keys()
    for name, value in want.items():
        scale = max(np.max(np.abs(value), initial=0), 1e-3)
        assert np.max(np.abs(got[name] - value), initial=0) <= rel * scale, name


@SEVERAL
@pytest.mark.usefixtures("x64", "quick_compilation")
def test_a_sharded_optimizer_changes_rounding_and_no_more(skill, trajectory, backend):
    """Of encoder and executor, in learning by passing tests."""
    count = {"pmap": 8, "shard_map": 2}[backend]
    want = trajectory(skill("lpt", jnp.float64), Devices(1), STEPS)
    problem = skill("lpt, sharded", jnp.float64)
    got = trajectory(problem, Devices(count, backend), STEPS)
    for ours, theirs, rel in zip(got, want, (1e-12, 1e-10, 1e-10), strict=True):
        check_close(ours, theirs, rel)
    momentum = got[1].opt_states["tester"]
    split = jax.tree.leaves(momentum, is_leaf=is_sharded)
    assert sum(map(is_sharded, split)) == 2
    assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(momentum)) > 0.01


PARAMS = {"w": jnp.arange(15.0).reshape(3, 5), "b": jnp.float32(2), "one": jnp.ones(1)}


@SEVERAL
@pytest.mark.parametrize("count", [2, 4])
def test_each_device_holds_its_part_and_the_whole_comes_back(backend, count):
    adam = sharded(optax.adam(0.1), AXIS_NAME)
    state = adam.init(PARAMS)
    state = state.map(lambda leaf, shape: leaf + jnp.arange(leaf.size).reshape(shape))
    devices = Devices(count, backend)
    placed = devices.place({"state": state, "other": jnp.ones(4)})
    for shape, leaf in zip(state.shapes, placed["state"].leaves, strict=True):
        on_one = leaf.addressable_shards[1].data.size
        assert on_one == (-(-np.prod(shape, dtype=int) // count) if shape else 1)
    back = devices.fetch(placed)
    assert jax.tree.structure(back["state"]) == jax.tree.structure(state)
    for got, want in zip(back["state"].leaves, state.leaves, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


@SEVERAL
@pytest.mark.usefixtures("x64")
def test_gradients_flow_through_two_sharded_steps(backend):
    """Through the momentum too, whose cotangents are of different rows on each device."""
    devices, x = Devices(4, backend), jnp.linspace(-1, 2, 24).reshape(8, 3)
    start = {"w": jnp.array([0.3, -0.2, 0.5]), "b": jnp.array(0.1)}

    def gradient(axis_name):
        optimizer = sharded(optax.sgd(0.1, 0.9), axis_name)

        def inner(active, reads, x):
            out = jnp.tanh(x @ active["w"] + active["b"] + reads * x[:, 0])
            return jnp.mean(out**2)

        step = one_step(inner, optimizer, axis_name=axis_name)

        def outer(reads, opt_state, x):
            new, info = step(start, reads, opt_state, x)
            new, _ = step(new, reads, info.opt_state, x)
            return jnp.mean((x @ new["w"] + new["b"] - 1) ** 2)

        return jax.grad(outer), optimizer

    wanted, plain = gradient(None)
    want = wanted(jnp.array(0.7), plain.init(start), x)
    of_device, optimizer = gradient(AXIS_NAME)

    def mapped(opt_state, x):
        got = of_device(jnp.array(0.7), opt_state, x[devices.part(jnp.arange(8))])
        return opt_state, jax.lax.pmean(got, AXIS_NAME)

    args = devices.place((optimizer.init(start), x))
    _, got = devices.fetch(devices.compile(mapped, *args)(*args))
    assert abs(want) > 1e-3
    assert float(got) == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(8, 1), (1, 8), (4, 2)])
def test_a_checkpoint_does_not_know_how_it_was_split(tmp_path, saved_on, loaded_on):
    def optimizer(count):
        return sharded(optax.adam(0.1), AXIS_NAME if count > 1 else None)

    state = optimizer(saved_on).init(PARAMS)
    state = jax.tree.map(lambda leaf: leaf + 3, state)
    before, after = Devices(saved_on), Devices(loaded_on)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, before.fetch(before.place(state)))
    checkpoints.close()
    loaded = Checkpoints(tmp_path).newest().restore(optimizer(loaded_on).init(PARAMS))
    assert isinstance(loaded, Sharded) == (loaded_on > 1)
    check_close(after.fetch(after.place(loaded)), state, 0)


def test_leaves_are_had_without_writing_their_paths(monkeypatch):
    state = Sharded.of(optax.adam(0.1).init(PARAMS))
    named, _ = jax.tree_util.tree_flatten_with_path(state)
    monkeypatch.delattr(Sharded, "tree_flatten_with_keys")
    leaves, structure = jax.tree.flatten(state)
    assert all(leaf is same for leaf, (_, same) in zip(leaves, named, strict=True))
    again = jax.tree.unflatten(structure, leaves)
    assert (again.structure, again.shapes) == (state.structure, state.shapes)


def test_without_an_axis_it_is_the_optimizer_itself():
    adam = optax.adam(0.1)
    assert sharded(adam, None) is adam


def test_a_state_that_is_not_of_single_numbers_is_refused():
    with pytest.raises(InputError, match=r"state of shape .* cannot be sharded"):
        sharded(optax.adafactor(0.1, min_dim_size_to_factor=2), AXIS_NAME).init(PARAMS)
