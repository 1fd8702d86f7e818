"""Runs an experiment: a thin shim over `skillearn_jax.cli`. See --help."""

from skillearn_jax.cli import main
from skillearn_jax.commands import leave

if __name__ == "__main__":
    leave(main())
