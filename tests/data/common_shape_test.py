"""Images of several data sets at one size and with as many channels."""

import numpy as np
import pytest

from skillearn_jax.data import from_arrays, to_common_shape
from skillearn_jax.errors import InputError


def images(side, channels, name="some", classes=2):
    rng = np.random.default_rng(side + channels)
    pixels = rng.integers(0, 256, (4 * classes, side, side, channels), np.uint8)
    labels = np.arange(4 * classes) % classes
    return from_arrays(name, pixels, labels, pixels[::-1], labels[::-1])


def test_all_get_the_largest_side_and_the_most_channels():
    grey, colour = to_common_shape([images(4, 1, "grey"), images(6, 3, "colour", 3)])
    assert grey.image_shape == colour.image_shape == (6, 6, 3)
    assert grey.heldout.image.shape == (8, 6, 6, 3)
    np.testing.assert_array_equal(grey.train.image[..., 0], grey.train.image[..., 2])
    assert (grey.name, grey.num_classes, colour.num_classes) == ("grey", 2, 3)
    np.testing.assert_array_equal(grey.train.label, images(4, 1).train.label)
    assert len(grey.mean) == 3


def test_what_has_the_shape_is_not_touched():
    given = images(6, 3)
    _, same = to_common_shape([images(4, 1), given])
    assert same is given


def test_a_side_may_be_asked_for():
    (small,) = to_common_shape([images(8, 2)], side=4)
    assert small.image_shape == (4, 4, 2)
    # Anti-aliased: every channel keeps its mean, about.
    np.testing.assert_allclose(small.mean, images(8, 2).mean, atol=0.03)
    flat = from_arrays("flat", _ramp(8), [0, 1], _ramp(8), [0, 1])
    (half,) = to_common_shape([flat], side=4)
    rows = half.train.image[0, :, 0, 0].astype(int)
    assert rows.tolist() == sorted(rows.tolist())
    assert np.ptp(half.train.image[0, 1]) == 0


def _ramp(side):
    """Images that grow brighter from row to row, and not along a row."""
    row = np.linspace(0, 200, side).astype(np.uint8)
    image = np.broadcast_to(row[:, None], (side, side))
    return np.stack([image, image + 50])


def test_channels_that_cannot_be_matched_are_refused():
    with pytest.raises(InputError, match="2 channels"):
        to_common_shape([images(4, 2), images(4, 3)])


def test_more_pixels_than_memory_are_refused():
    with pytest.raises(InputError, match=r"999999x999999 pixels take .* GB, and this"):
        to_common_shape([images(4, 2)], side=999_999)


def test_what_is_not_square_is_stretched_to_the_largest_side():
    """Wide or high: nothing of an image is cut off."""
    for shape in ((3, 6), (6, 3)):
        image = np.zeros((2, *shape, 1), np.uint8)
        image[:, shape[0] // 3 :, shape[1] // 3 :] = 240
        given = (image, [0, 1], image, [1, 0])
        data = from_arrays("flat", *given, class_names=("ant", "bee"))
        (square,) = to_common_shape([data])
        assert square.image_shape == (6, 6, 1)
        assert square.class_names == ("ant", "bee")
        assert square.heldout.label.tolist() == [1, 0]
        for examples in (square.train, square.heldout):
            stretched = examples.image[0, ..., 0]
            assert (stretched[0] == 0).all()
            assert (stretched[:, 0] == 0).all()
            assert stretched[-1, -1] == 240
            assert stretched.mean() == pytest.approx(240 * 4 / 9, abs=10)
