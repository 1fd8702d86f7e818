"""The contract of devices: their number, and the backend, change rounding and no more.

At an equal global batch, with batch statistics synchronised and masks keyed by the
example, in float64: the same hypergradient to 1e-12, the same 20 steps to 1e-9.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.parallel import Devices

STEPS = 20
SHORT = {
    "lpt": [(8, "pmap"), (2, "shard_map")],
    "interleaving": [(2, "pmap"), (8, "shard_map")],
    "lpt, exams": [(4, "shard_map")],
}
"""What every run of the tests compares with one device; the long tier has the rest, and
compiles with all optimisations."""


def gap(got, want):
    """Returns the largest difference of two trees, each leaf on its own scale."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    gaps = []
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.all(np.isfinite(b))
        # Below the floor is rounding: the gradients of what normalisation cancels.
        gaps.append(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-3))
    return max(gaps)


def check(problem, trajectory, ways):
    """All in one test, since all are compared with one device."""
    gradient, state, rows = trajectory(problem, Devices(1), STEPS)
    moved = {n: s for n, s in state.params.items() if n in problem.state.params}
    assert gap(moved, jax.tree.map(np.asarray, problem.state.params)) > 0.1
    for count, backend in ways:
        got = trajectory(problem, Devices(count, backend), STEPS)
        assert gap(got[0], gradient) < 1e-12, (count, backend)
        assert gap(got[1], state) < 1e-9, (count, backend)
        assert gap(got[2], rows) < 1e-9, (count, backend)


@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("name", SHORT)
def test_devices_change_rounding_and_no_more(skill, trajectory, name):
    check(skill(name, jnp.float64), trajectory, SHORT[name])


@pytest.mark.long
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SHORT)
def test_any_number_of_devices_changes_rounding_and_no_more(skill, trajectory, name):
    ways = itertools.product((2, 4, 8), ("pmap", "shard_map"))
    check(skill(name, jnp.float64), trajectory, set(ways) - set(SHORT[name]))
