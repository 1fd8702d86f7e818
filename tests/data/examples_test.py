import jax
import numpy as np
import pytest

from skillearn_jax.data import Examples, from_arrays
from skillearn_jax.data.examples import pixel_statistics
from skillearn_jax.errors import InputError


def arrays(num: int = 12, shape: tuple[int, ...] = (4, 5, 3)) -> tuple:
    rng = np.random.default_rng(num)
    images = rng.integers(0, 256, (num, *shape), dtype=np.uint8)
    return images, np.arange(num) % 3


def test_from_arrays_in_three_lines():
    images, labels = arrays()
    data = from_arrays("mine", images, labels, *arrays(6))
    assert (data.train.size, data.heldout.size, data.num_classes) == (12, 6, 3)
    assert data.image_shape == (4, 5, 3)
    assert data.train.label.dtype == np.int32
    np.testing.assert_array_equal(data.train.image, images)
    # The held-out images have others.
    assert (data.mean, data.std) == pixel_statistics(images)
    assert pixel_statistics(data.heldout.image) != (data.mean, data.std)


def test_grey_images_get_a_channel_axis():
    data = from_arrays("grey", *arrays(shape=(4, 5)), *arrays(6, (4, 5)))
    assert data.image_shape == (4, 5, 1)
    assert len(data.mean) == 1


def test_statistics_equal_those_of_numpy():
    images, _ = arrays(50)
    mean, std = pixel_statistics(images)
    scaled = images / 255.0
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_examples_are_a_pytree_and_can_be_indexed():
    images, labels = arrays()
    examples = jax.device_put(Examples(images, labels))
    some = jax.jit(lambda e, i: e.take(i))(examples, np.asarray([3, 1]))
    np.testing.assert_array_equal(some.image, images[[3, 1]])
    np.testing.assert_array_equal(some.label, labels[[3, 1]])
    assert Examples(images, labels).take(labels == 0).size == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, c: (i / 255.0, c), r"train images must be .* uint8 .*float64"),
        (lambda i, c: (i[0, 0], c), r"train images must be \[N, H, W, C\].* \[5, 3\]"),
        (lambda i, c: (i[:0], c[:0]), r"not empty, got \[0, 4, 5, 3\]"),
        (lambda i, c: (i, c[:-1]), r"train labels must be \[12\] integers.*\[11\]"),
        (lambda i, c: (i, c * 1.0), r"train labels must be .*float64"),
        (lambda i, c: (i, c > 0), r"train labels must be .*bool"),
        (lambda i, c: (i, c.astype("m8[s]")), r"train labels must be .*timedelta64"),
        (lambda i, c: (i, c - 1), r"train label -1 is out of range"),
        (lambda i, c: (i, c % 2), r"heldout label 2 .*classes go from 0 to 1"),
        (lambda i, c: (i[:, :3], c), r"heldout images are \[4, 5, 3\] but train .*\[3"),
        (lambda i, c: (i * np.uint8([1, 0, 1]), c), r"channel 1 .* is constant"),
        (
            lambda i, c: ([i[0], i[0, :2]], c),
            r"train images or labels are no array: .*",
        ),
        (lambda i, c: (i, c * 0), r"all labels are 0, of one class"),
        (
            lambda i, c: (i.transpose(0, 3, 1, 2), c),
            r"train images are \[12, 3, 4, 5\], 3 pixels high with 5 channels; .* last",
        ),
    ],
)
def test_wrong_arrays_are_named_in_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        from_arrays("mine", *change(*arrays()), *arrays(6))
    assert "\n" not in str(caught.value)


def test_classes_may_have_names():
    names = ["cat", "dog", "frog"]
    data = from_arrays("mine", *arrays(), *arrays(6), class_names=names)
    assert data.class_names == data.training.class_names == ("cat", "dog", "frog")
    for wrong in (names[:2], "abc"):
        with pytest.raises(InputError, match="there must be 3, one for each class"):
            from_arrays("mine", *arrays(), *arrays(6), class_names=wrong)
    # Numbers, as scikit-learn names its digits, could not be kept with a trained network.
    with pytest.raises(
        InputError, match=r"holds .*0.*, of type int64; names must be texts"
    ):
        from_arrays("mine", *arrays(), *arrays(6), class_names=np.arange(3))
    of_numpy = from_arrays("mine", *arrays(), *arrays(6), class_names=np.array(names))
    assert of_numpy.class_names == data.class_names


def test_num_classes_may_be_given():
    data = from_arrays("mine", *arrays(), *arrays(6), num_classes=7)
    assert data.num_classes == 7
    images, labels = arrays()
    data = from_arrays(
        "mine", images, labels, images, labels, num_classes=labels.max() + 1
    )
    assert type(data.num_classes) is int  # JSON holds none of NumPy's
    for wrong in (3.0, 0, "3"):
        with pytest.raises(InputError, match="it must be a whole number, one or more"):
            from_arrays("mine", *arrays(), *arrays(6), num_classes=wrong)
    with pytest.raises(InputError, match=r"train label 2 .* from 0 to 1"):
        from_arrays("mine", *arrays(), *arrays(6), num_classes=2)
