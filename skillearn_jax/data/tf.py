"""TensorFlow, where it is installed: only to read and write data, never on a GPU."""

import importlib
from typing import Any

from skillearn_jax.errors import InputError


def tensorflow(purpose: str) -> Any:
    """Returns the module `tensorflow`, which from here on sees no GPU.

    It would else take all memory of every GPU, which JAX needs.

    Args:
        purpose: what needs it, for the message: `"to read tfrecord files"`.

    Raises:
        InputError: if it is not installed, or already runs on a GPU.
    """
    try:
        # Not a statement: the package declares TensorFlow as an extra, not a dependency.
        tf = importlib.import_module("tensorflow")
    except ImportError as error:
        raise InputError(
            f'TensorFlow is needed {purpose}: pip install -e ".[tf]"'
        ) from error
    if tf.config.get_visible_devices("GPU"):
        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError as error:
            raise InputError(
                "TensorFlow already runs on a GPU in this process, whose memory JAX "
                "needs: load the data before anything else uses TensorFlow"
            ) from error
    return tf
