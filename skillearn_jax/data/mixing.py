"""Mixing each image of a training batch with its neighbour: mixup and cutmix."""

import dataclasses

import jax
import jax.numpy as jnp

from skillearn_jax.data.augment import even_chances, example_keys, random_pixels
from skillearn_jax.data.streams import Batch
from skillearn_jax.errors import InputError
from skillearn_jax.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mixup and cutmix; where both are on, each example takes either with probability 1/2.

    Example i is mixed with example i - 1 of the batch, whose order is random. What is drawn
    depends on the key and on the index of the example in its set, so the number of devices
    changes nothing.

    Attributes:
        mixup: alpha: the share of the image is drawn from Beta(alpha, alpha); 0 for off.
        cutmix: alpha, likewise, of the share that is not cut out; 0 for off.

    References:
        Zhang et al. 2018, mixup, arXiv 1710.09412. Yun et al. 2019, CutMix, arXiv
        1905.04899.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise InputError(
                    f"{name} is {value}; it must be 0 or more: set "
                    f"--config.evaluation.{name}"
                )

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def apply(self, batch: Batch, key: Key, axis_name: str | None = None) -> Batch:
        """Returns the batch with mixed images and with what their labels are made of.

        Args:
            batch: `image`, `label` and `index`; of one device.
            key: of the step, the same on all devices; consumed.
            axis_name: the mapped axis over whose devices the batch is laid out.

        Returns:
            The batch with `other_label: [b] int32`, of the neighbour, and `share: [b]
            float32`, of the own label: the loss is `share L(label) + (1 - share)
            L(other_label)`.

        Cost: one copy of the images; between devices goes one image.
        """
        image = batch["image"]
        other = previous(image, axis_name)
        kind_keys, blend_keys, box_keys, cut_keys = jax.vmap(
            lambda key: jax.random.split(key, 4), out_axes=1
        )(example_keys(key, batch["index"]))
        blended, cut = image, image
        blended_share = cut_share = jnp.ones(len(image), jnp.float32)
        if self.mixup:
            blended_share = _shares(blend_keys, self.mixup)
            blended = mixup(image, other, blended_share)
        if self.cutmix:
            drawn = _shares(cut_keys, self.cutmix)
            centers = random_pixels(image, box_keys)
            cut, cut_share = cutmix(image, other, drawn, centers)
        takes_cut = even_chances(kind_keys)
        if not (self.mixup and self.cutmix):
            takes_cut = jnp.full(len(image), bool(self.cutmix))
        return {
            **batch,
            "image": jnp.where(takes_cut[:, None, None, None], cut, blended),
            "other_label": previous(batch["label"], axis_name),
            "share": jnp.where(takes_cut, cut_share, blended_share),
        }


def previous(rows: Array, axis_name: str | None = None) -> Array:
    """Returns for each row of a batch the one before; for the first one the last.

    Args:
        rows: `[b, ...]`, this device's part of the batch, in the order of the devices.
        axis_name: the mapped axis of the devices, or None.
    """
    last = rows[-1:]
    if axis_name is not None:
        count = jax.lax.axis_size(axis_name)
        ring = [(i, (i + 1) % count) for i in range(count)]
        last = jax.lax.ppermute(last, axis_name, ring)
    return jnp.concatenate([last, rows[:-1]])


def mixup(images: Array, others: Array, shares: Array) -> Array:
    """Returns `share * image + (1 - share) * other`, `[b, H, W, C]`.

    Args:
        images: `[b, H, W, C]`, normalised.
        others: likewise.
        shares: `[b]`, in [0, 1].
    """
    shares = shares[:, None, None, None].astype(images.dtype)
    return shares * images + (1 - shares) * others


def cutmix(
    images: Array, others: Array, shares: Array, centers: Array
) -> tuple[Array, Array]:
    """Returns the images with a box of the others pasted in, and what is left of them.

    The box has the sides `sqrt(1 - share)` times those of the image, rounded down, and
    begins half a side before its centre; what falls outside the image is cut off.

    Args:
        images: `[b, H, W, C]`.
        others: likewise.
        shares: `[b]`, in [0, 1], that are aimed at.
        centers: `[b, 2] int32`, row and column.

    Returns:
        `[b, H, W, C]`, and `[b]` the shares of pixels that are the image's own.
    """

    def inside(axis: int) -> Array:
        size = images.shape[1 + axis]
        side = jnp.floor(jnp.sqrt(1 - shares) * size).astype(jnp.int32)[:, None]
        offset = jnp.arange(size)[None] - (centers[:, axis, None] - side // 2)
        return (offset >= 0) & (offset < side)

    rows, columns = inside(0), inside(1)
    box = rows[:, :, None] & columns[:, None, :]
    kept = 1 - jnp.mean(box, (1, 2), jnp.float32)
    return jnp.where(box[..., None], others, images), kept


def _shares(keys: Key, alpha: float) -> Array:
    """Returns draws from Beta(alpha, alpha), `[b] float32`."""
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha, dtype=jnp.float32))(
        keys
    )
