"""The size of a derived network, as one JSON line: `python -m` this module.

    python -m skillearn_jax.nas.cost --genotype=DARTS_V2 --dataset=imagenet

Nothing is trained and nothing compiled.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from skillearn_jax.commands import leave, make_parser, run_command
from skillearn_jax.errors import InputError, told_with
from skillearn_jax.nas.auxiliary import (
    CIFAR_AUXILIARY,
    IMAGENET_AUXILIARY,
    Auxiliary,
)
from skillearn_jax.nas.counting import count_macs, count_params, mobile_setting
from skillearn_jax.nas.genotype import Genotype
from skillearn_jax.nas.known import find_genotype
from skillearn_jax.nas.nasbench201.architecture import Architecture, find_architecture
from skillearn_jax.nas.nasbench201.network import BenchNetwork
from skillearn_jax.nas.network import Network
from skillearn_jax.nas.ops import StemName


class Task(NamedTuple):
    """What the papers evaluate a cell on, and how large a network they make of it."""

    classes: int
    side: int
    cells: int
    channels: int
    stem: StemName
    auxiliary: Auxiliary


TASKS = {
    "cifar10": Task(10, 32, 20, 36, "cifar", CIFAR_AUXILIARY),
    "cifar100": Task(100, 32, 20, 36, "cifar", CIFAR_AUXILIARY),
    "imagenet": Task(1000, 224, 14, 48, "imagenet", IMAGENET_AUXILIARY),
}

_MOST = {"cells": 500, "channels": 10_000}
"""What is counted in seconds: each cell is looked at."""

CONVENTION = (
    "multiply-adds of convolutions and linear layers for one image, padding counted, "
    "without normalisation, pools and auxiliary head"
)


def describe(
    found: Genotype | Architecture, task: Task, *, cells: int = 0, channels: int = 0
) -> dict[str, Any]:
    """Returns parameters and multiply-adds of the network that cells make.

    Args:
        found: the cells, of either space.
        task: classes, image size, stem.
        cells: depth, in NAS-Bench-201 of each of the three stages; 0 takes that of the
            papers.
        channels: of the first cell; 0 takes that of the papers.

    Returns:
        `params` (as deployed), `params_aux` (with the auxiliary head, which networks of
        NAS-Bench-201 have not), `macs` and what they depend on; on ImageNet `mobile`,
        see `mobile_setting`.

    Raises:
        InputError: for a cell of NAS-Bench-201 on ImageNet, which it is not made for.
    """
    image_shape = (task.side, task.side, 3)
    network: Network | BenchNetwork
    if isinstance(found, Genotype):
        network = Network(
            found,
            num_cells=cells or task.cells,
            channels=channels or task.channels,
            num_classes=task.classes,
            stem=task.stem,
        )
        auxiliary = network.clone(auxiliary=task.auxiliary)
        more = {"params_aux": count_params(auxiliary, image_shape)}
    elif task.stem == "imagenet":
        raise InputError(
            "a cell of NAS-Bench-201 is counted on CIFAR: set --dataset=cifar10 or cifar100"
        )
    else:
        network = BenchNetwork(
            task.classes,
            found,
            channels=channels or BenchNetwork.channels,
            num_cells=cells or BenchNetwork.num_cells,
        )
        more = {}
    if task.stem == "imagenet":  # judged at the size of the task's images
        mobile = {"mobile": mobile_setting(network)}
        macs = mobile["mobile"]["macs"]
    else:
        mobile, macs = {}, count_macs(network, image_shape)
    return {
        "cells": network.num_cells,
        "channels": network.channels,
        "image": list(image_shape),
        "classes": task.classes,
        "params": count_params(network, image_shape),
        **more,
        "macs": macs,
        **mobile,
        "convention": CONVENTION,
    }


def _find(name: str) -> Genotype | Architecture:
    """Returns the cells of either space; what is neither is told as DARTS's."""
    if "|" in name:  # as no other text of cells, and no sane path
        return find_architecture(name)
    try:
        return find_genotype(name)
    except InputError:
        with contextlib.suppress(InputError):
            return find_architecture(name)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 for a mistake.

    Args:
        argv: the flags; by default those of the process.
    """
    parser = make_parser(
        "skillearn_jax.nas.cost",
        "Prints parameters and multiply-adds of a derived network as JSON.",
    )
    parser.add_argument(
        "--genotype",
        required=True,
        help="published name, text, file or workdir of a search, in either space",
    )
    parser.add_argument("--dataset", choices=TASKS, default="cifar10")
    parser.add_argument("--cells", type=int, default=0, help="0: as the papers")
    parser.add_argument("--channels", type=int, default=0, help="0: as the papers")
    flags = parser.parse_args(argv)

    def command() -> None:
        for flag in ("cells", "channels"):
            if not 0 <= getattr(flags, flag) <= _MOST[flag]:
                raise InputError(
                    f"{getattr(flags, flag)} is no number of {flag}: set --{flag} to 1 "
                    f"to {_MOST[flag]}, or 0 for that of the papers"
                )
        with told_with("", ": set --genotype"):
            found = _find(flags.genotype)
        task = TASKS[flags.dataset]
        if task.stem == "imagenet" and flags.channels % 2:
            raise InputError(
                f"{flags.channels} channels are odd, and the ImageNet stem halves them: "
                "set --channels"
            )
        size = {"cells": flags.cells, "channels": flags.channels}
        row = describe(found, task, **size)
        print(json.dumps({"genotype": flags.genotype, "dataset": flags.dataset, **row}))

    return run_command(parser, command)


if __name__ == "__main__":
    leave(main())
