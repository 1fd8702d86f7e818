"""Floor 0: names for the kinds of values that cross the borders of the package."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

Array = jax.Array
PyTree = Any
Key = jax.Array
"""A typed PRNG key, `jax.random.key(seed)`."""

Metrics = Mapping[str, Array]
"""Scalars by name; a slash groups them, as in `learner/loss`."""

ParamSets = Mapping[str, PyTree]
"""Named parameter sets, as in `{"weights": ..., "alphas": ...}`."""

LossFn = Callable[..., Any]
"""Returns a scalar, or a pair of a scalar and auxiliary output."""
