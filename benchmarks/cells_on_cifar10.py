"""A published cell against random cells of its size, trained alike on real photographs.

    SKILLEARN_DATA=DIR python benchmarks/cells_on_cifar10.py --workdir=runs/cells

`DIR/cifar10_jpegpack.npz` holds the 60,000 images of CIFAR-10 as JPEG files of quality 75:
lossy, so errors are not to be compared with published ones. The arrays of the file are
`header` and `body` (bytes), `offsets` (image i is the header and then the body from
`offsets[i]` to `offsets[i + 1]`; from the 50,000th on they are test images), `train_labels`
and `test_labels`.

The run is that of `configs/evaluate_cifar10.py:short`, whose docstring says what is trained;
with the original files of CIFAR-10 the launcher runs it by itself. A second call with the
same workdir goes on where the first has ended.
"""

import argparse
import io
import os
import pathlib
import runpy
import sys

import numpy as np
from PIL import Image

from skillearn_jax.data import ImageData, from_arrays
from skillearn_jax.errors import InputError, Interrupted
from skillearn_jax.train import run

PACK = "cifar10_jpegpack.npz"
CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "evaluate_cifar10.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--variant", default="short", help="of the config")
    parser.add_argument("--limit", type=int, default=0, help="images; 0 for all")
    args = parser.parse_args()
    folder = os.environ.get("SKILLEARN_DATA", "")
    pack = pathlib.Path(folder) / PACK
    if not folder or not pack.is_file():
        parser.error(f"set SKILLEARN_DATA to a folder that holds {PACK}")
    config = runpy.run_path(str(CONFIG))["get_config"](args.variant)
    try:
        run(config, args.workdir, data=read(pack, args.limit))
    except (InputError, Interrupted) as error:
        sys.exit(str(error))


def read(pack: pathlib.Path, limit: int = 0) -> ImageData:
    """Returns the images of the file, of each split the first `limit` if that is not 0."""
    with np.load(pack) as arrays:
        header, body = arrays["header"].tobytes(), arrays["body"].tobytes()
        offsets = arrays["offsets"]
        labels = {name: arrays[f"{name}_labels"] for name in ("train", "test")}
    firsts = {"train": 0, "test": len(labels["train"])}

    def pixels(i: int) -> np.ndarray:
        with Image.open(
            io.BytesIO(header + body[offsets[i] : offsets[i + 1]])
        ) as image:
            return np.asarray(image.convert("RGB"))

    parts = []
    for split, first in firsts.items():
        chosen = labels[split][: limit or None]
        parts += [np.stack([pixels(first + i) for i in range(len(chosen))]), chosen]
    return from_arrays("cifar10_jpeg", *parts, num_classes=10)


if __name__ == "__main__":
    main()
