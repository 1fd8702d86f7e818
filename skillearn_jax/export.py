"""Floor 5: a trained network as StableHLO, in one file: `python -m` this module.

    python -m skillearn_jax.export --workdir=runs/lpt_digits

The file holds the weights, and takes any number of images at once. It needs this package
no more, only `jax` and `flatbuffers`:

    from jax import export
    network = export.deserialize(bytearray(Path("derived_0.stablehlo").read_bytes()))
    logits = network.call(images)  # [B, H, W, C] uint8 pixels, as they are in a file
"""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
from jax import export

from skillearn_jax.commands import leave, make_parser, run_command
from skillearn_jax.errors import InputError, cannot_write
from skillearn_jax.paths import folder_name, replaced, user_path
from skillearn_jax.train import Trained, load

PLATFORMS = ("cpu", "cuda", "tpu")
"""On which an exported network runs."""


def to_stablehlo(trained: Trained) -> export.Exported:
    """Returns a network as one StableHLO program: `images [b, H, W, C] uint8 -> logits`.

    One program for all `PLATFORMS`, in the form that is fast on the one that exports it (on
    CPU, narrow convolutions compute two pixels at a time): the others compute the same, if
    not as fast as a program of their own.

    Args:
        trained: of `load`. The variables become constants of the program.

    Cost: one trace; nothing is compiled.
    """
    apply, variables = trained
    height, width, channels = apply.facts.image_shape
    shape = export.symbolic_shape(f"b, {height}, {width}, {channels}")
    images = jax.ShapeDtypeStruct(shape, "uint8")
    called = jax.jit(lambda images: apply(variables, images))
    return export.export(called, platforms=PLATFORMS)(images)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 for a mistake, 4 for a disk.

    Args:
        argv: the flags; by default those of the process.
    """
    parser = make_parser(
        "skillearn_jax.export",
        "Writes a trained network as StableHLO; prints what it takes as JSON.",
    )
    parser.add_argument("--workdir", required=True, help="of a search or an evaluation")
    parser.add_argument(
        "--network", default="derived", help="derived (default), 'random 1' or a rival"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of its training; default 0"
    )
    parser.add_argument("--output", default="", help="file; default WORKDIR/export/...")
    flags = parser.parse_args(argv)

    def command() -> None:
        trained = load(flags.workdir, flags.network, flags.seed)
        path = user_path(flags.output or _default_path(flags.workdir, trained))
        # A device would be moved away for the file, where the user may.
        if path.exists() and not path.is_file():
            raise InputError(
                f"{path} is there already, and no plain file: set --output"
            )
        content = to_stablehlo(trained).serialize()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as partial:
                partial.write_bytes(content)
        except OSError as error:
            raise cannot_write(str(path), error, "set --output") from error
        facts = trained.apply.facts._asdict()
        print(json.dumps({"file": str(path), "bytes": len(content), **facts}))

    return run_command(parser, command)


def _default_path(workdir: str, trained: Trained) -> Path:
    facts = trained.apply.facts
    name = f"{folder_name(facts.network)}_{facts.seed}.stablehlo"
    return user_path(workdir) / "export" / name


if __name__ == "__main__":
    leave(main())
