"""Floor 4: a compiled function that says why, if it must be compiled again."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax

from skillearn_jax.tree import by_path, kind
from skillearn_jax.types import PyTree


class RecompilationWarning(UserWarning):
    """A step was compiled again, because an argument is not as it was."""


class CompiledOnce:
    """A compiled function: for arguments of one structure, with shapes and types.

    Others are accepted, at the cost of a compilation and with a warning that names what
    has changed: minutes that would otherwise look like a slow step.
    """

    def __init__(
        self,
        compile_for: Callable[..., jax.stages.Compiled],
        names: tuple[str, ...],
        *args: PyTree,
    ) -> None:
        """Compiles.

        Args:
            compile_for: returns the function compiled for the arguments given.
            names: of the arguments, for the warning.
            *args: the first arguments.
        """
        self._compile_for, self._names = compile_for, names
        self._compile(*args)

    def __call__(self, *args: PyTree) -> Any:
        """Calls the function."""
        try:
            return self.compiled(*args)
        except (TypeError, ValueError) as error:
            # Refused before it began: nothing is donated yet.
            changes = self._changes(self._describe(*args))
            if not changes:
                raise
            start = time.perf_counter()
            self._compile(*args)
            warnings.warn(
                f"the step was compiled again ({time.perf_counter() - start:.1f} s): "
                f"{'; '.join(changes[:3])}"
                + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")
                + f" ({type(error).__name__})",
                RecompilationWarning,
                stacklevel=3,
            )
            return self.compiled(*args)

    def _compile(self, *args: PyTree) -> None:
        self.compiled = self._compile_for(*args)
        self._known = self._describe(*args)

    def _describe(self, *args: PyTree) -> dict[str, str]:
        named = dict(zip(self._names, args, strict=True))
        return {path: kind(leaf) for path, leaf in by_path(named).items()}

    def _changes(self, now: dict[str, str]) -> list[str]:
        return [
            f"{name} was {self._known.get(name, 'absent')} and is "
            f"{now.get(name, 'absent')}"
            for name in dict.fromkeys((*self._known, *now))
            if self._known.get(name) != now.get(name)
        ]
