"""The members of the official CIFAR *python* archives, which are pickles by format.

This is the one place that reads pickles, and none of them executes anything: the three
names of NumPy that those files hold lead to the inert classes below, any other name is
refused.
"""

import io
import pickle
from typing import Any

import numpy as np

from skillearn_jax.errors import InputError, refusing


def read_batch(
    content: bytes, label_keys: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels and the labels of one pickled batch.

    Args:
        content: a dict with `data`, a `[N, 3072] uint8` array, and lists of N labels,
            in Python 2's protocol 2.
        label_keys: which lists to return.

    Returns:
        `([N, 3072] uint8, [N, len(label_keys)])`; the labels as NumPy understands them,
        for `from_arrays` to check.

    Raises:
        InputError: for anything else, and for a pickle that names any object but
            NumPy's array and dtype.
    """
    foreign = InputError(
        "no batch of CIFAR: it must be a pickled dict with the array data and the lists "
        + ", ".join(label_keys)
    )
    with refusing(Exception, told=lambda _: foreign):
        batch = _load(content)
        pixels = batch["data"].array
        labels = np.stack([np.array(batch[key]) for key in label_keys], -1)
    if pixels.shape != (len(labels), 3072) or labels.ndim != 2:
        raise InputError(
            f"its data are {list(pixels.shape)} and its labels {list(labels.shape)}; "
            f"they must be [N, 3072] and [N, {len(label_keys)}]"
        )
    return pixels, labels


def read_names(content: bytes, key: str) -> list[str]:
    """Returns the names of the classes, by class.

    Args:
        content: a dict with lists of strings, in Python 2's protocol 2.
        key: of the list.

    Raises:
        InputError: for anything else, and for a pickle that names any object.
    """
    foreign = InputError(
        f"no names of CIFAR's classes: it must be a pickled dict with the list {key}"
    )
    with refusing(Exception, told=lambda _: foreign):
        names = list(_load(content)[key])
        if not all(isinstance(name, str) for name in names):
            raise TypeError(names)
        return names


def _load(content: bytes) -> Any:
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


class _Dtype:
    """Stands for `numpy.dtype`; only bytes are let through."""

    def __init__(self, code: str, *flags: int) -> None:
        if code != "u1":
            raise InputError(f"the array data has dtype {code!r}; it must be 'u1'")

    def __setstate__(self, state: Any) -> None:
        """Ignores the byte order and the like, which bytes do not have."""


class _Array:
    """Stands for `numpy.ndarray` and for the function that makes an empty one."""

    def __init__(self, *ignored: Any) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype) or fortran_order is not False:
            raise InputError("the array data must be [N, 3072] uint8 in C order")
        # Python 2 wrote a string of bytes, which `encoding` turned into text.
        self.array = np.frombuffer(data.encode("latin1"), np.uint8).reshape(shape)


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the inert stand-in for a name, and refuses all but three."""
        if (module, name) not in _GLOBALS:
            raise InputError(
                f"its pickle asks for {f'{module}.{name}'!r}, which no batch of CIFAR does"
            )
        return _GLOBALS[module, name]
