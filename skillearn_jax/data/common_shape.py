"""Images of several data sets brought to one size and one number of channels."""

from collections.abc import Sequence

import numpy as np

from skillearn_jax.data.examples import ImageData, from_arrays
from skillearn_jax.data.jpeg import resized_box
from skillearn_jax.data.pixels import check_memory
from skillearn_jax.errors import InputError


def to_common_shape(
    data: Sequence[ImageData], side: int = 0, channels: int = 0
) -> tuple[ImageData, ...]:
    """Returns the data sets with square images of one size and as many channels.

    Images are resized bilinearly, with anti-aliasing where they shrink; one that is not
    square is stretched. Grey images take the channels of colour ones by repetition. The
    pixel statistics are those of the new images. A set that has the shape is returned
    as it is.

    Args:
        data: at least one data set.
        side: height and width of the result in pixels; 0 takes the largest side of
            all.
        channels: of the result; 0 takes the largest number of all.

    Raises:
        InputError: for channel counts other than 1 that differ, and for more pixels than
            the machine has memory for.

    Cost: one pass over the images on the host, some 10 microseconds for a small one.
    """
    shapes = [each.image_shape for each in data]
    side = side or max(size for shape in shapes for size in shape[:2])
    channels = channels or max(shape[2] for shape in shapes)
    for each, shape in zip(data, shapes, strict=True):
        if shape[2] not in (1, channels):
            raise InputError(
                f"the images of {each.name} have {shape[2]} channels and others have "
                f"{channels}; only grey ones can be given more: set --config.tasks"
            )
    total = sum(each.num_train + each.num_heldout for each in data)
    check_memory(total, side, side, channels)
    return tuple(_reshaped(each, side, channels) for each in data)


def _reshaped(data: ImageData, side: int, channels: int) -> ImageData:
    if data.image_shape == (side, side, channels):
        return data
    return from_arrays(
        data.name,
        _images(np.asarray(data.train.image), side, channels),
        data.train.label,
        _images(np.asarray(data.heldout.image), side, channels),
        data.heldout.label,
        num_classes=data.num_classes,
        class_names=data.class_names,
    )


def _images(images: np.ndarray, side: int, channels: int) -> np.ndarray:
    """Returns `[N, H, W, C] uint8` images as `[N, side, side, channels]`."""
    count, height, width, given = images.shape
    if (height, width) != (side, side):
        # Channel by channel: the resizing knows grey and RGB images only.
        planes = images.transpose(0, 3, 1, 2).reshape(-1, height, width)
        box = (0, 0, height, width)
        planes = np.stack([resized_box(plane, box, (side, side)) for plane in planes])
        images = planes.reshape(count, given, side, side).transpose(0, 2, 3, 1)
    return np.repeat(images, channels, axis=3) if given < channels else images
