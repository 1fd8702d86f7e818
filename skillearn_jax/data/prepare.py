"""Prepares a TFDS data set from downloaded archives: `python -m` this module.

Nothing is downloaded. The official builders need TensorFlow while they prepare; what
they leave, in the format array_record, is read without it.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from skillearn_jax.commands import leave, make_parser, run_command
from skillearn_jax.data.archives import verify_digest
from skillearn_jax.data.tf import tensorflow
from skillearn_jax.data.tfds_folder import (
    check_name,
    find_version,
    is_registered,
    stored_format,
)
from skillearn_jax.errors import InputError, UserError, cannot_write, first_line
from skillearn_jax.paths import user_path

FORMATS = ("array_record", "tfrecord")
"""What the records can be stored in; only the last needs TensorFlow to be read.

Not parquet, which `tfds.read` reads: TFDS 4.9.10 loses most examples in writing it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 for a mistake, 4 for a disk.

    Args:
        argv: the flags; by default those of the process.
    """
    parser = make_parser(
        "skillearn_jax.data.prepare",
        "Prepares a TFDS data set from archives on disk, without network.",
    )
    parser.add_argument("--name", required=True, help="cifar10, cifar100, mnist, ...")
    parser.add_argument("--archives", required=True, help="folder of the archives")
    parser.add_argument("--data_dir", required=True, help="where the result goes")
    parser.add_argument(
        "--file_format",
        default="array_record",
        choices=FORMATS,
        help="of the result (default: %(default)s); reading tfrecord needs TensorFlow",
    )
    flags = parser.parse_args(argv)

    def command() -> None:
        folder = prepare(flags.name, flags.archives, flags.data_dir, flags.file_format)
        print(f"{flags.name} is in {folder}: set --config.data.dir={flags.data_dir}")

    return run_command(parser, command)


def prepare(
    name: str, archives: str, data_dir: str, file_format: str = "array_record"
) -> pathlib.Path:
    """Returns the folder of a data set that TFDS has prepared from archives on disk.

    What is there already in that format is kept, and nothing is done.

    Args:
        name: a builder of the installed TFDS, see `tfds.read`.
        archives: the folder with all files that the builder would download, under the
            names that TFDS has for them; what users must fetch by hand belongs there
            too.
        data_dir: where `NAME/VERSION/` is written. It also holds the unpacked archives
            while this runs.
        file_format: one of `FORMATS`.

    Raises:
        InputError: for an unknown builder, a missing or wrong archive, data that are
            there already in another format, a folder that cannot be made, and without
            TensorFlow.
        StorageError: if the disk takes no folder.
    """
    check_name(name, "--name")
    if not is_registered(name):
        raise InputError(f"unknown TFDS builder {name!r}: set --name")
    done = find_version(name, data_dir)
    if done is not None:
        if stored_format(done) != file_format:
            raise InputError(
                f"{done} is there already, as {stored_format(done)}: set --file_format "
                "to that, remove it, or set another --data_dir"
            )
        return done
    source = user_path(archives)
    if not source.is_dir():
        raise InputError(f"{source} is not a folder: set --archives")
    tensorflow(f"to prepare {name}")
    import tensorflow_datasets as tfds

    target = user_path(data_dir)
    try:
        builder = tfds.builder(name, data_dir=target, file_format=file_format)
        _check_archives(builder, source)
        _make(target)
        with tempfile.TemporaryDirectory(dir=target, prefix=".prepare-") as scratch:
            builder.download_and_prepare(
                download_dir=scratch,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=source,
                    try_download_gcs=False,
                    force_checksums_validation=True,  # refuses unlisted downloads
                ),
            )
    except UserError:
        raise
    except Exception as error:  # builders raise what they like for what is not theirs
        raise InputError(
            f"TFDS cannot prepare {name} from {source}: {first_line(error)}: set --name "
            "or --archives"
        ) from error
    return pathlib.Path(builder.data_path)


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"the folder {folder}", error, "set --data_dir") from error


def _check_archives(builder: Any, source: pathlib.Path) -> None:
    """Refuses missing and wrong files, which TFDS would go and download.

    A URL without a file name is one that TFDS downloads always, but for builders with
    instructions what to fetch by hand: those look for the files themselves.
    """
    for url, info in (builder.url_infos or {}).items():
        if info.filename:
            file = source / info.filename
            if not file.is_file():
                raise InputError(
                    f"{file} is missing: get it from {url}, or set --archives"
                )
            verify_digest(file, info.checksum, "--archives")
        elif not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise InputError(
                f"TFDS reads {url} from the network only: prepare {builder.name} with "
                "the command tfds build, or set --name"
            )


if __name__ == "__main__":
    leave(main())
