import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import (
    Augmentation,
    Examples,
    Stream,
    eval_batches,
    normalize,
    sample,
    streams,
)
from skillearn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_module")

KEY = jax.random.key(0)
STATS = {"mean": (0.5,), "std": (0.25,)}
AUGMENTATION = Augmentation(padding=1, flip=True, cutout=2)


def examples(num: int = 11) -> Examples:
    image = np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1), dtype=np.uint8)
    return Examples(image=image, label=np.arange(num, dtype=np.int32))


def stream(batch_size: int = 3, **options) -> Stream:
    return Stream(examples(), batch_size, **STATS, **options)


# Compiled: op by op, each of some hundred small operations would be, every time.
draw, indices = map(jax.jit, (Stream.draw, Stream.indices))


def test_a_batch_holds_what_it_says():
    batch = draw(stream(), KEY, 4)
    chex.assert_shape(batch["image"], (3, 4, 4, 1))
    chex.assert_type(
        [batch["image"], batch["label"], batch["index"]], [float, int, int]
    )
    chex.assert_trees_all_equal(batch["label"], batch["index"])
    pixels = examples().image[np.asarray(batch["index"])]
    np.testing.assert_allclose(
        batch["image"], normalize(pixels, **STATS), rtol=1e-6, atol=1e-6
    )


def test_an_epoch_visits_no_example_twice_and_drops_the_rest():
    s = stream(3)
    assert s.steps_per_epoch == 3
    epochs = [
        np.concatenate([indices(s, KEY, 3 * epoch + i) for i in range(3)])
        for epoch in range(20)
    ]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 20
    # No example is dropped for good.
    assert set(np.concatenate(epochs).tolist()) == set(range(11))


def test_a_batch_as_large_as_the_set_is_a_permutation():
    drawn = indices(stream(11), KEY, 5)
    assert sorted(drawn.tolist()) == list(range(11))


def test_random_order_draws_each_batch_by_itself():
    s = stream(3, order="random")
    drawn = np.stack([indices(s, KEY, i) for i in range(600)])
    assert all(len(set(row.tolist())) == 3 for row in drawn)
    counts = np.bincount(drawn.ravel(), minlength=11)
    mean = 600 * 3 / 11
    assert np.abs(counts - mean).max() < 5 * mean**0.5
    # Consecutive batches overlap, as those of an epoch never do.
    assert any(set(a) & set(b) for a, b in zip(drawn[::2], drawn[1::2], strict=True))


@pytest.mark.parametrize("order", ["epochs", "random"])
def test_the_same_key_and_step_give_the_same_bits(order):
    s = stream(order=order, augmentation=AUGMENTATION)
    first = draw(s, KEY, 7)
    draw(s, KEY, 8)
    chex.assert_trees_all_equal(first, draw(s, KEY, 7))
    chex.assert_trees_all_equal(first, draw(s, KEY, jnp.int32(7)))
    plain = s.draw(KEY, 7)
    chex.assert_trees_all_equal(first["index"], plain["index"])
    chex.assert_trees_all_close(first["image"], plain["image"], rtol=1e-5, atol=1e-6)
    other = draw(s, jax.random.key(1), 7)
    assert not np.array_equal(first["image"], other["image"])


def test_an_example_looks_different_at_another_step():
    s = stream(augmentation=AUGMENTATION)
    looks = [
        s.draw(KEY, step, lambda indices: jnp.arange(11))["image"] for step in range(2)
    ]
    assert not np.array_equal(*looks)


def test_order_and_augmentation_draw_with_keys_of_their_own(monkeypatch):
    """Where each step has an order of its own, both fold the number of the step."""
    seen = []

    def noting(name):
        function = getattr(streams, name)

        def noted(key, *rest):
            seen.append(tuple(jax.random.key_data(key).tolist()))
            return function(key, *rest)

        return noted

    for name in ("shuffle_words", "example_keys"):
        monkeypatch.setattr(streams, name, noting(name))
    stream(order="random").draw(KEY, 3)
    assert len(seen) == len(set(seen)) == 2


def test_a_part_of_the_indices_gives_that_part_of_the_batch():
    s = stream(6, augmentation=AUGMENTATION)
    whole = draw(s, KEY, 2)
    half = jax.jit(lambda s: s.draw(KEY, 2, lambda indices: indices[3:]))(s)
    chex.assert_trees_all_equal(half, jax.tree.map(lambda x: x[3:], whole))


def test_steps_do_not_recompile():
    chex.clear_trace_counter()
    counted = jax.jit(chex.assert_max_traces(lambda s, k, i: s.draw(k, i), n=1))
    for step in range(3):
        counted(stream(), KEY, jnp.int32(step))


def test_examples_enter_a_program_as_arguments():
    leaves = jax.tree.leaves(stream())
    assert [leaf.dtype for leaf in leaves] == [jnp.uint8, jnp.int32]
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    copy = jax.tree.map(lambda leaf: leaf, stream(augmentation=AUGMENTATION))
    assert (copy.batch_size, copy.augmentation) == (3, AUGMENTATION)


def test_streams_on_the_same_device_arrays_share_them():
    shared = jax.device_put(examples())
    val, bank = (Stream(shared, 3, **STATS) for _ in range(2))
    assert val.examples.image is bank.examples.image


def test_sample_gives_each_name_a_key_of_its_own():
    streams = {"val": stream(), "bank": stream()}
    batches = jax.jit(sample)(streams, KEY, 3)
    assert set(batches) == {"val", "bank"}
    assert not np.array_equal(batches["val"]["index"], batches["bank"]["index"])
    alone = jax.jit(sample)({"bank": streams["bank"]}, KEY, 3)
    chex.assert_trees_all_equal(batches["bank"], alone["bank"])


@pytest.mark.parametrize("batch_size", [0, 12])
def test_a_batch_size_out_of_range_is_refused(batch_size):
    with pytest.raises(InputError, match=f"size {batch_size} .*11 .*data.batch_size"):
        stream(batch_size)


def test_an_unknown_order_is_refused():
    with pytest.raises(
        InputError, match="'sorted'; it must be one of 'epochs', 'random'"
    ):
        stream(order="sorted")


@pytest.mark.parametrize("batch_size", [1, 4, 11, 20])
def test_eval_batches_weigh_every_example_once(batch_size):
    batches = list(eval_batches(examples(), batch_size, **STATS))
    assert all(b["image"].shape == (batch_size, 4, 4, 1) for b in batches)
    join = functools.partial(np.concatenate, axis=0)
    weight = join([b["weight"] for b in batches])
    index = join([b["index"] for b in batches])
    assert weight.sum() == 11
    assert index[weight == 1].tolist() == list(range(11))
    chex.assert_trees_all_equal(
        [b["label"] for b in batches], [b["index"] for b in batches]
    )
    images = join([b["image"] for b in batches])[weight == 1]
    np.testing.assert_array_equal(images, normalize(examples().image, **STATS))


def test_eval_batches_refuse_an_empty_batch():
    with pytest.raises(InputError, match="batch size 0 must be at least 1"):
        next(eval_batches(examples(), 0, **STATS))
