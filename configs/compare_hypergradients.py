"""Exact hypergradients against finite differences and first order, side by side.

Paper:    the one-step hypergradient and its finite difference are those of DARTS, arXiv
          1806.09055, equations 6 to 8; learning by passing tests, arXiv 2011.15102, takes
          them for all of its stages.
Hardware: 2 CPU cores, minutes.
Expected: exact is right to machine precision in every number type; the finite difference
          is good in float64, fair in float32 and noise in bfloat16. docs/hypergradients.md.
Command:  python launch/run.py --config=configs/compare_hypergradients.py --workdir=runs/compare

Variants, as in `--config=configs/compare_hypergradients.py:darts`:
  (none)        learning by passing tests on digits, small networks.
  toy           a chain of two small networks.
  interleaving  two tasks of digits by turns.
  darts         a small supernet on digits.
  smoke         the toy, without the searches: a minute, seconds with a warm cache.
"""

from skillearn_jax.train import compare_config


def get_config(variant=""):
    """Returns the config of a variant."""
    config = compare_config()
    if variant in ("toy", "interleaving", "darts"):
        config.problem = variant
    elif variant == "smoke":
        config.problem = "toy"
        config.dtypes = ("float32", "bfloat16")
        config.radii = (1e-3, 1e-1)
        config.batch_sizes = (8,)
        config.depths = (1, 2)
        config.search_epochs = 0
    elif variant:
        raise ValueError(
            f"unknown variant {variant!r}: none, 'toy', 'interleaving', 'darts' or "
            "'smoke'"
        )
    if config.problem == "darts":
        config.batch_sizes = (8,)
    return config
