"""Floor 4: what the phases of a run ask of a search space, answered by each space."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np

from skillearn_jax.errors import InputError
from skillearn_jax.layers import Axis
from skillearn_jax.nas import (
    CIFAR_AUXILIARY,
    IMAGENET_AUXILIARY,
    Auxiliary,
    Genotype,
    Network,
    Supernet,
    count_skips,
    derive_genotype,
    draw,
    find_genotype,
    random_genotype,
    scan_cells_by_default,
)
from skillearn_jax.nas.derive import rank_operations, softmax
from skillearn_jax.nas.genotype import EDGES_PER_NODE
from skillearn_jax.nas.nasbench201 import (
    ALPHAS_KEY,
    OPS,
    Architecture,
    BenchNetwork,
)
from skillearn_jax.nas.nasbench201.architecture import EDGES, find_architecture
from skillearn_jax.nas.nasbench201.draw import architecture_svg, architecture_text
from skillearn_jax.nas.ops import KERNEL_SIZES
from skillearn_jax.nas.space import CELL_KINDS
from skillearn_jax.train.config import Config
from skillearn_jax.train.fields import check_only
from skillearn_jax.train.images import OneSet
from skillearn_jax.train.stages import SearchStage

Cells = Any
"""What a search derives: a `Genotype` or an `Architecture`; both write JSON."""


Net = Any
"""A Flax module: what it is made of is no business of this floor."""


class SpaceKind(Protocol):
    """A search space, as the phases of a run see it.

    Attributes:
        skips: the metric that counts the skips of the cell that a stop rule watches.
    """

    skips: str

    def check(self, config: Config) -> None:
        """Raises `InputError` for keys that the space does not have."""

    def check_images(self, data: OneSet) -> None:
        """Raises `InputError` for images that its networks cannot read."""

    def supernet(
        self, config: Config, stage: SearchStage, num_classes: int, axis: Axis
    ) -> Net:
        """Returns the network of a search."""

    def derive(self, alphas: Mapping[str, Any], space: Any, max_skips: int) -> Cells:
        """Returns the cells that logits prefer; -1 for any number of skips."""

    def random(self, rng: np.random.Generator, space: Any) -> Cells:
        """Returns random cells, each as likely in a whole space; advances the generator."""

    def find(self, name: str) -> Cells:
        """Returns the cells that a published name, a text, a file or a workdir tells.

        Raises:
            InputError: if it tells none.
        """

    def watch(self, alphas: Mapping[str, Any], space: Any) -> dict[str, float]:
        """Returns what is noted after each epoch: entropies and numbers of skips."""

    def ranks(self, alphas: Mapping[str, Any], space: Any) -> Any:
        """Returns each edge's operations with parameters, the best first, for JSON."""

    def network(
        self,
        cells: Cells,
        config: Config,
        num_classes: int,
        axis: Axis,
        *,
        auxiliary: bool,
    ) -> Net:
        """Returns the derived network, in training with its auxiliary head if any."""

    def text(self, cells: Cells, columns: int) -> str:
        """Returns cells for a console of so many columns."""

    def figures(self, cells: Cells) -> dict[str, tuple[str, str]]:
        """Returns drawings by name, each as SVG and as text."""


class _Darts:
    """DARTS's space and its relatives: a normal and a reduction cell."""

    skips = "alphas/skips/normal"

    def check(self, config: Config) -> None:
        if config.benchmark.table:
            raise InputError(
                f"config.benchmark.table is {config.benchmark.table!r}, a table of "
                "NAS-Bench-201, but config.space.name is 'darts': set "
                "--config.space.name=nasbench201"
            )
        for phase in ("search", "evaluation"):
            group = getattr(config, phase)
            if group.epochs and group.stem == "imagenet" and group.channels % 2:
                raise InputError(
                    f"config.{phase}.channels is {group.channels}; the ImageNet stem "
                    f"halves them: set an even --config.{phase}.channels"
                )
        skips = "skip_connect" in config.space.ops
        _check_stop(config, skips * EDGES_PER_NODE * config.space.num_nodes)
        ops, drawn = config.space.ops, config.skill == "random" or config.genotype
        if len(ops) == 1 and not drawn and not config.space.edge_normalization:
            raise InputError(
                f"config.space.ops is {ops}, one operation, whose weight is 1 whatever the "
                "logits are, so that a search has no gradient: set more "
                "--config.space.ops, or --config.space.edge_normalization=True"
            )
        learnt = [op for op in ops if op in KERNEL_SIZES]
        if config.search.stop == "ranking" and len(learnt) < 2:
            raise InputError(
                "config.search.stop is 'ranking', of the operations with parameters, but "
                f"config.space.ops has {len(learnt)} of them: set --config.search.stop, or "
                "more --config.space.ops"
            )

    def check_images(self, data: OneSet) -> None:
        del data

    def supernet(
        self, config: Config, stage: SearchStage, num_classes: int, axis: Axis
    ) -> Net:
        return Supernet(
            space=stage.space,
            num_cells=stage.cells,
            channels=config.search.channels,
            num_classes=num_classes,
            partial=config.search.partial,
            auxiliary_skip=config.search.auxiliary_skip != "off",
            remat=config.search.remat,
            initialization=cast(Any, config.search.initialization),
            stem=cast(Any, config.search.stem),
            axis_name=axis,
        )

    def derive(self, alphas: Mapping[str, Any], space: Any, max_skips: int) -> Cells:
        limit = None if max_skips < 0 else max_skips
        return derive_genotype(alphas, space, max_skips=limit)

    def random(self, rng: np.random.Generator, space: Any) -> Cells:
        return random_genotype(rng, space)

    def find(self, name: str) -> Cells:
        return find_genotype(name)

    def watch(self, alphas: Mapping[str, Any], space: Any) -> dict[str, float]:
        row = _entropies(alphas, CELL_KINDS)
        # As they are, whatever `max_skips` will make of them: this is an alarm.
        counts = count_skips(derive_genotype(alphas, space))
        return row | {f"alphas/skips/{kind}": float(counts[kind]) for kind in counts}

    def ranks(self, alphas: Mapping[str, Any], space: Any) -> Any:
        return {
            kind: [list(ops) for ops in edges]
            for kind, edges in rank_operations(alphas, space).items()
        }

    def network(
        self,
        cells: Cells,
        config: Config,
        num_classes: int,
        axis: Axis,
        *,
        auxiliary: bool,
    ) -> Net:
        return Network(
            cells,
            num_cells=config.evaluation.cells,
            channels=config.evaluation.channels,
            num_classes=num_classes,
            stem=cast(Any, config.evaluation.stem),
            auxiliary=auxiliary_head(config) if auxiliary else None,
            axis_name=axis,
            scan_cells=scan_cells_by_default(),
        )

    def text(self, cells: Cells, columns: int) -> str:
        return draw.genotype_text(cells, columns)

    def figures(self, cells: Cells) -> dict[str, tuple[str, str]]:
        drawn = {}
        for name in CELL_KINDS:
            parts = (getattr(cells, name), getattr(cells, f"{name}_concat"))
            title = f"{name} cell"
            drawn[name] = (
                draw.cell_svg(*parts, title),
                draw.cell_text(*parts, title),
            )
        return drawn


class _Bench:
    """NAS-Bench-201: one cell of six edges."""

    skips = f"alphas/skips/{ALPHAS_KEY}"

    def check(self, config: Config) -> None:
        plain: dict[str, Any] = {
            "search.partial": 1,
            "search.auxiliary_skip": "off",
            "search.initialization": "torch",
            "search.stem": "cifar",
            "search.stage_cells": (),
            "search.max_skips": -1,
            "space.edge_normalization": False,
        }
        if config.evaluation.epochs:
            plain |= {
                "evaluation.stem": "cifar",
                "evaluation.auxiliary_weight": 0.0,
                "evaluation.drop_path": 0.0,
            }
        check_only(config, plain, "the space nasbench201")
        _check_stop(config, len(EDGES))

    def check_images(self, data: OneSet) -> None:
        if any(side % 4 for side in data.image_shape[:2]):
            height, width = data.image_shape[:2]
            raise InputError(
                f"the images of {data.name} have {height}x{width} pixels; the space "
                "nasbench201 needs multiples of 4: set --config.data.image_size"
            )

    def supernet(
        self, config: Config, stage: SearchStage, num_classes: int, axis: Axis
    ) -> Net:
        return BenchNetwork(
            num_classes,
            channels=config.search.channels,
            num_cells=stage.cells,
            remat=config.search.remat,
            axis_name=axis,
        )

    def derive(self, alphas: Mapping[str, Any], space: Any, max_skips: int) -> Cells:
        del max_skips
        return space.derive(alphas)

    def random(self, rng: np.random.Generator, space: Any) -> Cells:
        return space.random(rng)

    def find(self, name: str) -> Cells:
        return find_architecture(name)

    def watch(self, alphas: Mapping[str, Any], space: Any) -> dict[str, float]:
        count = space.derive(alphas).ops.count("skip_connect")
        return _entropies(alphas, (ALPHAS_KEY,)) | {self.skips: float(count)}

    def ranks(self, alphas: Mapping[str, Any], space: Any) -> Any:
        del space
        rows = np.asarray(alphas[ALPHAS_KEY], np.float64)
        orders = np.argsort(-rows, kind="stable")
        return [
            [OPS[i] for i in order if OPS[i].startswith("nor_conv")] for order in orders
        ]

    def network(
        self,
        cells: Cells,
        config: Config,
        num_classes: int,
        axis: Axis,
        *,
        auxiliary: bool,
    ) -> Net:
        del auxiliary
        return BenchNetwork(
            num_classes,
            cells,
            channels=config.evaluation.channels,
            num_cells=config.evaluation.cells,
            axis_name=axis,
        )

    def text(self, cells: Cells, columns: int) -> str:
        del columns
        return architecture_text(cells)

    def figures(self, cells: Cells) -> dict[str, tuple[str, str]]:
        drawn = (architecture_svg(cells), architecture_text(cells))
        return {ALPHAS_KEY: drawn}


def auxiliary_head(config: Config) -> Auxiliary | None:
    """Returns what the auxiliary head of a training is, or None."""
    evaluation = config.evaluation
    if not evaluation.auxiliary_weight:
        return None
    of_papers = {"cifar": CIFAR_AUXILIARY, "imagenet": IMAGENET_AUXILIARY}
    head = of_papers[evaluation.stem]
    return dataclasses.replace(head, second_norm=evaluation.auxiliary_norm)


_KINDS: dict[str, SpaceKind] = {"darts": _Darts(), "nasbench201": _Bench()}


def space_kind(config: Config) -> SpaceKind:
    """Returns the space of a config."""
    return _KINDS[config.space.name]


def kind_of_cells(cells: Cells) -> SpaceKind:
    """Returns the space that cells belong to."""
    return _KINDS["nasbench201" if isinstance(cells, Architecture) else "darts"]


def read_cells(data: Mapping[str, Any]) -> Cells:
    """Returns the cells that `to_json` of either space described.

    Raises:
        InputError: if they are none.
    """
    if isinstance(data, Mapping) and "ops" in data:
        return Architecture.from_json(data)
    return Genotype.from_json(data)


def _check_stop(config: Config, most_skips: int) -> None:
    """Raises `InputError` for a rule that waits for more skips than a cell can have."""
    search = config.search
    if search.stop == "skips" and search.stop_skips > most_skips:
        raise InputError(
            f"config.search.stop_skips is {search.stop_skips}, but a normal cell of this "
            f"space has {most_skips} skip connections at most, so that no search would "
            "stop: set --config.search.stop_skips, or --config.search.stop=epochs"
        )


def _entropies(alphas: Mapping[str, Any], keys: Iterable[str]) -> dict[str, float]:
    """Returns the mean entropy of an edge's operations, in nats, per kind of cell."""
    entropies = {}
    for key in keys:
        weights = softmax(alphas[key])
        entropy = -np.sum(weights * np.log(weights), axis=1)
        entropies[f"alphas/entropy/{key}"] = float(entropy.mean())
    return entropies
