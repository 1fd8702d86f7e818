import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import Augmentation, colour, example_keys
from skillearn_jax.data.colour import ColourJitter, jitter_in_order, luma, shift_hue
from skillearn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_module")

IMAGENET = ColourJitter(0.4, 0.4, 0.4, 0.2)


@functools.partial(jax.jit, static_argnums=0)
def apply(jitter, images, keys):
    return jitter.apply(images, keys)


def image(seed=0, shape=(5, 7, 3)):
    return np.random.default_rng(seed).random(shape, np.float32)


def keys(count):
    return example_keys(jax.random.key(0), jnp.arange(count))


def blend(other, factor, x):
    return np.clip(other + factor * (x - other), 0, 1)


def change(x, factors=(1.0, 1.0, 1.0), shift=0.0, order=(0, 1, 2), turn=0):
    return jitter_in_order(
        jnp.asarray(x), jnp.asarray(factors), shift, jnp.asarray(order), turn
    )


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.2, 0.5, -0.5, 1 / 3])
def test_hue_is_that_of_colorsys(shift):
    def expected(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)

    x = image()
    x[0, :3] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.2]]
    turned = shift_hue(jnp.asarray(x), shift)
    np.testing.assert_allclose(turned, np.apply_along_axis(expected, 2, x), atol=2e-6)


def test_a_third_of_a_turn_makes_red_green():
    red = jnp.asarray([1.0, 0.0, 0.0])
    np.testing.assert_allclose(shift_hue(red, 1 / 3), [0, 1, 0], atol=1e-6)


def test_luma():
    np.testing.assert_allclose(luma(jnp.eye(3))[:, 0], [0.299, 0.587, 0.114])


def test_each_change_is_a_blend():
    x = image()
    grey = x @ np.float32([[0.299], [0.587], [0.114]])
    for factors, other in [
        ((1.4, 1.0, 1.0), 0.0),
        ((1.0, 0.6, 1.0), grey.mean()),
        ((1.0, 1.0, 1.3), grey),
    ]:
        expected = blend(other, np.prod(factors), x)
        np.testing.assert_allclose(change(x, factors), expected, atol=1e-6)


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_order_is_kept(order, turn):
    x, factors = image(), (1.4, 0.7, 1.3)
    expected = x
    for place in range(4):
        if place == turn:
            expected = change(expected, shift=0.2)
        if place < 3:
            one = [1.0] * 3
            one[order[place]] = factors[order[place]]
            expected = change(expected, one)
    np.testing.assert_allclose(
        change(x, factors, 0.2, order, turn), expected, atol=1e-5
    )


def test_brightness_is_uniform():
    x = jnp.full((2000, 1, 1, 3), 0.5)
    factor = np.sort(apply(ColourJitter(brightness=0.4), x, keys(2000))[:, 0, 0, 0]) * 2
    steps = 0.6 + 0.8 * np.arange(1, 2001) / 2000
    assert np.abs(factor - steps).max() < 0.8 * 2.5 / 2000**0.5


def test_hue_is_uniform():
    x = jnp.broadcast_to(jnp.asarray([0.0, 1.0, 0.0]), (2000, 1, 1, 3))
    turned = np.asarray(apply(ColourJitter(hue=0.2), x, keys(2000)))[:, 0, 0]
    hue = np.sort([colorsys.rgb_to_hsv(*pixel)[0] for pixel in turned])
    steps = 1 / 3 - 0.2 + 0.4 * np.arange(1, 2001) / 2000
    assert np.abs(hue - steps).max() < 0.4 * 2.5 / 2000**0.5


def test_factors_hue_and_order_are_drawn_apart_and_every_order_is_as_likely(
    monkeypatch,
):
    monkeypatch.setattr(
        colour,
        "jitter_in_order",
        lambda image, factors, shift, order, turn: jnp.concatenate(
            [factors, shift[None], order, turn[None]]
        ),
    )
    count = 4800
    drawn = np.asarray(IMAGENET.apply(jnp.zeros((count, 1, 1, 3)), keys(count)))
    numbers, order, turn = np.split(drawn, [4, 7], axis=1)
    for column, spread in zip(
        (numbers - [1, 1, 1, 0]).T, (0.4, 0.4, 0.4, 0.2), strict=True
    ):
        assert np.abs(column).max() <= spread * (1 + 1e-6)
        assert np.var(column) == pytest.approx(spread**2 / 3, rel=0.1)
    # 24 orders of four changes.
    places = order @ [9, 3, 1] + 27 * turn[:, 0]
    _, counts = np.unique(places, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 200).max() < 5 * 200**0.5
    apart = np.corrcoef(np.concatenate([numbers, places[:, None]], axis=1).T)
    assert np.abs(apart - np.eye(5)).max() < 5 / count**0.5


def test_every_example_looks_different_and_stays_in_range():
    x = jnp.broadcast_to(jnp.asarray(image()), (200, 5, 7, 3))
    out = np.asarray(apply(IMAGENET, x, keys(200)))
    assert len(np.unique(out.reshape(200, -1), axis=0)) == 200
    assert out.min() >= 0
    assert out.max() <= 1


def test_nothing_asked_nothing_changed():
    x = jnp.asarray(image(shape=(3, 5, 7, 3)))
    np.testing.assert_allclose(apply(ColourJitter(), x, keys(3)), x, atol=1e-6)


def test_an_example_does_not_depend_on_its_neighbours():
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
    full = Augmentation(flip=True, colours=IMAGENET)
    full_apply = jax.jit(lambda x, k: full.apply(x, k, (0.5,) * 3, (0.25,) * 3))
    whole = full_apply(x, keys(6))
    np.testing.assert_allclose(full_apply(x[2:4], keys(6)[2:4]), whole[2:4], atol=1e-6)
    assert whole.dtype == jnp.float32


def test_grey_images_are_refused():
    with pytest.raises(InputError, match="RGB images only, not with 1 channels"):
        IMAGENET.apply(jnp.zeros((2, 4, 4, 1)), keys(2))


@pytest.mark.parametrize(
    ("name", "value", "limit"), [("contrast", 1.5, 1.0), ("hue", 0.6, 0.5)]
)
def test_factors_out_of_range_are_refused(name, value, limit):
    with pytest.raises(InputError, match=f"{name} is {value}; .* 0 to {limit}"):
        ColourJitter(**{name: value})


def test_float64_images_are_jittered_in_float64():
    with jax.enable_x64(True):
        images = jnp.asarray(image(shape=(2, 5, 7, 3)), jnp.float64)
        assert IMAGENET.apply(images, keys(2)).dtype == jnp.float64


def test_a_program_of_float64_augments_as_one_of_float32():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    augmentation = Augmentation(padding=2, flip=True, cutout=4, colours=IMAGENET)
    stats = (0.5, 0.4, 0.3), (0.25, 0.25, 0.25)
    expected = augmentation.apply(images, keys(2), *stats)
    with jax.enable_x64(True):
        wide = augmentation.apply(images, keys(2), *stats)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, expected, atol=1e-5)
