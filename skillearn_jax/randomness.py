"""Floor 0: numpy's random numbers, of which no two uses draw the same ones."""

import enum

import numpy as np


class Use(enum.IntEnum):
    """What random numbers are drawn for.

    A value that was given once stays as it is: it decides what a seed draws. It is not 0,
    since numpy takes `(seed, 0)` for `seed`.
    """

    CANDIDATES = 1  # the cells of a random search
    GIVEN_CELLS = 2  # the ones of `config.genotype=random`
    RANDOM_CELLS = 3  # those that derived ones are compared with
    ORDER = 4  # of streamed examples; then the epoch
    CROPS = 5  # of streamed examples; then the epoch and the index
    PROBLEMS = 6  # on which adjoints are compared


def generator(seed: int, use: Use, *more: int) -> np.random.Generator:
    """Returns a generator of random numbers, apart from those of every other use.

    Args:
        seed: of a run, at least 0.
        use: what for.
        more: what else decides, as many numbers at each call for a use.
    """
    return np.random.default_rng((seed, use, *more))
