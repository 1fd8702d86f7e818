"""No two parts of a run draw from one key."""

import itertools

import jax

from skillearn_jax.randomness import named_key
from skillearn_jax.train.evaluation_training import training_keys
from skillearn_jax.train.search import search_keys


def keys_of_a_run(seed, count=8):
    """Yields the keys of stages, steps, streams, trainings and random candidates."""
    build_key, run_key = search_keys(seed)
    for stage in range(count):
        yield from jax.random.split(jax.random.fold_in(build_key, stage), 3)
    root = jax.random.key(seed)
    run_keys = [run_key]
    for parent in (root, named_key(root, "random_search")):
        for training in range(count):
            init_key, of_training = training_keys(parent, training)
            run_keys.append(of_training)
            yield init_key
    for key in run_keys:
        data_key = named_key(key, "data")
        yield from (named_key(data_key, name) for name in ("train", "val", "bank"))
        yield from (jax.random.fold_in(key, step) for step in range(count))


def test_no_key_is_used_twice():
    keys = [tuple(jax.random.key_data(key).tolist()) for key in keys_of_a_run(0)]
    twice = [pair for pair in itertools.combinations(keys, 2) if pair[0] == pair[1]]
    assert len(keys) > 200
    assert not twice
