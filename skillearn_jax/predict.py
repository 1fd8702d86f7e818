"""Floor 5: what a trained network sees in a folder of images: `python -m` this module.

    python -m skillearn_jax.predict --workdir=runs/search --images=photos --format=csv

One line for each picture, in the order of their paths: its path below the folder, the
likeliest class and its probability. PNG and JPEG, in folders of the folder too, hidden
files and folders left aside. A picture of another size than the training images is resized
to it (bilinear, with anti-aliasing; proportions are not kept), colours become grey where
those were grey; orientation tags of cameras are not applied, as in training. Where that
streamed its images from files, the middle of a picture is cut out as of the held-out ones.

Exit codes: 0; 2 for a mistake in the flags, and where a picture is damaged: it is named on
stderr, and the others are predicted.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from skillearn_jax.commands import complain, leave, make_parser, run_command
from skillearn_jax.data import jpeg, pixels
from skillearn_jax.data.folder import SUFFIXES
from skillearn_jax.errors import InputError
from skillearn_jax.paths import user_path
from skillearn_jax.train import Trained, load
from skillearn_jax.train.trained import Facts

_BATCH = 64


class Prediction(NamedTuple):
    """The likeliest class of an image.

    Attributes:
        image: its path below the folder; bytes of it that are no UTF-8 are escaped.
        label: name of the class, or its number where the data have no names.
        probability: of that class, by the softmax of the logits.
    """

    image: str
    label: str
    probability: float


def predict(
    trained: Trained, folder: Path, say: Callable[[str], None]
) -> Iterator[Prediction]:
    """Returns a prediction for each image of a folder, in the order of their paths.

    Args:
        trained: of `load`.
        folder: of PNG and JPEG files, at any depth.
        say: is told in one line of each file that is no readable image.

    Raises:
        InputError: at once, if the folder is none, holds no image, or a folder that cannot
            be read, and for a network of other images than grey and colour ones.

    Cost: one compilation; images are decoded and held a batch at a time.
    """
    channels = trained.apply.facts.image_shape[2]
    if channels not in (1, 3):
        raise InputError(
            f"the network takes images of {channels} channels, which no PNG or JPEG has: "
            "call it as a function, see docs/trained_networks.md"
        )
    return _predictions(trained, folder, _image_files(folder), say)


def _predictions(
    trained: Trained, folder: Path, files: list[Path], say: Callable[[str], None]
) -> Iterator[Prediction]:
    apply, variables = trained
    facts = apply.facts
    # The variables are an argument: as constants, XLA would fold them for minutes.
    probabilities = jax.jit(lambda *args: jax.nn.softmax(apply(*args)))
    names: list[str] = []
    batch = np.zeros((_BATCH, *facts.image_shape), np.uint8)

    def of_batch() -> Iterator[Prediction]:
        rows = np.asarray(probabilities(variables, batch))  # one shape: compiled once
        for name, row in zip(names, rows, strict=False):
            best = int(row.argmax())
            yield Prediction(name, facts.label(best), float(row[best]))
        names.clear()

    for file in files:
        try:
            image = _read(file, facts)
        except pixels.UNDECODABLE:
            say(f"{file} is no readable image")
            continue
        batch[len(names)] = image
        names.append(_printable(file.relative_to(folder)))
        if len(names) == _BATCH:
            yield from of_batch()
    if names:
        yield from of_batch()


def _read(file: Path, facts: Facts) -> np.ndarray:
    """Returns an image as the held-out ones were read, `[H, W, C] uint8`."""
    height, width, channels = facts.image_shape
    if facts.shorter_side:
        return jpeg.middle(jpeg.decode(file.read_bytes()), facts.shorter_side, height)
    return pixels.decode(file, channels=channels, size=(height, width))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: the flags; by default those of the process.
    """
    parser = make_parser(
        "skillearn_jax.predict", "Prints the likeliest class of each image of a folder."
    )
    parser.add_argument("--workdir", required=True, help="of a search or an evaluation")
    parser.add_argument("--images", required=True, help="folder of PNG and JPEG files")
    parser.add_argument(
        "--network", default="derived", help="derived (default), 'random 1' or a rival"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of its training; default 0"
    )
    parser.add_argument(
        "--format", choices=WRITERS, default="text", help="default text"
    )
    flags = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # of names that it cannot say
        sys.stdout.reconfigure(errors="backslashreplace")

    def command() -> int:
        damaged: list[str] = []

        def say(line: str) -> None:
            damaged.append(line)
            complain("predict", line)

        trained = load(flags.workdir, flags.network, flags.seed)
        WRITERS[flags.format](predict(trained, user_path(flags.images), say))
        return InputError.exit_code if damaged else 0

    return run_command(parser, command)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: set --images")
    files = [
        path
        for path in _walk(folder)
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not files:
        raise InputError(f"{folder} holds no {', '.join(SUFFIXES)} file: set --images")
    return sorted(files)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder, of linked folders too, each folder once.

    Hidden files and folders are left aside.
    """

    def refuse(error: OSError) -> None:  # what `os.walk` passes over otherwise
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}): set --images"
        ) from error

    seen = set()
    for top, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(top)
        if real in seen:  # a link may lead back
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(top, name) for name in names if not name.startswith("."))


def _printable(path: Path) -> str:
    r"""Returns a path as text; bytes that are no UTF-8 become `\x..`."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _write_text(predictions: Iterator[Prediction]) -> None:
    for image, label, probability in predictions:
        print(f"{image}  {label}  {probability:.4f}")


def _write_csv(predictions: Iterator[Prediction]) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("image", "class", "probability"))
    rows.writerows(predictions)


def _write_json(predictions: Iterator[Prediction]) -> None:
    for image, label, probability in predictions:
        row = {"image": image, "class": label, "probability": probability}
        print(json.dumps(row))


WRITERS = {"text": _write_text, "csv": _write_csv, "json": _write_json}
"""How predictions are printed; JSON is one object a line."""

if __name__ == "__main__":
    leave(main())
