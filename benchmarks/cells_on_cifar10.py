"""A published cell against random cells of its size, trained alike on real photographs.

    SKILLEARN_DATA=DIR python benchmarks/cells_on_cifar10.py --workdir=runs/cells

The images are those of `cifar10_pack.py`.

The run is that of `configs/evaluate_cifar10.py:short`, whose docstring says what is trained;
with the original files of CIFAR-10 the launcher runs it by itself. A second call with the
same workdir goes on where the first has ended.
"""

import argparse
import pathlib
import runpy

import cifar10_pack

from skillearn_jax.commands import leave, run_command
from skillearn_jax.train import run

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "evaluate_cifar10.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--variant", default="short", help="of the config")
    parser.add_argument("--limit", type=int, default=0, help="images; 0 for all")
    args = parser.parse_args()
    pack = cifar10_pack.find(parser)
    try:
        config = runpy.run_path(str(CONFIG))["get_config"](args.variant)
    except ValueError as error:
        parser.error(f"--variant: {error}")

    def command() -> None:
        run(config, args.workdir, data=cifar10_pack.read(pack, args.limit))

    leave(run_command(parser, command))


if __name__ == "__main__":
    main()
