"""A random order of N things that is computed for one place at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.types import Array, Key

ROUNDS = 48
"""Of the shuffle; see `shuffled_positions` for what they buy."""


def shuffle_words(key: Key) -> Array:
    """Returns `[ROUNDS, 2] uint32`, what a key says to the rounds; `key` is consumed."""
    return jax.random.bits(key, (ROUNDS, 2), jnp.uint32)


def shuffled_positions(positions: Any, size: int, words: Any) -> Any:
    """Returns where a random permutation of `size` things takes the given places.

    The swap-or-not shuffle. Round r pairs each place x with `(k_r - x) mod size`, and a
    hashed bit, one for each pair, decides whether the two change places. Each round is a
    permutation of any size, even or odd, so no place is visited twice; and a place is
    found without the others: memory and time do not depend on `size`.

    After a round one place is as good as uniform with probability 1/2, so that
    `ROUNDS` rounds leave a bias of 2^-ROUNDS to it, and of about
    `size^1.5 (3/4)^(ROUNDS/4)` at most to half of all places seen together. The bit is
    that of an integer hash, not of a cipher: good enough to shuffle data, not to keep
    secrets.

    Args:
        positions: `[B]` integers in 0..size-1, of NumPy or JAX: the result is of the
            same library, with the same values.
        size: N, from 1 to 2^31 - 1.
        words: `[ROUNDS, 2] uint32` random words, the same for a whole permutation.

    Returns:
        `[B] int32`.

    Cost: about 15 integer operations for each round and place.

    References: Hoang, Morris and Rogaway 2012, An enciphering scheme based on a card
        shuffle, 1208.1176 (section 3). The hash is MurmurHash3's finaliser (Appleby,
        public domain).
    """
    xp: Any = jnp if isinstance(positions, jax.Array) else np
    place = positions.astype(np.uint32)
    count = np.uint32(size)
    pivots = words[:, 0] % count
    for pivot, salt in zip(pivots, words[:, 1], strict=True):
        # Neither step overflows: both places are below 2^31.
        other = pivot + count - place
        other = xp.where(other >= count, other - count, other)
        swap = _mix(xp.maximum(place, other) ^ salt) >> np.uint32(31)
        place = xp.where(swap != 0, other, place)
    return place.astype(np.int32)


def _mix(bits: Any) -> Any:
    """Returns 32 bits of which each depends on all of `bits`, `[B] uint32`."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))
