"""How the images of a run come to their size."""

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.train.exams import load_bank
from skillearn_jax.train.images import check_data, load_images


@pytest.fixture
def photos(tmp_path):
    """Two classes of 12x10 pixels, whose first training image is of 2x2."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                shape = (
                    (2, 2, 3)
                    if (split, name, i) == ("train", "cat", 0)
                    else (12, 10, 3)
                )
                image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                image.save(tmp_path / split / name / f"{i}.png")
    return str(tmp_path)


def test_photographs_are_resized_once(photos, tiny):
    """Not to the size of the first one before: that would blur all of them."""
    config = tiny({"data.name": "folder", "data.dir": photos, "data.image_size": 8})
    direct, through = load("folder:8", photos), load_images(config)
    np.testing.assert_array_equal(through.train.image, direct.train.image)
    np.testing.assert_array_equal(through.heldout.image, direct.heldout.image)
    plain = load_images(tiny({"data.name": "folder", "data.dir": photos}))
    assert plain.image_shape == (2, 2, 3)
    # A bank takes the size of the learner's images, which need not be square then.
    learner = load("folder:8x6", photos)
    bank = load_bank(
        tiny({"lpt.bank": "folder", "lpt.bank_dir": photos, "data.batch_size": 4}),
        learner,
    )
    np.testing.assert_array_equal(bank.train.image, learner.train.image)


def test_two_sizes_are_refused(photos, tiny):
    """Images would be brought to one after the other, and to the last."""
    for name in ("folder", "folder:8", "folder:8x8"):
        check_data(tiny({"data.name": name, "data.image_size": 8}))
    check_data(tiny({"data.name": "folder:8x6"}))
    with pytest.raises(InputError, match=r"'folder:8x6', but .* is 8: images have one"):
        check_data(tiny({"data.name": "folder:8x6", "data.image_size": 8}))


def test_hues_may_turn_half_a_circle(tiny):
    check_data(tiny({"data.colours": (1.0, 1.0, 1.0, 0.5)}))
    with pytest.raises(InputError, match=r"hue up to 0.5: set --config.data.colours"):
        check_data(tiny({"data.colours": (1.0, 1.0, 1.0, 0.51)}))
