"""Runs an experiment: a thin shim over `skillearn_jax.cli`. See --help."""

import sys

from skillearn_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
