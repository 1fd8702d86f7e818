"""Retention and forgetting, from a matrix of error rates."""

import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.skills import last_turns, retention

ERRORS = jnp.array(
    [  # tasks a, b, c after each of four turns: a, b, a, c
        [0.4, 0.9, 1.0],
        [0.5, 0.3, 1.0],
        [0.2, 0.4, 1.0],
        [0.6, 0.2, 0.5],
    ]
)


def test_the_three_numbers_of_every_task():
    learned = last_turns(("a", "b", "a", "c"), ("a", "b", "c"))
    np.testing.assert_array_equal(learned, [2, 1, 3])
    found = retention(ERRORS, learned)
    np.testing.assert_allclose(found.forgetting, [0.4, 0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.retention, [0.4 / 0.8, 0.8 / 0.7, 1], rtol=1e-5)
    np.testing.assert_allclose(found.transfer, [-0.4, 0.1, 0], rtol=1e-5, atol=1e-6)


def test_the_fewest_errors_count_from_when_the_task_was_learned():
    """Task a had 0.2 errors in turn 2, before it was learned for the last time."""
    found = retention(ERRORS, jnp.array([3, 3, 3]))
    np.testing.assert_array_equal(found.forgetting, np.zeros(3))


def test_of_what_was_never_known_nothing_is_lost():
    found = retention(jnp.array([[1.0], [1.0]]), jnp.array([0]))
    np.testing.assert_array_equal(found.retention, [1])


def test_mistakes_are_refused():
    with pytest.raises(InputError, match=r"errors has the shape \(4,\); it must be"):
        retention(ERRORS[:, 0], jnp.array([0]))
    with pytest.raises(InputError, match="row of errors for each of 3 tasks"):
        retention(ERRORS, jnp.array([0, 1]))
    for row in (4, -1):
        with pytest.raises(InputError, match="from 0 to 3"):
            retention(ERRORS, jnp.array([0, 1, row]))
    with pytest.raises(InputError, match=r"no turn of \['b'\]"):
        last_turns(("a",), ("a", "b"))
