"""Reads members of a .tar.gz without unpacking it to disk, and trusts nothing in it."""

import hashlib
import pathlib
import tarfile
import zlib
from collections.abc import Mapping

from skillearn_jax.errors import InputError, refusing

# What tarfile and gzip raise for truncated, corrupt and foreign files.
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


def verify_digest(
    file: pathlib.Path, expected: str, flag: str = "--config.data.dir"
) -> None:
    """Raises `InputError` unless the SHA-256 of a file is the expected one.

    Args:
        file: to read in full.
        expected: 64 hexadecimal digits.
        flag: what the message says to set.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise InputError(
            f"{file} is not the official archive, or is incomplete: its SHA-256 is "
            f"{digest} and must be {expected}: get it again, or set {flag}"
        )


def read_members(file: pathlib.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Returns the contents of some members of a .tar.gz, read into memory.

    Args:
        file: the archive.
        limits: for each wanted member, by its full name, the most bytes it may hold.

    Raises:
        InputError: for a damaged archive, a member that is missing, too large or no
            plain file, and for any member, wanted or not, that is a link or points
            outside the archive: an honest archive of data holds none.
    """
    contents: dict[str, bytes] = {}
    damaged = InputError(
        f"{file} is truncated, damaged or no .tar.gz archive: get it again, or set "
        "--config.data.dir"
    )
    with (
        refusing(*_DAMAGE, told=lambda _: damaged),
        tarfile.open(file, "r:gz") as archive,
    ):
        # In the order of the file: to seek back would decompress it again.
        for member in archive:
            _check_harmless(file, member)
            name = member.name.removeprefix("./")
            if name not in limits:
                continue
            if not member.isfile() or member.size > limits[name]:
                raise InputError(
                    f"{file}: member {name} has {member.size} bytes; it must be a "
                    f"plain file of at most {limits[name]}: set --config.data.dir"
                )
            stream = archive.extractfile(member)
            assert stream is not None  # of a plain file it never is
            contents[name] = stream.read()
    for name in limits:
        if name not in contents:
            raise InputError(f"{file} lacks its member {name}: set --config.data.dir")
    return contents


def _check_harmless(file: pathlib.Path, member: tarfile.TarInfo) -> None:
    path = pathlib.PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        reason = "points outside its folder"
    elif not (member.isfile() or member.isdir()):
        reason = "is a link or a device"
    else:
        return
    raise InputError(
        f"{file}: member {member.name!r} {reason}, which no official archive does: do "
        "not use it; set --config.data.dir to another"
    )
