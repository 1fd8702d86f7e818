import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data.shuffle import ROUNDS, shuffle_words, shuffled

SIZES = [1, 2, 3, 4, 7, 11, 64, 717, 25000]


@functools.partial(jax.jit, static_argnums=(1, 2))
def orders(places, size, count, seed=0):
    """Returns what `count` random orders hold at the places, `[count, places]`."""
    words = jax.random.bits(jax.random.key(seed), (count, ROUNDS, 2), jnp.uint32)
    return jax.vmap(lambda w: shuffled(places, size, w))(words)


def assert_uniform(counts):
    """A chi-square test that fails one time in about a million for uniform counts."""
    counts = np.asarray(counts)
    freedom = counts.size - 1
    mean = counts.sum() / counts.size
    square = ((counts - mean) ** 2 / mean).sum()
    # Wilson and Hilferty: the cube root of chi-square is nearly normal.
    normal = ((square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) * (
        9 * freedom / 2
    ) ** 0.5
    assert abs(normal) < 5, normal


@pytest.mark.parametrize("size", SIZES)
def test_an_order_holds_every_number_once_and_numpy_agrees(size):
    words = shuffle_words(jax.random.key(size))
    order = shuffled(jnp.arange(size), size, words)
    assert order.dtype == jnp.int32
    assert sorted(order.tolist()) == list(range(size))
    same = shuffled(np.arange(size), size, np.asarray(words))
    assert same.dtype == np.int32
    np.testing.assert_array_equal(order, same)


@pytest.mark.parametrize("size", [5, 12])
def test_an_order_is_the_swap_or_not_shuffle_written_out(size):
    words = np.asarray(shuffle_words(jax.random.key(size)))

    def mixed(bits):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            bits = (bits ^ bits >> shift) * factor % 2**32
        return bits

    def place(x):
        for pivot, salt in words.tolist():
            other = (pivot % size - x) % size
            x = other if mixed(max(x, other) ^ salt) >> 31 else x
        return x

    assert shuffled(np.arange(size), size, words).tolist() == [*map(place, range(size))]


def test_the_largest_size_does_not_overflow():
    size = 2**31 - 1
    places = np.r_[0:1000, size - 1000 : size]
    words = np.asarray(shuffle_words(jax.random.key(0)))
    order = shuffled(places, size, words)
    assert len(set(order.tolist())) == 2000
    assert order.min() >= 0
    assert_uniform(np.histogram(order, bins=10, range=(0, size))[0])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_orders_of_few_things_are_as_likely(size):
    drawn = np.asarray(orders(jnp.arange(size), size, 12000))
    counts = dict.fromkeys(itertools.permutations(range(size)), 0)
    for order in drawn.tolist():
        counts[tuple(order)] += 1
    assert_uniform(list(counts.values()))


@pytest.mark.parametrize("place", [0, 5, 358, 716])
def test_each_place_holds_any_number(place):
    drawn = orders(jnp.asarray([place]), 717, 40000)
    assert_uniform(np.bincount(drawn[:, 0], minlength=717))


def test_neighbours_are_unrelated():
    drawn = np.asarray(orders(jnp.arange(717), 717, 500))
    for distance in (1, 2, 64):
        steps = (drawn[:, distance:] - drawn[:, :-distance]) % 717
        assert_uniform(np.bincount(steps.ravel(), minlength=717)[1:])


def test_half_of_an_order_is_a_random_half():
    drawn = np.asarray(orders(jnp.arange(358), 717, 2000))
    variance = (717**2 - 1) / 12 / 358 * (717 - 358) / 716
    normal = (drawn.mean(1) - 358) / variance**0.5
    assert abs(normal.mean()) < 5 / 2000**0.5
    assert abs(normal.var() - 1) < 5 * (2 / 2000) ** 0.5


def test_fixed_points_are_as_many_as_of_a_random_permutation():
    drawn = np.asarray(orders(jnp.arange(717), 717, 4000))
    fixed = np.bincount((drawn == np.arange(717)).sum(1), minlength=4)[:4]
    expected = 4000 * np.array([math.exp(-1) / math.factorial(k) for k in range(4)])
    assert (np.abs(fixed - expected) < 5 * expected**0.5).all()


def test_orders_of_consecutive_epochs_are_unrelated():
    key = jax.random.key(3)
    words = jax.vmap(lambda i: shuffle_words(jax.random.fold_in(key, i)))(
        jnp.arange(1000)
    )
    drawn = np.asarray(jax.vmap(lambda w: shuffled(jnp.arange(64), 717, w))(words))
    common = [len(np.intersect1d(*pair)) for pair in itertools.pairwise(drawn)]
    # Hypergeometric: 64 of 717, 64 of which are marked.
    mean = 64 * 64 / 717
    variance = mean * (1 - 64 / 717) * (717 - 64) / 716
    assert abs(np.mean(common) - mean) < 5 * (variance / 999) ** 0.5
    assert 0.7 < np.var(common) / variance < 1.4
    # Nor does a place remember what it held.
    moved = (drawn[1:] - drawn[:-1]) % 717
    assert_uniform(np.bincount(moved.ravel(), minlength=717))
