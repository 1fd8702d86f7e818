import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import (
    Augmentation,
    ColourJitter,
    augment,
    example_keys,
    normalize,
    random_crop,
    random_cutout,
    random_flip,
)
from skillearn_jax.data.augment import crop, cutout, flip
from skillearn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_module")

MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.75)
FULL = Augmentation(padding=2, flip=True, cutout=3)


def images(num: int = 6, side: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (num, side, side, 3), dtype=np.uint8)


def keys(num: int, seed: int = 0):
    return example_keys(jax.random.key(seed), jnp.arange(num))


def test_normalize_is_the_formula():
    expected = (images() / 255.0 - np.array(MEAN)) / np.array(STD)
    result = normalize(images(), MEAN, STD)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_crop_at_fixed_offsets():
    x = images(3)
    out = crop(x, jnp.asarray([[2, 2], [0, 2], [4, 3]]), 2)
    np.testing.assert_array_equal(out[0], x[0])
    np.testing.assert_array_equal(out[1, 2:], x[1, :-2])
    np.testing.assert_array_equal(out[1, :2], 0)
    np.testing.assert_array_equal(out[2, :-2, :-1], x[2, 2:, 1:])
    np.testing.assert_array_equal(out[2, -2:], 0)
    np.testing.assert_array_equal(out[2, :, -1:], 0)
    assert out.dtype == jnp.uint8


def test_flip_where_asked():
    x = images(2)
    out = flip(x, jnp.asarray([True, False]))
    np.testing.assert_array_equal(out[0], x[0, :, ::-1])
    np.testing.assert_array_equal(out[1], x[1])


@pytest.mark.parametrize(
    ("center", "side", "rows", "columns"),
    [
        ((4, 4), 4, slice(2, 6), slice(2, 6)),
        ((0, 7), 4, slice(0, 2), slice(5, 8)),
        ((3, 3), 3, slice(2, 5), slice(2, 5)),
        ((3, 3), 16, slice(0, 8), slice(0, 8)),
    ],
)
def test_cutout_at_a_fixed_center(center, side, rows, columns):
    x = normalize(images(1), MEAN, STD)
    expected = np.array(x)
    expected[0, rows, columns] = 0
    np.testing.assert_array_equal(cutout(x, jnp.asarray([center]), side), expected)


def test_crop_offsets_are_uniform():
    # A single white pixel in the middle tells where the window was.
    x = np.zeros((4000, 5, 5, 1), np.uint8)
    x[:, 2, 2] = 1
    where = np.argwhere(np.asarray(random_crop(x, keys(4000), 2)))[:, 1:3]
    counts = np.bincount(where[:, 0] * 5 + where[:, 1], minlength=25)
    assert counts.sum() == 4000
    # Five standard deviations of a count with mean 160.
    assert np.abs(counts - 160).max() < 5 * 160**0.5


def test_flip_is_a_fair_coin():
    x = np.zeros((4000, 1, 2, 1), np.uint8)
    x[:, 0, 0] = 1
    mirrored = np.asarray(random_flip(x, keys(4000)))[:, 0, 1, 0]
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 4000**0.5


def test_cutout_centers_are_uniform():
    x = jnp.ones((4000, 4, 5, 1))  # wider than high
    holes = 1 - np.asarray(random_cutout(x, keys(4000), 1))
    assert (holes.sum((1, 2, 3)) == 1).all()
    assert np.abs(holes.sum((0, 3)) - 200).max() < 5 * 200**0.5


def test_the_default_only_normalises():
    out = Augmentation().apply(images(), keys(6), MEAN, STD)
    np.testing.assert_array_equal(out, normalize(images(), MEAN, STD))


def test_padding_is_black_and_the_hole_is_the_mean_colour():
    x = np.full((64, 8, 8, 3), 255, np.uint8)
    out = np.asarray(FULL.apply(x, keys(64), MEAN, STD))
    white, black = (
        normalize(np.full((1, 1, 1, 3), v, np.uint8), MEAN, STD) for v in (255, 0)
    )
    colours = np.unique(out.reshape(-1, 3), axis=0)
    expected = np.unique(
        np.stack([np.ravel(white), np.ravel(black), np.zeros(3)]), axis=0
    )
    np.testing.assert_allclose(colours, expected, rtol=1e-6)


def test_every_change_draws_with_a_key_of_its_own(monkeypatch):
    """Else shift, mirror, colours and hole of an image would go together."""
    drawn = []

    def noted(images, keys, *settings):
        drawn.append(jax.random.key_data(keys))
        return images

    for name in ("random_crop", "random_flip", "random_cutout"):
        monkeypatch.setattr(augment, name, noted)
    monkeypatch.setattr(ColourJitter, "apply", lambda self, *args: noted(*args))
    full = Augmentation(padding=2, flip=True, cutout=3, colours=ColourJitter(0.1))
    full.apply(images(), keys(6), MEAN, STD)
    given = np.concatenate([jax.random.key_data(keys(6)), *drawn])
    assert len(drawn) == 4
    assert len(np.unique(given, axis=0)) == 5 * 6


def test_permuting_the_batch_permutes_the_result():
    x, index = images(), jnp.asarray([7, 40, 3, 11, 0, 25])
    order = np.array([4, 2, 0, 5, 1, 3])
    key = jax.random.key(1)
    apply = jax.jit(lambda x, i: FULL.apply(x, example_keys(key, i), MEAN, STD))
    np.testing.assert_array_equal(apply(x[order], index[order]), apply(x, index)[order])
    # A part of the batch, as one device of several holds it.
    np.testing.assert_array_equal(apply(x[2:4], index[2:4]), apply(x, index)[2:4])


def test_jit_changes_nothing_that_is_drawn():
    plain = FULL.apply(images(), keys(6), MEAN, STD)
    jitted = jax.jit(lambda x, k: FULL.apply(x, k, MEAN, STD))(images(), keys(6))
    np.testing.assert_allclose(plain, jitted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["padding", "cutout"])
def test_negative_sizes_are_refused(name):
    with pytest.raises(InputError, match=f"{name} -1 .*--config.data.{name}"):
        Augmentation(**{name: -1})
