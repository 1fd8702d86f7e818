"""Floor 0: what the commands have in common, the launcher and the small ones."""

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from skillearn_jax.errors import InputError, Interrupted, StorageError, UserError


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m MODULE`, to which the flags are added.

    Args:
        module: its full name.
        description: one sentence.
    """
    return _Parser(
        prog=f"python -m {module}", description=description, allow_abbrev=False
    )


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the flags."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """Returns the flags; one that is needed may not be empty, as of an unset variable."""
        flags = super().parse_args(args, namespace)
        for action in self._actions:
            if action.required and getattr(flags, action.dest) == "":
                self.error(f"{'/'.join(action.option_strings)} is empty")
        return flags

    def error(self, message: str) -> NoReturn:
        complain(_name(self), f"{message}; see --help")
        sys.exit(InputError.exit_code)


def run_command(
    parser: argparse.ArgumentParser, command: Callable[[], int | None]
) -> int:
    """Runs a command and returns its exit code; an error is one line on stderr.

    Beside the codes of errors: 130 interrupted, 141 where nobody reads the output any
    more, of which nothing is said.

    Args:
        parser: of `make_parser`, whose module names the line, or a script's.
        command: returns its exit code, or nothing where it is 0.
    """
    name = _name(parser)
    try:
        code = command() or 0
        if sys.stdout is not None:  # as where it was closed before the start
            sys.stdout.flush()
        return code
    except (UserError, Interrupted) as error:
        complain(name, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain(name, "interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read has read enough, as `head`
        drop_output(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(name, f"cannot write ({error.strerror}): make room")
        drop_output(sys.stdout)
        return StorageError.exit_code


def _name(parser: argparse.ArgumentParser) -> str:
    return parser.prog.removesuffix(".py").rpartition(".")[2]


def drop_output(stream: TextIO) -> None:
    """Lets Python close a standard stream that takes nothing any more."""
    with contextlib.suppress(OSError, ValueError):  # one that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    One that a signal has asked to end, ends at once: what JAX had begun to compile then
    may end Python's way out in a segmentation fault, and with its exit code.
    """
    if code <= 128:
        sys.exit(code)
    flush_output()
    os._exit(code)


def flush_output() -> None:
    """Writes what was printed, as far as anybody takes it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()


def complain(name: str, line: str) -> None:
    """Prints a line on stderr, under the command's name, where anybody takes it.

    A closed terminal, or the end of what it is piped to, must not change how a run ends.
    """
    if sys.stderr is None:
        return
    try:
        print(f"{name}: {' '.join(line.split())}", file=sys.stderr, flush=True)
    except OSError:
        drop_output(sys.stderr)
