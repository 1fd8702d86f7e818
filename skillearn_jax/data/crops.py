"""Where to cut a photograph: formulas that NumPy and TensorFlow both compute.

`xp` is the array library: `numpy` or `tensorflow.experimental.numpy`.
"""

from typing import Any

import numpy as np

ATTEMPTS = 10
"""Boxes that `random_box` tries before it takes one in the middle."""

_RATIO = (3 / 4, 4 / 3)  # least and largest width / height


def random_box(
    height: Any,
    width: Any,
    draws: Any,
    scale: tuple[float, float] = (0.08, 1.0),
    xp: Any = np,
) -> tuple[Any, Any, Any, Any]:
    """Returns the box of a random-resized-crop, as torchvision's RandomResizedCrop.

    The first attempt that fits into the image is taken; if none does, the largest box
    in the middle whose ratio is allowed. The logarithm of the ratio is uniform.

    Args:
        height: of the image, pixels; a `[] float64` of the library.
        width: likewise.
        draws: `[4, ATTEMPTS] float64`, uniform in [0, 1): area, ratio, top and left.
        scale: least and largest area of the box, as a share of the image.
        xp: the array library.

    Returns:
        `(top, left, height, width)`, whole numbers as `[] float64`.

    References: Szegedy et al. 2015, Going deeper with convolutions, 1409.4842
        (section 6).
    """

    def whole(number: Any) -> Any:
        return xp.floor(number + 0.5)

    area = height * width * (scale[0] + draws[0] * (scale[1] - scale[0]))
    low, high = np.log(_RATIO)
    aspect = xp.exp(low + draws[1] * (high - low))
    box_height = whole(xp.sqrt(area / aspect))
    box_width = whole(xp.sqrt(area * aspect))
    fits = (box_height <= height) & (box_width <= width)
    fits &= (box_height > 0) & (box_width > 0)
    first = xp.argmax(fits)

    def chosen(attempts: Any, otherwise: Any) -> Any:
        return xp.where(fits[first], attempts[first], otherwise)

    box_height = chosen(box_height, xp.minimum(height, whole(width / _RATIO[0])))
    box_width = chosen(box_width, xp.minimum(width, whole(height * _RATIO[1])))
    free_height, free_width = height - box_height, width - box_width
    top = chosen(xp.floor(draws[2] * (free_height + 1)), xp.floor(free_height / 2))
    left = chosen(xp.floor(draws[3] * (free_width + 1)), xp.floor(free_width / 2))
    return top, left, box_height, box_width


def shorter_side(height: Any, width: Any, short: int, xp: Any = np) -> tuple[Any, Any]:
    """Returns the height and width after the shorter side is resized to `short`.

    Args:
        height: of the image, pixels; an integer of the library.
        width: likewise.
        short: pixels.
        xp: the array library.

    Returns:
        `(height, width)`, pixels, integers of the library; rounded down.
    """
    shorter = xp.minimum(height, width)
    return height * short // shorter, width * short // shorter
