"""Floor 0: what the commands have in common, the launcher and the small ones."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable

from skillearn_jax.errors import StorageError, UserError


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

    Beside the codes of errors: 130 interrupted, 141 where nobody reads the output any
    more, of which nothing is said.

    Args:
      parser: of `make_parser`; its module names the line.
      command: returns its exit code, or nothing where it is 0.
    """
    name = parser.prog.rpartition(".")[2]
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        complain(name, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain(name, "interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read has read enough, as `head`
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(name, f"cannot write ({error.strerror}): make room")
        _drop_output()
        return StorageError.exit_code


def _drop_output() -> None:
    """Lets Python close a standard output that takes nothing any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(name: str, line: str) -> None:
    """Prints a line on stderr, under the command's name."""
    print(f"{name}: {' '.join(line.split())}", file=sys.stderr)
