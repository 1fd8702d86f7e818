import functools

import numpy as np
import pytest

from skillearn_jax.data.crops import ATTEMPTS, random_box, shorter_side
from skillearn_jax.data.jpeg import middle, resized_box


def boxes(count, height, width, **options):
    draws = np.random.default_rng(0).random((count, 4, ATTEMPTS))
    return np.array([random_box(height, width, draw, **options) for draw in draws])


def assert_uniform(values):
    """Kolmogorov and Smirnov: fails one time in 100,000 for uniform values in [0, 1]."""
    values = np.sort(values)
    steps = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(values - steps).max() < 2.5 / len(values) ** 0.5


def test_area_ratio_and_place_are_uniform():
    # Boxes of at most half the area always fit into a square.
    top, left, height, width = boxes(4000, 3000, 3000, scale=(0.1, 0.5)).T
    assert_uniform((height * width / 3000**2 - 0.1) / 0.4)
    assert_uniform(np.log(width / height * 4 / 3) / np.log(16 / 9))
    assert_uniform(top / (3000 - height))
    assert_uniform(left / (3000 - width))


def test_boxes_lie_in_the_image_and_keep_the_limits():
    top, left, height, width = boxes(4000, 375, 500).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 375).all()
    assert (left + width <= 500).all()
    share = height * width / (375 * 500)
    assert share.min() > 0.078
    assert share.max() > 0.97
    assert 0.74 < (width / height).min() < 0.76
    assert 1.32 < (width / height).max() < 1.35


def test_the_first_attempt_that_fits_is_taken():
    draws = np.zeros((4, ATTEMPTS))
    draws[0, :2] = 1.0, (0.25 - 0.08) / 0.92  # the whole area, then a quarter
    draws[1, :2] = 1.0, 0.5  # as wide as allowed, then square
    draws[2:, 1] = 0.5, 0.999
    assert random_box(100, 100, draws) == (25, 50, 50, 50)


def test_a_box_has_the_drawn_ratio_of_width_to_height_in_whole_pixels():
    draws = np.zeros((4, ATTEMPTS))
    draws[0] = (0.25 - 0.08) / 0.92  # a quarter of the image: sides of 43.3 and 57.7
    draws[1] = 1.0
    assert random_box(100, 100, draws) == (0, 0, 43, 58)


def test_of_the_smallest_image_a_pixel_is_left():
    assert random_box(1, 1, np.zeros((4, ATTEMPTS))) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(100, 1000, (0, 433, 100, 133)), (1000, 100, (433, 0, 133, 100))],
)
def test_an_image_that_no_attempt_fits_is_cut_in_the_middle(height, width, box):
    draws = np.full((4, ATTEMPTS), 0.999)
    draws[1] = 0.5
    assert random_box(height, width, draws) == box


def test_tensorflow_cuts_the_same_boxes():
    tf = pytest.importorskip("tensorflow", reason="tensorflow-cpu is not installed")
    # In a graph, as in the pipeline.
    cut = tf.function(functools.partial(random_box, xp=tf.experimental.numpy))
    draws = np.random.default_rng(1).random((200, 4, ATTEMPTS))
    for draw, (height, width) in zip(
        draws, [(375, 500), (100, 1000), (64, 64), (7, 5)] * 50, strict=True
    ):
        expected = random_box(height, width, draw)
        size = (tf.constant(float(side), tf.float64) for side in (height, width))
        found = cut(*size, tf.constant(draw))
        assert [float(x) for x in found] == list(expected)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((100, 100), (256, 256))],
)
def test_shorter_side(size, resized):
    assert shorter_side(*size, 256) == resized


def test_a_box_at_its_own_size_is_those_pixels():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for top, left in ((0, 0), (3, 7), (12, 22)):
        cut = resized_box(image, (top, left, 8, 8), (8, 8))
        np.testing.assert_array_equal(cut, image[top : top + 8, left : left + 8])


def test_resizing_averages():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:] = 200
    small = resized_box(image, (0, 0, 4, 6), (2, 2))
    assert small.shape == (2, 2, 3)
    assert (np.diff(small[0, :, 0].astype(int)) > 100).all()
    assert resized_box(image, (0, 0, 4, 6), (2, 3)).shape == (2, 3, 3)


def test_the_middle_is_cut_after_the_shorter_side_is_resized():
    image = np.random.default_rng(0).integers(0, 256, (6, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(middle(image, 6, 4), image[1:5, 3:7])
    high = image.transpose(1, 0, 2)
    np.testing.assert_array_equal(middle(high, 6, 6), high[2:8])
    half = resized_box(image, (0, 0, 6, 11), (3, 5))
    np.testing.assert_array_equal(middle(image, 3, 3), half[:, 1:4])
