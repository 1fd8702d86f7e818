"""Labelled images in memory, and the data set that a source or a user makes of them."""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager

import jax
import numpy as np
from numpy.typing import ArrayLike

from skillearn_jax.errors import InputError, told_with
from skillearn_jax.types import Array

_INT32_MAX = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images, a pytree: `jax.device_put(examples)` moves them to the device.

    Attributes:
        image: `[N, H, W, C] uint8` pixels in 0..255, on the host or on the device.
        label: `[N] int32` classes.
    """

    image: Array | np.ndarray
    label: Array | np.ndarray

    @property
    def size(self) -> int:
        """The number of examples, N."""
        return self.label.shape[0]

    def take(self, indices: Array | np.ndarray) -> "Examples":
        """Returns the examples at `indices`, `[M] int32` or a `[N] bool` mask."""
        return Examples(image=self.image[indices], label=self.label[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages:
    """What is known of a data set without its held-out images.

    Attributes:
        name: the source, for messages and reports.
        train: the training images.
        num_classes: labels lie in 0..num_classes-1.
        mean: per channel, of the training pixels scaled to [0, 1].
        std: per channel, likewise.
        class_names: by class; empty where the source has none.
    """

    name: str
    train: Examples
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width (pixels) and channels."""
        height, width, channels = self.train.image.shape[1:]
        return height, width, channels

    @property
    def num_train(self) -> int:
        """The number of training images."""
        return self.train.size


class TrainingImages(LabelledImages):
    """What a search receives: it cannot read held-out images, having none."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData(LabelledImages):
    """A classification data set in memory: what every source returns.

    Attributes:
        heldout: the test set, read by the final evaluation only.
    """

    heldout: Examples

    @property
    def num_heldout(self) -> int:
        """The number of held-out images."""
        return self.heldout.size

    @property
    def training(self) -> TrainingImages:
        """All but the held-out images."""
        return TrainingImages(
            self.name,
            self.train,
            self.num_classes,
            self.mean,
            self.std,
            class_names=self.class_names,
        )


def found_in(place: object) -> AbstractContextManager[None]:
    """Adds to an `InputError` where in the user's data the mistake was found.

    Args:
        place: the file or folder, with more about it if need be.
    """
    return told_with(f"{place}: ", " (--config.data.dir)")


def from_arrays(
    name: str,
    train_images: ArrayLike,
    train_labels: ArrayLike,
    heldout_images: ArrayLike,
    heldout_labels: ArrayLike,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
) -> ImageData:
    """Returns a data set made of the user's own arrays.

    Args:
        name: free text that names the data in messages and reports.
        train_images: `[N, H, W, C] uint8`, or `[N, H, W]` for grey images.
        train_labels: `[N]` integers, classes counted from 0.
        heldout_images: `[M, H, W, C]` or `[M, H, W]`, as `train_images`.
        heldout_labels: `[M]` integers.
        num_classes: by default the largest training label plus one, where each smaller
            one must occur.
        class_names: by class, as many as there are; what `predict` calls them.

    Returns:
        `ImageData` with host arrays and the pixel statistics of the training images.

    Raises:
        InputError: for a wrong shape, dtype, length or label, for channels that come
            first, for a single class or one without training images, for names that are
            no texts or not as many as the classes, and for a channel whose training
            pixels are all equal (it cannot be normalised).
    """
    if num_classes is not None:
        # A number of NumPy's, as of `labels.max() + 1`, is one that JSON cannot hold.
        if not isinstance(num_classes, int | np.integer) or num_classes < 1:
            raise InputError(
                f"num_classes={num_classes!r}; it must be a whole number, one or more"
            )
        num_classes = int(num_classes)
    train = _examples("train", train_images, train_labels, num_classes)
    if num_classes is None:
        present = np.unique(train.label)
        num_classes = int(present[-1]) + 1
        if num_classes > present.size:
            absent = np.flatnonzero(present != np.arange(present.size))[0]
            raise InputError(
                f"no train label is {absent}, but some are larger: count the classes "
                "from 0 without gaps"
            )
    if num_classes < 2:
        raise InputError(
            "all labels are 0, of one class; there must be two or more to tell apart"
        )
    if isinstance(class_names, str) or len(class_names) not in (0, num_classes):
        raise InputError(
            f"class_names={class_names!r}; there must be {num_classes}, one for each "
            "class, or none"
        )
    for each in class_names:
        if not isinstance(each, str):
            raise InputError(
                f"class_names holds {each!r}, of type {type(each).__name__}; names must be texts: "
                "give list(map(str, class_names))"
            )
    heldout = _examples("heldout", heldout_images, heldout_labels, num_classes)
    if heldout.image.shape[1:] != train.image.shape[1:]:
        raise InputError(
            f"heldout images are {list(heldout.image.shape[1:])} but train images are "
            f"{list(train.image.shape[1:])}: height, width and channels must agree"
        )
    mean, std = pixel_statistics(train.image)
    if 0.0 in std:
        raise InputError(
            f"channel {std.index(0.0)} of the train images is constant and cannot be "
            "normalised: leave it out"
        )
    return ImageData(
        name, train, num_classes, mean, std, heldout, class_names=tuple(class_names)
    )


def pixel_statistics(
    images: ArrayLike,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of each channel, pixels in [0, 1].

    Args:
        images: `[N, H, W, C] uint8`.

    Returns:
        `(mean, std)`, C floats each. The sums are integers, hence exact.
    """
    pixels = np.asarray(images)
    count = pixels[..., 0].size
    total = pixels.sum(axis=(0, 1, 2), dtype=np.int64)
    # 255^2 fits in 16 bits, so that the squares of a large set stay small.
    square = np.square(pixels, dtype=np.uint16).sum(axis=(0, 1, 2), dtype=np.int64)
    # The variance is a difference of integers: exactly zero for a constant channel.
    variance = [
        count * int(s) - int(t) ** 2 for s, t in zip(square, total, strict=True)
    ]
    mean = tuple(int(t) / count / 255.0 for t in total)
    std = tuple(v**0.5 / count / 255.0 for v in variance)
    return mean, std


def _examples(
    split: str, images: ArrayLike, labels: ArrayLike, num_classes: int | None
) -> Examples:
    """Returns checked examples; `split` names them in the messages."""
    try:
        image, label = np.asarray(images), np.asarray(labels)
    except ValueError as error:  # lists of lists of several lengths
        raise InputError(f"{split} images or labels are no array: {error}") from error
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or 0 in image.shape:
        raise InputError(
            f"{split} images must be [N, H, W, C] or [N, H, W] uint8 and not empty, "
            f"got {list(image.shape)} {image.dtype}"
        )
    if label.dtype.kind not in "iu" or label.shape != image.shape[:1]:
        raise InputError(
            f"{split} labels must be [{len(image)}] integers, one for each image, "
            f"got {list(label.shape)} {label.dtype}"
        )
    if image.ndim == 4 and image.shape[1] <= 4 < image.shape[3]:
        raise InputError(
            f"{split} images are {list(image.shape)}, {image.shape[1]} pixels high with "
            f"{image.shape[3]} channels; channels come last: transpose them (0, 2, 3, 1)"
        )
    wrong = label[(label < 0) | (label >= (num_classes or _INT32_MAX))]
    if wrong.size:
        allowed = (
            "classes are counted from 0"
            if num_classes is None
            else f"classes go from 0 to {num_classes - 1}"
        )
        raise InputError(f"{split} label {wrong[0]} is out of range: {allowed}")
    if image.ndim == 3:
        image = image[..., np.newaxis]
    return Examples(image=image, label=label.astype(np.int32))
