"""Floor 4: what a checkpoint says about itself, and whether its arrays agree."""

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.train.json_files import fits
from skillearn_jax.tree import by_path, kind
from skillearn_jax.types import PyTree

FORMAT = 2
"""Of checkpoints."""

_LIKE = {
    "step": 0.0,
    "metric": None,
    "metric_name": "",
    "note": None,
    "arrays": {},
    "files": {"": ""},
}
"""What a manifest of this format holds, beside its format and digest."""

Arrays = dict[str, np.ndarray]


class DamagedError(Exception):
    """A checkpoint is not what was saved; the message says in what, in a few words."""


def to_arrays(tree: PyTree) -> Arrays:
    """Returns copies of a tree's leaves on the host, random keys as their numbers.

    Cost: waits until the leaves are computed; the memory of the tree.
    """
    # A copy, because the step that follows is given the leaves to overwrite.
    return {
        name: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in by_path(tree).items()
    }


def to_tree(arrays: Arrays, like: PyTree) -> PyTree:
    """Returns arrays as a tree of a known structure.

    Args:
        arrays: of `to_arrays`.
        like: a tree of the structure, shapes and types that are expected.

    Raises:
        DamagedError: if the arrays are of another tree.
    """
    wanted = by_path(like)
    for name in sorted(wanted.keys() ^ arrays.keys()):
        missing = name in wanted
        raise DamagedError(f"it {'lacks' if missing else 'has'} {name}, of another run")
    restored = []
    for name, leaf in wanted.items():
        plain = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        is_, should = kind(arrays[name]), kind(plain)
        if is_ != should:
            raise DamagedError(f"{name} is {is_}, and {should} in this run")
        array = jnp.asarray(arrays[name])
        if _is_key(leaf):
            array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        restored.append(array)
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def write_manifest(
    path: Path,
    arrays: Arrays,
    step: int,
    note: Any,
    metric: float | None,
    metric_name: str,
    lines: Mapping[str, int],
) -> None:
    """Writes the manifest of a checkpoint.

    Args:
        path: of the file, which must not exist; what lies beside it is noted too.
        arrays: that the checkpoint holds.
        step: that it was taken at.
        note: what else a run needs to go on; JSON.
        metric: to tell the best checkpoint by; the lower the better.
        metric_name: of what that is the value: those of another do not compare.
        lines: bytes of each file of lines that belongs to the run, by its name.
    """
    content = {
        "format": FORMAT,
        "step": step,
        "saved": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "metric": metric,
        "metric_name": metric_name,
        "note": note,
        "lines": dict(lines),
        "arrays": {name: describe(array) for name, array in sorted(arrays.items())},
        "files": _files(path.parent),
    }
    content["digest"] = digest_of(content)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the content of a manifest, of whatever format.

    Every format has the entries `format` and `digest`, which mean the same in all.

    Raises:
        DamagedError: if it is missing, has changed since it was written, or is of this
            format and holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedError("it has no manifest.json") from error
    except (ValueError, OSError) as error:
        raise DamagedError("its manifest.json is not readable") from error
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("format"), int)
        or content.pop("digest", None) != digest_of(content)
    ):
        raise DamagedError("its manifest.json has changed since it was saved")
    if content["format"] == FORMAT and not fits(content, _LIKE):
        raise DamagedError("its manifest.json does not hold what a run writes there")
    return content


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks the files of a checkpoint, before a library is given them to read.

    Orbax reads files at once: where one is damaged, the reads of the others fail late and
    complain on the standard error, if nobody waits for them.

    Raises:
        DamagedError: naming the first that is missing, has changed or cannot be read.
    """
    try:
        present = _files(folder)
    except OSError as error:  # a bad sector, or the file of another user
        raise DamagedError(f"a file of it cannot be read ({error.strerror})") from error
    for name, digest in manifest["files"].items():
        if name not in present:
            raise DamagedError(f"it lacks the file {name}")
        if present[name] != digest:
            raise DamagedError(f"the file {name} has changed since it was saved")


def verify(arrays: Mapping[str, Any], manifest: Mapping[str, Any]) -> Arrays:
    """Returns the arrays that were read, all there and bit for bit those saved.

    Raises:
        DamagedError: naming the first that is not.
    """
    verified = {}
    for name, described in manifest["arrays"].items():
        # Orbax keeps no empty arrays; there is nothing in them to get wrong.
        shape = tuple(described["shape"])
        array = np.empty(shape, described["dtype"]) if 0 in shape else arrays.get(name)
        if array is None:
            raise DamagedError(f"it lacks {name}")
        if describe(np.asarray(array)) != described:
            raise DamagedError(f"{name} has changed since it was saved")
        verified[name] = np.asarray(array)
    return verified


def describe(array: np.ndarray) -> dict[str, Any]:
    """Returns the type and shape of an array and the SHA-256 of its bytes; JSON."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(data.data).hexdigest(),
    }


def digest_of(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of what JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of a folder but the manifest, by its path."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != "manifest.json":
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
