"""Devices: one under `jit`, several under a backend, and the same batch either way."""

import contextlib
import gc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.parallel import Devices
from skillearn_jax.parallel.devices import AXIS_NAME

SEVERAL = pytest.mark.parametrize("backend", ["pmap", "shard_map"])


def test_zero_takes_all_and_a_number_takes_that_many():
    assert Devices.take(0).count == jax.local_device_count() == 8
    assert Devices.take(3).count == 3


def test_more_than_exist_are_refused():
    with pytest.raises(InputError, match=r"devices is 9, but .* has 8 \(cpu\)"):
        Devices.take(9)


def test_no_backend_is_one_device():
    assert Devices.take(0, "none") == Devices.take(1, "none") == Devices(1, "none")
    with pytest.raises(InputError, match=r"runs on one device .* not on 2 .*=pmap"):
        Devices.take(2, "none")


def test_several_processes_take_all_their_devices(monkeypatch):
    """Seen from one of them; the devices are those of all."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert Devices.take(0) == Devices.take(8) == Devices(8)
    with pytest.raises(InputError, match=r"is 4, but 2 processes use all .*devices=0"):
        Devices.take(4)
    with pytest.raises(InputError, match="is 9, but these 2 processes have 8"):
        Devices.take(9)
    with pytest.raises(InputError, match="one process, not on 8 devices of 2"):
        Devices.take(0, "none")


@pytest.mark.parametrize("counts", [(3, 1), (1, 2, 3), (2, 2)])
def test_processes_have_the_same_number_of_devices(counts, monkeypatch):
    """The same sum as with equal ones is not enough; all processes say it."""
    devices = [
        SimpleNamespace(process_index=process)
        for process, count in enumerate(counts)
        for _ in range(count)
    ]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: len(devices))
    monkeypatch.setattr(jax, "process_count", lambda: len(counts))
    if len(set(counts)) == 1:
        assert Devices.take(0) == Devices(4)
        return
    said = f"have {', '.join(map(str, counts))} devices, and each must"
    with pytest.raises(InputError, match=said):
        Devices.take(0)


def test_the_axis_has_a_name_only_where_there_is_one():
    assert Devices(1).axis_name is None
    assert Devices(2).axis_name == AXIS_NAME


def test_a_batch_is_shared_evenly_or_refused():
    assert Devices(4).share(12, "config.x") == 3
    assert Devices(1).share(7, "config.x") == 7
    with pytest.raises(InputError, match=r"batch of 10 .* 4 devices: set --config\.x"):
        Devices(4).share(10, "config.x")


@pytest.mark.parametrize("fails", [False, True])
def test_the_garbage_collector_rests_while_a_step_is_traced(fails):
    seen = []

    def step(x):
        seen.append(gc.isenabled())
        return 1 / 0 if fails else x

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        Devices.take(1).compile(step, 1)
    assert (seen, gc.isenabled()) == ([False], True)


def test_parts_are_the_batch_cut_in_order():
    indices = jnp.arange(10, 22)
    assert Devices(1).part(indices) is indices
    devices = Devices(4)
    step = jax.pmap(
        lambda _: devices.part(indices), AXIS_NAME, devices=jax.local_devices()[:4]
    )
    parts = step(jnp.arange(4))
    np.testing.assert_array_equal(parts, np.arange(10, 22).reshape(4, 3))
    with pytest.raises(InputError, match=r"of 5 cannot .* 4 devices: make it a mult"):
        devices.part(jnp.arange(5))


@SEVERAL
@pytest.mark.parametrize("count", [1, 2, 8])
def test_place_and_fetch_are_there_and_back(count, backend):
    devices = Devices(count, backend)
    tree = {"w": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(3)}
    placed = devices.place(tree)
    rows = count > 1 and backend == "pmap"
    assert placed["w"].shape == ((count, 2, 3) if rows else (2, 3))
    assert len(placed["w"].devices()) == count
    back = devices.fetch(placed)
    np.testing.assert_array_equal(back["w"], tree["w"])
    assert jnp.array_equal(
        jax.random.key_data(back["key"]), jax.random.key_data(tree["key"])
    )


@SEVERAL
@pytest.mark.parametrize("count", [1, 2])
def test_what_was_placed_outlives_the_donation_of_the_copy(count, backend):
    devices = Devices(count, backend)
    value = jnp.arange(4.0)
    step = devices.compile(lambda x, y: (x + y, y), *devices.place((value, value)))
    placed = devices.place(value)
    total, _ = step(placed, devices.place(value))
    np.testing.assert_array_equal(devices.fetch(total), 2 * np.arange(4.0))
    np.testing.assert_array_equal(value, np.arange(4.0))
    assert placed.is_deleted()


@pytest.mark.parametrize("donated", [True, False])
def test_what_is_not_donated_is_not_copied_on_one_device(donated):
    value = jnp.arange(4.0)
    placed = Devices(1).place(value, donated=donated)
    shared = placed.unsafe_buffer_pointer() == value.unsafe_buffer_pointer()
    assert shared == (not donated)


@SEVERAL
def test_several_devices_sum_over_the_axis(backend):
    devices = Devices(4, backend)
    batch = jnp.arange(8)

    def step(total):
        return total + jax.lax.psum(jnp.sum(devices.part(batch)), AXIS_NAME)

    start = devices.place(jnp.int32(100))
    assert int(devices.fetch(devices.compile(step, start)(start))) == 128


@SEVERAL
@pytest.mark.parametrize("count", [1, 4])
def test_a_batch_is_split_as_indices_are(backend, count):
    devices = Devices(count, backend)

    def step(wrong, rows):
        here = jnp.sum(rows != devices.part(jnp.arange(8)))
        return wrong + (here if count == 1 else jax.lax.psum(here, AXIS_NAME))

    args = devices.place(jnp.int32(0)), devices.split(np.arange(8))
    assert int(devices.fetch(devices.compile(step, *args)(*args))) == 0


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_an_array_that_comes_twice_is_placed_once_unless_it_is_donated(backend):
    """As the images of two streams; a donated buffer can be given away but once."""
    value = jnp.arange(4.0)
    for donated in (False, True):
        placed = Devices(2, backend).place({"a": value, "b": value}, donated=donated)
        assert (placed["a"] is placed["b"]) == (not donated)
