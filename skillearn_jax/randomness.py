"""Floor 0: random numbers by what they are for: no two uses draw the same ones."""

import enum
import zlib

import jax
import numpy as np

from skillearn_jax.types import Key


class Use(enum.IntEnum):
    """What numpy's random numbers are drawn for.

    A value that was given once stays as it is: it decides what a seed draws. It is not 0,
    since numpy takes `(seed, 0)` for `seed`.
    """

    CANDIDATES = 1  # the cells of a random search
    GIVEN_CELLS = 2  # the ones of `config.genotype=random`
    RANDOM_CELLS = 3  # those that derived ones are compared with
    ORDER = 4  # of streamed examples; then the epoch
    CROPS = 5  # of streamed examples; then the epoch and the index
    PROBLEMS = 6  # on which adjoints are compared
    TRAININGS = 7  # the order of a training's streamed examples; then its seed


def generator(seed: int, use: Use, *more: int) -> np.random.Generator:
    """Returns a generator of random numbers, apart from those of every other use.

    Args:
        seed: of a run, at least 0.
        use: what for.
        more: what else decides, as many numbers at each call for a use.
    """
    return np.random.default_rng((seed, use, *more))


def named_key(key: Key, name: str) -> Key:
    """Returns the child `name` of a key; the same in every process and run.

    A name becomes a number of 32 bits, far from the small numbers of steps, seeds and the
    like, which are children too. (`jax.random.split` gives the children 0, 1, ...)
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
