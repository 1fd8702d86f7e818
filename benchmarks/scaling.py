r"""How one search step scales over devices, and what it sends; one JSON line each.

    python benchmarks/scaling.py --mode=strong --counts=1,2,4,8 --batch=16
    python benchmarks/scaling.py --mode=weak --counts=1,2,4,8 --batch=4
    python benchmarks/scaling.py --mode=drift --counts=1,2,4,8 --batch=16 --steps=20
    python benchmarks/scaling.py --mode=sizes --nodes=4 --cells=8 --channels=16 --side=32 \
        --encoder=resnet18

`strong` splits one batch of `--batch` over the devices, `weak` gives each device `--batch`
of its own. Without accelerators the devices are virtual: they share the cores, so the
times say what the splitting costs and nothing about speed on real ones. What is sent is
counted in the compiled program, and does not depend on that.

`sent_bytes` is the sum, over the collectives of one step, of the bytes of their results on a
device: of an all-reduce, that is what it puts in. `minimum_bytes` is what no such program
can do without: the gradient of each moved set once in the look-ahead and once in the real
step, the cotangent of each once, and the gradient of each supporting set once. The rest is
batch statistics (`--batch_norm`), scalars, and what a sharded optimiser gathers. `drift` compares the float32 trajectory with that of one device. `sizes` counts
parameters and the minimum, and compiles nothing.
"""

import argparse
import json
import math
import os
import re
import statistics
import sys
import time
from typing import Any

# Before JAX starts. What the user says comes later in the text, and is what counts.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get(
    "XLA_FLAGS", ""
)

import jax
import numpy as np
from machine import machine

from skillearn_jax.data import ImageData, from_arrays
from skillearn_jax.errors import InputError
from skillearn_jax.framework import Program
from skillearn_jax.parallel import Devices
from skillearn_jax.train import Config
from skillearn_jax.train.build import build_search
from skillearn_jax.train.loop import compile_loop
from skillearn_jax.train.search_streams import search_streams
from skillearn_jax.types import PyTree

MODES = ("strong", "weak", "drift", "sizes")
_WIDTHS = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}
_WIDTHS |= {"s8": 1, "u8": 1, "pred": 1}
_COLLECTIVE = re.compile(
    r"= (?P<shapes>\(?[^=]*?\)?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, default="strong")
    parser.add_argument("--counts", default="1,2,4,8", help="numbers of devices")
    parser.add_argument("--backend", choices=("pmap", "shard_map"), default="pmap")
    parser.add_argument(
        "--batch_norm", choices=("synchronized", "per_device"), default="synchronized"
    )
    parser.add_argument(
        "--tester_optimizer", choices=("replicated", "sharded"), default="replicated"
    )
    parser.add_argument("--skill", choices=("baseline", "lpt"), default="lpt")
    parser.add_argument("--encoder", default="small", help="of the tester")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--side", type=int, default=8, help="pixels of an image")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="timed, or compared")
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    given = {key: getattr(args, key) for key in vars(args) if key != "counts"}
    if args.mode == "sizes":
        print(json.dumps({**given, **sizes(args)}))
        return
    reference = None
    for count in counts:
        try:
            line = Run(args, count)
        except InputError as error:
            sys.exit(str(error))
        found = line.drift(reference) if args.mode == "drift" else line.measure()
        reference = reference if reference is not None else line.rows
        print(json.dumps({**given, "devices": count, **found, **machine()}), flush=True)


class Run:
    """A search on some devices, compiled."""

    def __init__(self, args: argparse.Namespace, count: int) -> None:
        self.steps = args.steps
        batch = args.batch * (count if args.mode == "weak" else 1)
        self.devices = Devices.take(count, args.backend)
        self.devices.share(batch, "batch")
        config, data = problem(args, batch)
        streams = search_streams(config, data.training)
        per_epoch = streams["train"].steps_per_epoch
        setup = build_search(
            config, data, jax.random.key(0), per_epoch, self.devices.axis_name
        )
        self.program: Program = setup.phases[-1].program
        state = self.program.init(setup.params, jax.random.key(1), setup.model_state)
        self.minimum = minimum_bytes(self.program, state.params) if count > 1 else 0
        self.state = self.devices.place(state)
        self.loop = compile_loop(
            self.program, self.state, streams, self.devices, per_epoch
        )
        self.rows: list[dict[str, float]] = []
        self.batch = batch

    def measure(self) -> dict[str, Any]:
        """Returns times and bytes of a step."""
        wall = []
        taken = self.loop.steps(self.state, (1 + self.steps) * self.loop.chunk)
        start = time.perf_counter()
        for _, metrics in taken:
            wall.append((time.perf_counter() - start) / len(metrics))
            start = time.perf_counter()
        step_s = statistics.median(wall[1:])
        kinds = sent_bytes(self.loop.call.compiled.as_text())
        sent = sum(kinds.values())
        return {
            "global_batch": self.batch,
            "compile_s": round(self.loop.compile_s, 2),
            "step_s": round(step_s, 4),
            "images_per_s": round(self.batch / step_s, 1),
            "sent_bytes": sent,
            "sent_by": kinds,
            "minimum_bytes": self.minimum,
            "sent_over_minimum": round(sent / self.minimum, 3)
            if self.minimum
            else None,
        }

    def drift(self, reference: list[dict[str, float]] | None) -> dict[str, Any]:
        """Returns how far the metrics of the trajectory are from the reference's."""
        for _, metrics in self.loop.steps(self.state, self.steps):
            self.rows += metrics
        reference = self.rows if reference is None else reference
        gaps = {
            name: max(
                abs(a[name] - b[name]) / max(abs(b[name]), 1e-6)
                for a, b in zip(self.rows, reference, strict=True)
            )
            for name in (
                "learner/loss",
                "validation/objective",
                "hypergrad/alphas/norm",
            )
        }
        return {
            "relative_drift": {name: float(f"{gap:.1e}") for name, gap in gaps.items()}
        }


def problem(args: argparse.Namespace, batch: int) -> tuple[Config, ImageData]:
    """Returns the config of a search on noise, and the noise."""
    config = Config.parse(
        {
            "skill": args.skill,
            "data": {"batch_size": batch},
            "space": {"num_nodes": args.nodes},
            "search": {"cells": args.cells, "channels": args.channels},
            "tester": {"encoder": args.encoder},
            "parallel": {
                "batch_norm": args.batch_norm,
                "tester_optimizer": args.tester_optimizer,
            },
        }
    )
    rng = np.random.default_rng(0)
    size = (8 * batch, args.side, args.side, 3)
    images = rng.integers(0, 256, size, dtype=np.uint8)
    labels = np.arange(8 * batch) % 10
    return config, from_arrays("noise", images, labels, images, labels)


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the parameters of each set, and the least that a step must send."""
    config, data = problem(args, args.batch)
    programs: list[Program] = []

    def params(key: jax.Array) -> PyTree:
        setup = build_search(config, data, key, 100)
        programs.append(setup.phases[-1].program)
        return setup.params

    shapes = jax.eval_shape(params, jax.random.key(0))
    counts = {
        name: sum(x.size for x in jax.tree.leaves(shapes[name])) for name in shapes
    }
    return {"params": counts, "minimum_bytes": minimum_bytes(programs[-1], shapes)}


def minimum_bytes(program: Program, params: PyTree) -> int:
    """Returns the bytes that a device must put in, in one step.

    Per moved set: its gradient in the look-ahead, the cotangent before the mixed product,
    its gradient in the real step. Per supporting set: the hypergradient, once.
    """

    def size(name: str) -> int:
        leaves = jax.tree.leaves(params[name])
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    total = 3 * sum(size(name) for stage in program.stages for name in stage.moves)
    supporting = program.validation.supporting if program.validation else ()
    return total + sum(map(size, supporting))


def sent_bytes(program: str) -> dict[str, int]:
    """Returns the bytes of the results of a program's collectives, by kind.

    Args:
        program: a compiled one, as HLO. Of an all-reduce the result is what goes in.
    """
    kinds: dict[str, int] = {}
    program = re.sub(r"/\*.*?\*/", "", program)  # long tuples are numbered so
    for match in _COLLECTIVE.finditer(program):
        size = 0
        for width, shape in re.findall(r"(\w+)\[([\d,]*)\]", match["shapes"]):
            size += _WIDTHS[width] * math.prod(int(n) for n in shape.split(",") if n)
        kinds[match["kind"]] = kinds.get(match["kind"], 0) + size
    return kinds


if __name__ == "__main__":
    main()
