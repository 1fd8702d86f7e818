"""Floor 4: the configuration of a comparison of hypergradients."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from skillearn_jax.errors import InputError
from skillearn_jax.framework.comparing import DTYPES, RADII
from skillearn_jax.train.fields import choice, number, parse, seed

PROBLEMS = ("toy", "lpt", "interleaving", "darts")


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """A comparison.

    Attributes:
        problem: whose hypergradient. `toy`: a chain of two small networks; `lpt`:
            learning by passing tests on digits, with small networks and an architecture
            of activations; `interleaving`: two tasks of digits by turns; `darts`: a
            supernet on digits.
        seed: of parameters and batches.
        batch_size: of the main tables.
        batch_sizes: of the sweep over them.
        depths: stages of the toy chain, of the sweep over them.
        radii: of the finite differences.
        dtypes: number types; float64 is left out of the sweeps over sizes.
        repeats: timed calls.
        warm_steps: steps that the program takes before it is looked at.
        search_epochs: of the three searches of a small supernet on digits, by exact,
            finite-difference and first-order hypergradients; 0 for none.
    """

    problem: str = choice("lpt", PROBLEMS)
    seed: int = seed(0)
    batch_size: int = number(64, at_least=1)
    batch_sizes: tuple[int, ...] = number((8, 256), at_least=1)
    depths: tuple[int, ...] = number((1, 2, 4), at_least=1)
    radii: tuple[float, ...] = number(RADII, above=0)
    dtypes: tuple[str, ...] = choice(DTYPES, DTYPES)
    repeats: int = number(5, at_least=1)
    warm_steps: int = number(20, at_least=0)
    search_epochs: int = number(6, at_least=0)

    @classmethod
    def parse(cls, values: Mapping[str, Any] | ConfigDict) -> "CompareConfig":
        """Returns the checked config; see `Config.parse`."""
        config = parse(cls, values)
        if not config.dtypes:
            raise InputError(
                f"config.dtypes is (); it must name at least one of {', '.join(DTYPES)}: "
                "set --config.dtypes"
            )
        return config


def compare_config() -> ConfigDict:
    """Returns the defaults as a `ConfigDict`, for a config file to change."""
    return ConfigDict(dataclasses.asdict(CompareConfig()))
