"""Floor 4: the networks that an evaluation has trained: kept, and loaded as functions."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.data import StreamingData, normalize
from skillearn_jax.errors import InputError, told_with
from skillearn_jax.paths import folder_name, user_path
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.config import Config
from skillearn_jax.train.images import OneSet
from skillearn_jax.train.json_files import fits, read_json
from skillearn_jax.train.manifest import DamagedError, read_manifest, to_tree
from skillearn_jax.train.spaces import Cells, Net, kind_of_cells, read_cells
from skillearn_jax.train.workdir import Workdir, holds_comparison
from skillearn_jax.types import Array, PyTree

FOLDER = "networks"
_CONFIG = "config.json"  # how networks are built
_NAMED = {"class_names": [""]}  # in the note of a kept network

_NAME_ANOTHER = "name that of a search or an evaluation"


class Facts(NamedTuple):
    """What a trained network takes, returns and is worth.

    Attributes:
        network: its name in the evaluation: `derived`, `random 1`, ...
        seed: of its training.
        dataset: that it was trained on.
        image_shape: height, width (pixels) and channels.
        num_classes: number of logits.
        mean: per channel, of pixels scaled to [0, 1]; the network subtracts it.
        std: per channel, likewise; the network divides by it.
        class_names: by class, or empty where the data have none.
        error: on the held-out images, percent.
        shorter_side: pixels, that an image is resized to before its middle is cut out;
            0 where it is resized to `image_shape`, whatever its proportions.
    """

    network: str
    seed: int
    dataset: str
    image_shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    error: float
    shorter_side: int = 0

    def label(self, index: int) -> str:
        """Returns the name of a class; its number where it has none."""
        return self.class_names[index] if self.class_names else str(index)


class Classifier:
    """A trained network as a pure function `(variables, images) -> logits`.

    Printed, it says which network it is, and of which seed.

    Attributes:
        facts: what it takes and returns.
    """

    def __init__(self, network: Net, facts: Facts) -> None:
        self._network, self.facts = network, facts

    def __call__(self, variables: PyTree, images: Array | np.ndarray) -> Array:
        """Returns the logits, one for each class.

        Args:
            variables: as `load` returned them: `params` and `batch_stats`.
            images: `[B, H, W, C] uint8` pixels in 0..255, as an image file holds them.
                They are normalised here, `(images / 255 - mean) / std`, by the training
                images' statistics.

        Returns:
            `[B, num_classes] float32`.

        Raises:
            InputError: for images of another shape or type.
        """
        if not isinstance(images, np.ndarray | jax.Array):
            raise InputError(
                f"images are a {type(images).__name__}; they must be an array: give "
                "np.asarray(images, np.uint8)"
            )
        if images.dtype != jnp.uint8 or images.shape[1:] != self.facts.image_shape:
            raise InputError(
                f"images are {images.dtype}{list(images.shape)}; this network takes "
                f"uint8[B, {', '.join(map(str, self.facts.image_shape))}], pixels in 0..255"
            )
        normalized = normalize(jnp.asarray(images), self.facts.mean, self.facts.std)
        logits = self._network.apply(variables, normalized, train=False)
        return logits.astype(jnp.float32)

    def __str__(self) -> str:
        facts = self.facts
        size = "x".join(map(str, facts.image_shape))
        return (
            f"{facts.network}, seed {facts.seed}: {size} images of {facts.dataset} to "
            f"{facts.num_classes} classes; held-out error {facts.error:.2f} %"
        )


class Trained(NamedTuple):
    """A trained network: `apply(variables, images)` returns logits.

    Attributes:
        apply: see `Classifier`.
        variables: `params` and `batch_stats`.
    """

    apply: Classifier
    variables: PyTree


def keep(
    workdir: Workdir,
    config: Config,
    data: OneSet,
    cells: Cells,
    name: str,
    seed: int,
    variables: PyTree,
    error: float,
) -> None:
    """Keeps a trained network in `networks/`, without what only its training needed.

    Args:
        workdir: of the evaluation.
        config: of the run.
        data: that it was trained on.
        cells: that it is made of.
        name: of the network.
        seed: of the training.
        variables: those that were judged.
        error: on the held-out images, percent.

    Raises:
        StorageError: if the disk does not take it.
    """
    facts = Facts(
        name,
        seed,
        data.name,
        data.image_shape,
        data.num_classes,
        data.mean,
        data.std,
        data.class_names,
        error,
        config.data.stream.shorter_side if isinstance(data, StreamingData) else 0,
    )
    _, shapes = _built(config, cells, facts)
    note = {**facts._asdict(), "cells": cells.to_json()}
    with contextlib.closing(_of_network(workdir.path, name)) as checkpoints:
        checkpoints.save(seed, _part(variables, shapes), note)


def load(workdir: str | Path, network: str = "derived", seed: int = 0) -> Trained:
    """Returns a network that a run has trained, as a function and its variables.

        apply, variables = skillearn_jax.load("runs/lpt_digits")
        logits = jax.jit(apply)(variables, images)  # uint8 pixels; see `Classifier`
        print(apply)  # which network, which seed, what it takes, its error

    Args:
        workdir: of a search with an evaluation, or of an evaluation; of one over several
            tasks, `WORKDIR/tasks/NAME`.
        network: `derived`, `random 1`, ... or the name of a rival.
        seed: of its training, from 0.

    Raises:
        InputError: if it is not there, or is damaged.
    """
    path = user_path(workdir)
    if not path.is_dir():
        found = "is no folder" if path.exists() else "does not exist"
        raise InputError(f"the workdir {path} {found}: {_NAME_ANOTHER}")
    with contextlib.closing(_of_network(path, network)) as checkpoints:
        if seed not in checkpoints.steps():
            raise InputError(_missing(path, network, seed))
        saved = checkpoints.at(seed)
    note = dict(saved.note)
    if note["network"] != network:
        raise InputError(_missing(path, network, seed))
    cells = read_cells(note.pop("cells"))
    facts = Facts(**{name: _tuples(value) for name, value in note.items()})
    module, shapes = _built(_config(path), cells, facts)
    try:
        variables = to_tree(saved.arrays, shapes)
    except DamagedError as error:  # its bytes are those saved: it is the config
        raise InputError(
            f"the network {saved.path} is not one of {path / _CONFIG} ({error}): restore "
            "that file"
        ) from error
    return Trained(Classifier(module, facts), variables)


def kept_class_names(workdir: Path) -> tuple[str, ...]:
    """Returns the names of the classes that the kept networks tell apart.

    Args:
        workdir: as for `load`.

    Returns:
        Nothing where no network is kept, or the data have no names.
    """
    for path in sorted((workdir / FOLDER).glob("*/*/manifest.json")):
        with contextlib.suppress(DamagedError):
            note = read_manifest(path)["note"]
            return tuple(note["class_names"]) if fits(note, _NAMED) else ()
    return ()


def _built(config: Config, cells: Cells, facts: Facts) -> tuple[Net, PyTree]:
    """Returns the network as deployed, and the shapes of its variables."""
    module = kind_of_cells(cells).network(
        cells, config, facts.num_classes, None, auxiliary=False
    )
    shapes = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, *facts.image_shape)), train=False),
        jax.random.key(0),
    )
    return module, shapes


def _part(tree: PyTree, like: PyTree) -> PyTree:
    """Returns what two nested mappings share, of the first: not the auxiliary head."""
    if not isinstance(like, Mapping):
        return tree
    return {name: _part(tree[name], like[name]) for name in like}


def _of_network(workdir: Path, name: str) -> Checkpoints:
    """Returns the trainings of a network, by seed; all of them stay."""
    return Checkpoints(workdir / FOLDER / folder_name(name), keep=10**9)


def _config(workdir: Path) -> Config:
    record = read_json(workdir / _CONFIG)
    if not fits(record, {"config": {}}):
        raise InputError(
            f"{workdir / _CONFIG}, which says how its networks are built, is "
            "missing or holds no config: restore it"
        )
    with told_with(f"{workdir / _CONFIG}: "):
        return Config.parse(_tuples(record["config"]))


def _tuples(value: Any) -> Any:
    """Returns JSON with tuples in place of lists."""
    if isinstance(value, dict):
        return {name: _tuples(of_name) for name, of_name in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _missing(workdir: Path, network: str, seed: int) -> str:
    """Returns what to say where a trained network is not."""
    text = f"{workdir} holds no trained network {network!r} of seed {seed}"
    kept = sorted(
        f"{_name_of(path)!r} {path.name}"
        for path in (workdir / FOLDER).glob("*/*")
        if path.name.isdecimal()
    )
    if kept:
        return f"{text}; it holds (network and seed) {', '.join(kept)}"
    tasks = sorted(map(str, (workdir / "tasks").glob("*")))
    if tasks:
        return f"{text}; the networks of its tasks lie in {', '.join(tasks)}"
    if holds_comparison(workdir):
        searches = sorted(map(str, (workdir / "search").glob("*")))
        if searches:
            return (
                f"{text}; it holds a comparison, and the networks of its searches lie in "
                f"{', '.join(searches)}"
            )
        return f"{text}; it holds a comparison, without searches: {_NAME_ANOTHER}"
    return f"{text}: run it with --config.evaluation.epochs, or name another workdir"


def _name_of(path: Path) -> str:
    """Returns the name of a kept network; that of its folder where it is damaged."""
    try:
        return read_manifest(path / "manifest.json")["note"]["network"]
    except DamagedError:
        return path.parent.name
