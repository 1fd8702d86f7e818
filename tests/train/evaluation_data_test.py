"""Where the evaluation's batches come from: all images, each in its place."""

import numpy as np

from skillearn_jax.data import load, normalize
from skillearn_jax.train.evaluation_data import heldout_batches, training_batches


def test_a_training_passes_all_images_and_is_judged_on_the_held_out_ones(tiny):
    config, data = tiny({"evaluation.batch_size": 48}), load("digits")
    trains = training_batches(config, data).stream
    assert (trains.order, trains.batch_size) == ("epochs", 48)
    np.testing.assert_array_equal(trains.examples.image, data.train.image)
    np.testing.assert_array_equal(trains.examples.label, data.train.label)
    batches = list(heldout_batches(data)[0])
    found = {
        name: np.concatenate([batch[name] for batch in batches])
        for name in ("image", "label", "weight")
    }
    real = found["weight"] > 0
    np.testing.assert_array_equal(found["label"][real], data.heldout.label)
    expected = normalize(data.heldout.image, data.mean, data.std)
    np.testing.assert_allclose(found["image"][real], expected, rtol=1e-5, atol=1e-6)
