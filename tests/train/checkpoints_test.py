"""Checkpoints: complete or absent, bit for bit, and never a crash when damaged."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import State
from skillearn_jax.train.checkpoints import Checkpoints


def make_state(step, seed=0, size=3):
    rng = np.random.default_rng(seed)
    params = {
        "weights": {"kernel": jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)},
        "alphas": {"normal": jnp.asarray(rng.normal(size=(2,)), jnp.float32)},
    }
    return State(
        params,
        {"learner": ((), {"count": jnp.int32(7)}), "validation": {}},
        {"learner": {"mean": jnp.full((2,), 0.1)}},
        jnp.int32(step),
        jax.random.key(5),
    )


def bits(state):
    data = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), data)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def saved(path, *states):
    checkpoints = Checkpoints(path)
    for state in states:
        checkpoints.save(state)
    checkpoints.close()


def test_nothing_is_there_at_first(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest_step() is None
    checkpoints.close()


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    saved(tmp_path / "c", *(make_state(step, seed=step) for step in (2, 4, 6)))
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest_step() == 6
    state = checkpoints.load(make_state(0))
    checkpoints.close()
    assert bits(state) == bits(make_state(6, seed=6))
    assert state.key.dtype == jax.random.key(0).dtype
    assert jax.tree.structure(state) == jax.tree.structure(make_state(0))


def test_only_the_newest_is_kept(tmp_path):
    saved(tmp_path / "c", *(make_state(step) for step in (2, 4, 6)))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["6", "digests.json"]


def test_a_step_may_be_saved_again(tmp_path):
    saved(tmp_path / "c", make_state(2, seed=1))
    saved(tmp_path / "c", make_state(2, seed=9))
    checkpoints = Checkpoints(tmp_path / "c")
    assert bits(checkpoints.load(make_state(0))) == bits(make_state(2, seed=9))
    checkpoints.close()


def test_a_save_is_not_disturbed_by_the_steps_that_follow(tmp_path):
    """The next step is given the saved buffers to overwrite while they are written."""
    advance = jax.jit(
        lambda state: jax.tree.map(lambda x: x + 1, state._replace(key=jnp.int32(0))),
        donate_argnums=0,
    )
    state = make_state(2, size=500_000)._replace(key=jnp.int32(0))
    advance(jax.tree.map(jnp.copy, state))  # compiled before the race begins
    expected = bits_of_leaves(state)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state)
    for _ in range(20):
        state = advance(state)
    jax.block_until_ready(state)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "c")
    loaded = checkpoints.load(state)
    checkpoints.close()
    assert bits_of_leaves(loaded) == expected


def bits_of_leaves(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_what_a_kill_left_is_removed(tmp_path):
    saved(tmp_path / "c", make_state(2))
    torn = tmp_path / "c" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "c" / "2", torn)
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest_step() == 2
    checkpoints.save(make_state(6, seed=6))
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["6", "digests.json"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_another_structure_is_refused(tmp_path):
    saved(tmp_path / "c", make_state(2))
    checkpoints = Checkpoints(tmp_path / "c")
    other = make_state(0, size=5)
    with pytest.raises(InputError, match=r"c/2 cannot be read .* remove "):
        checkpoints.load(other)
    checkpoints.close()
    gc.collect()


def load_or_message(checkpoints):
    try:
        return checkpoints.load(make_state(0)), ""
    except InputError as error:
        return None, str(error)


# Orbax leaves the reads that it no longer needs behind, unawaited.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("damage", ["half", "empty", "gone", "noise"])
def test_damage_is_refused_or_harmless(tmp_path, damage):
    """Whichever file is hit: one line, or the state as it was; and nothing deleted."""
    saved(tmp_path / "c", make_state(2, seed=3))
    whole = contents(tmp_path / "c")
    refused = 0
    for name, content in whole.items():
        file = tmp_path / "c" / name
        if damage == "gone":
            file.unlink()
        elif damage == "noise":
            file.write_bytes(bytes(255 - byte for byte in content))
        else:
            file.write_bytes(content[: len(content) // 2 if damage == "half" else 0])
        before = contents(tmp_path / "c")
        checkpoints = Checkpoints(tmp_path / "c")
        state, message = load_or_message(checkpoints)
        checkpoints.close()
        if message:
            assert "\n" not in message
            assert "cannot be read" in message
            refused += 1
        else:
            assert bits(state) == bits(make_state(2, seed=3)), name
        assert contents(tmp_path / "c") == before, name
        file.write_bytes(content)
    assert refused
    gc.collect()  # so that its complaints end up in this test


def test_a_changed_byte_is_noticed(tmp_path):
    """Orbax itself would load it, with wrong values."""
    saved(tmp_path / "c", make_state(2))
    largest = max(
        (p for p in (tmp_path / "c" / "2").rglob("*") if p.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.raises(InputError, match="have changed since it was saved"):
        checkpoints.load(make_state(0))
    checkpoints.close()


def test_a_checkpoint_without_its_digest_is_taken_as_it_is(tmp_path):
    """A run may be killed between the end of a save and its digest."""
    saved(tmp_path / "c", make_state(2))
    (tmp_path / "c" / "digests.json").unlink()
    checkpoints = Checkpoints(tmp_path / "c")
    assert bits(checkpoints.load(make_state(0))) == bits(make_state(2))
    checkpoints.close()
