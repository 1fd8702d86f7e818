"""What a run refuses before it begins, and what it has no business with."""

import pytest

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.parallel import Devices
from skillearn_jax.train.checks import check, check_batches, check_images


def checked(config):
    data = load("digits")
    check(config)
    check_images(config, data)
    check_batches(config, data, Devices.take(2, "pmap"))


@pytest.mark.parametrize(
    ("key", "value", "more"),
    [
        ("evaluation.batch_size", 5000, {}),
        ("evaluation.rivals", ("/nowhere",), {}),
        ("evaluation.cutout", 8, {}),
        ("evaluation.auxiliary_weight", 0.4, {}),
        ("evaluation.channels", 3, {"evaluation.stem": "imagenet"}),
        ("evaluation.accumulate", 1000, {}),
        ("evaluation.weights.warmup_epochs", 9, {}),
    ],
)
def test_keys_of_an_evaluation_stop_no_search_without_one(
    tiny_baseline, key, value, more
):
    changes = {key: value, **more}
    with pytest.raises(InputError, match=f"--config.{key}"):
        checked(tiny_baseline(changes))
    checked(tiny_baseline({**changes, "evaluation.epochs": 0}))
