"""Mixup and cutmix: pixels and labels, by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import Mixing, mixing
from skillearn_jax.data.augment import random_pixels
from skillearn_jax.data.mixing import cutmix, mixup, previous
from skillearn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")
BATCH = 8


@pytest.fixture
def batch():
    """Each image has one value, its place in the batch; the labels are tens of it."""
    place = jnp.arange(BATCH)
    image = jnp.broadcast_to(place[:, None, None, None] * 1.0, (BATCH, 4, 6, 1))
    return {"image": image, "label": 10 * place, "index": 100 + place}


def neighbours():
    return (np.arange(BATCH) - 1) % BATCH


def test_mixup_of_pixels():
    images, others = jnp.full((2, 1, 2, 1), 4.0), jnp.full((2, 1, 2, 1), -4.0)
    mixed = mixup(images, others, jnp.asarray([1.0, 0.25]))
    np.testing.assert_array_equal(mixed[:, 0, 0, 0], [4.0, -2.0])


def test_cutmix_of_pixels():
    images, others = jnp.zeros((3, 4, 6, 1)), jnp.ones((3, 4, 6, 1))
    shares = jnp.asarray([0.75, 0.75, 1.0])
    centers = jnp.asarray([[1, 2], [0, 5], [1, 1]])
    mixed, own = cutmix(images, others, shares, centers)
    # Half of each side: two rows and three columns, then one that overlaps two edges.
    expected = np.zeros((3, 4, 6))
    expected[0, 0:2, 1:4] = 1
    expected[1, 0:1, 4:6] = 1
    np.testing.assert_array_equal(mixed[..., 0], expected)
    np.testing.assert_allclose(own, 1 - expected.mean((1, 2)), rtol=1e-6)


def test_mixed_labels_are_those_of_the_pixels(batch):
    mixed = Mixing(mixup=1.0).apply(batch, jax.random.key(0))
    share = np.asarray(mixed["share"])
    np.testing.assert_array_equal(mixed["other_label"], 10 * neighbours())
    np.testing.assert_array_equal(mixed["label"], batch["label"])
    expected = share * np.arange(BATCH) + (1 - share) * neighbours()
    np.testing.assert_allclose(mixed["image"][:, 0, 0, 0], expected, rtol=1e-5)
    assert len(np.unique(share)) == BATCH
    assert np.all((share >= 0) & (share <= 1))


def test_cut_labels_are_those_of_the_pixels(batch):
    mixed = Mixing(cutmix=1.0).apply(batch, jax.random.key(1))
    own = np.asarray(mixed["image"])[..., 0] == np.arange(BATCH)[:, None, None]
    np.testing.assert_allclose(mixed["share"], own.mean((1, 2)), rtol=1e-6)
    assert np.all(
        (np.asarray(mixed["image"])[..., 0] == neighbours()[:, None, None]) | own
    )
    assert 0 < own.mean() < 1


def test_of_both_each_example_takes_one(batch):
    mixed = Mixing(mixup=1.0, cutmix=1.0).apply(batch, jax.random.key(2))
    pixels = np.asarray(mixed["image"]).reshape(BATCH, -1)
    whole = np.isclose(pixels, np.round(pixels)).all(axis=1)
    assert 0 < whole.sum() < BATCH


def test_the_example_decides_and_not_its_device(batch):
    """On four devices as on one: pixels, shares and neighbours."""
    mixing, key = Mixing(mixup=0.4, cutmix=1.0), jax.random.key(3)
    parts = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), batch)
    apply = jax.pmap(
        lambda b: mixing.apply(b, key, "d"), "d", devices=jax.devices()[:4]
    )
    whole, split = mixing.apply(batch, key), apply(parts)
    for name, value in whole.items():
        together = np.asarray(split[name]).reshape(value.shape)
        np.testing.assert_allclose(together, value, rtol=1e-6, err_msg=name)


def test_the_one_before():
    rows = jnp.asarray([3, 1, 4])
    np.testing.assert_array_equal(previous(rows), [4, 3, 1])


def test_off_is_false_and_negative_is_refused():
    assert not Mixing()
    assert Mixing(cutmix=0.5)
    with pytest.raises(InputError, match=r"--config\.evaluation\.mixup"):
        Mixing(mixup=-1.0)


def test_a_program_of_float64_mixes_as_one_of_float32():
    batch = {
        "image": jnp.asarray(np.random.default_rng(0).random((6, 4, 4, 1), np.float32)),
        "label": jnp.arange(6, dtype=jnp.int32),
        "index": jnp.arange(6, dtype=jnp.int32),
    }
    mixing, key = Mixing(mixup=0.8, cutmix=1.0), jax.random.key(3)
    expected = mixing.apply(batch, key)
    with jax.enable_x64(True):
        wide = mixing.apply(batch, key)
    chex.assert_trees_all_equal_dtypes(wide, expected)
    chex.assert_trees_all_close(wide, expected, rtol=1e-5)


def test_shares_are_those_of_the_two_alphas(monkeypatch):
    """Beta(a, a) has the variance 1 / (8 a + 4): of mixup, and of cutmix in pixels."""
    drawn = []

    def noted(images, others, shares, *centers):
        drawn.append(np.asarray(shares))
        return (images, shares) if centers else images

    for name in ("mixup", "cutmix"):
        monkeypatch.setattr(mixing, name, noted)
    count = 4000
    batch = {
        "image": jnp.zeros((count, 1, 1, 1)),
        "label": jnp.zeros(count, jnp.int32),
        "index": jnp.arange(count),
    }
    mixed = Mixing(mixup=0.25, cutmix=2.0).apply(batch, jax.random.key(0))
    for shares, alpha in zip(drawn, (0.25, 2.0), strict=True):
        variance = 1 / (8 * alpha + 4)
        assert abs(shares.mean() - 0.5) < 5 * (variance / count) ** 0.5
        assert np.var(shares) == pytest.approx(variance, rel=0.1)
    blended, cut = drawn
    takes_cut = np.asarray(mixed["share"]) == cut
    assert np.all(takes_cut | (np.asarray(mixed["share"]) == blended))
    assert abs(takes_cut.mean() - 0.5) < 2.5 / count**0.5


def test_shares_places_and_the_kind_are_drawn_with_keys_of_their_own(
    batch, monkeypatch
):
    drawn = []

    def noting(name, of_keys):
        draw = getattr(mixing, name)

        def noted(*args):
            drawn.append(jax.random.key_data(args[of_keys]))
            return draw(*args)

        monkeypatch.setattr(mixing, name, noted)

    for name, of_keys in (("_shares", 0), ("random_pixels", 1), ("even_chances", 0)):
        noting(name, of_keys)
    Mixing(mixup=1.0, cutmix=1.0).apply(batch, jax.random.key(2))
    assert len(drawn) == 4
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 4 * BATCH


def test_boxes_are_cut_all_over_an_image_that_is_not_square():
    image = jnp.zeros((2000, 2, 6, 1))
    others = jnp.ones_like(image)
    keys = jax.random.split(jax.random.key(0), 2000)
    centers = random_pixels(image, keys)
    counts = np.bincount(np.asarray(centers[:, 0] * 6 + centers[:, 1]), minlength=12)
    assert np.abs(counts - 2000 / 12).max() < 5 * (2000 / 12) ** 0.5
    cut, _ = cutmix(image, others, jnp.full(2000, 0.75), centers)
    assert np.asarray(cut).max(0).min() == 1
