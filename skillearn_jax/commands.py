"""Floor 0: what the commands have in common, the launcher and the small ones."""

import argparse
import sys
from collections.abc import Callable

from skillearn_jax.errors import UserError


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m MODULE`, to which the flags are added.

    Args:
      module: its full name.
      description: one sentence.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, allow_abbrev=False
    )


def run_command(
    parser: argparse.ArgumentParser, command: Callable[[], int | None]
) -> int:
    """Runs a command and returns its exit code; an error is one line on stderr.

    Args:
      parser: of `make_parser`; its module names the line.
      command: returns its exit code, or nothing where it is 0.
    """
    try:
        return command() or 0
    except UserError as error:
        complain(parser.prog.rpartition(".")[2], str(error))
        return error.exit_code


def complain(name: str, line: str) -> None:
    """Prints a line on stderr, under the command's name."""
    print(f"{name}: {' '.join(line.split())}", file=sys.stderr)
