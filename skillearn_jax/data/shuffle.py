"""A random order of N things, computed for single places of it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.types import Array, Key

ROUNDS = 48
"""Of the shuffle; see `shuffled` for what they buy."""


def shuffle_words(key: Key) -> Array:
    """Returns what a key says to the rounds, `[ROUNDS, 2] uint32`; it is consumed."""
    return jax.random.bits(key, (ROUNDS, 2), jnp.uint32)


def shuffled(positions: Any, size: int, words: Any) -> Any:
    """Returns what a random order of 0..size-1 holds at the given positions.

    This is the swap-or-not shuffle. Round r pairs every place x with `k_r - x mod size`,
    and one hashed bit a pair decides whether the two change places. A round is thus a
    permutation of any size, even or odd: no number comes twice. And no place needs the
    others: neither time nor memory depends on the size.

    A round moves a place to a uniform one with probability 1/2, so that `ROUNDS` rounds
    leave it a bias of 2^-48. The bit is that of an integer hash, not of a cipher: good
    to shuffle data, no good to keep secrets.

    Args:
        positions: `[B]` integers in 0..size-1, of NumPy or of JAX. The result has the
            same values in both.
        size: N, from 1 to 2^31 - 1.
        words: `[ROUNDS, 2] uint32` random bits, of the same library; one order each.

    Returns:
        `[B] int32`.

    Cost: about 15 integer operations a round and place.

    References: Hoang, Morris and Rogaway 2012, An enciphering scheme based on a card
        shuffle, 1208.1176 (section 2); the hash is the finaliser of MurmurHash3
        (Appleby, public domain).
    """
    if isinstance(positions, jax.Array):
        return _scan(positions, jnp.uint32(size), words)
    swap = functools.partial(_swap_or_not, np, np.uint32(size))
    return functools.reduce(swap, words, positions.astype(np.uint32)).astype(np.int32)


@jax.jit
def _scan(positions: Array, size: Array, words: Array) -> Array:
    """As `shuffled`. The rounds are rolled up by 8: fast to compile and to run."""

    def swap(place: Array, word: Array) -> tuple[Array, None]:
        return _swap_or_not(jnp, size, place, word), None

    places, _ = jax.lax.scan(swap, positions.astype(jnp.uint32), words, unroll=8)
    return places.astype(jnp.int32)


def _swap_or_not(xp: Any, size: Any, place: Any, word: Any) -> Any:
    """Returns the places `[B] uint32` after one round; `xp` is NumPy or JAX's."""
    pivot, salt = word[0] % size, word[1]
    # No overflow: all of them are below 2^31.
    other = pivot + (size - place)
    other = xp.where(other < size, other, other - size)
    bit = _mix(xp.maximum(place, other) ^ salt) >> np.uint32(31)
    return xp.where(bit == 1, other, place)


def _mix(bits: Any) -> Any:
    """Returns a hash of each word, `[B] uint32`: every bit depends on all bits."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))
