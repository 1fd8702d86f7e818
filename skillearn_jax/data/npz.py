"""A user's own arrays in one .npz file."""

import zipfile
import zlib

import numpy as np

from skillearn_jax.data.examples import ImageData, found_in, from_arrays
from skillearn_jax.errors import InputError
from skillearn_jax.paths import user_path

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
"""The arrays that the file must hold."""

NAMES = "class_names"
"""What it may hold beside them."""

# What NumPy and zipfile raise for truncated, corrupt, encrypted and pickled members.
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError)


def read(path: str) -> ImageData:
    """Returns the data set stored in an .npz file, as `np.savez` writes it.

    Nothing in the file is executed: object arrays, which need pickle, are refused.

    Args:
        path: of a file with `KEYS`: images `[N, H, W, C]` or `[N, H, W] uint8`, labels
            `[N]` integers counted from 0; and, if need be, `NAMES`: `[classes]` texts.

    Returns:
        `ImageData` whose name is the name of the file without its suffix.

    Raises:
        InputError: for a path that is no .npz file, a missing or damaged array, and
            whatever `from_arrays` refuses.
    """
    hint = "set --config.data.dir to an .npz file with " + ", ".join(KEYS)
    if not path:
        raise InputError(f"the data source npz needs a file: {hint}")
    file = user_path(path)
    if not file.is_file():
        raise InputError(f"{file} is not a file: {hint}")
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file} is not an .npz archive: {hint}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            known = (*KEYS, NAMES)
            # A member that is no array is read as bytes.
            arrays = {
                key: np.asarray(archive[key]) for key in known if key in archive.files
            }
    except MemoryError as error:
        raise InputError(
            f"{file} does not fit into the memory of this machine ({error}): {hint}"
        ) from error
    except _DAMAGE as error:
        raise InputError(
            f"{file} is damaged, or holds Python objects instead of arrays: {hint}"
        ) from error
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise InputError(f"{file} lacks {', '.join(missing)}: {hint}")
    names = arrays.pop(NAMES, np.array([], str))
    if names.dtype.kind != "U" or names.ndim != 1:
        raise InputError(
            f"{file}: {NAMES} must be a row of texts, one for each class, got "
            f"{list(names.shape)} {names.dtype}: {hint}"
        )
    with found_in(f"{file} (its test_* arrays are the heldout set)"):
        return from_arrays(
            file.stem, *(arrays[key] for key in KEYS), class_names=names.tolist()
        )
