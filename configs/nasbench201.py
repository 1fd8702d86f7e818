"""A search in the space of NAS-Bench-201, with the cells' true accuracies beside it.

Paper:    Dong and Yang 2020, arXiv 2001.00326: DARTS in its space, with the benchmark's
          settings; and the same with a tester, arXiv 2011.15102.
Hardware: one GPU. The variants with `smoke` run on 2 CPU cores.
Expected: DARTS ends in the cell of skip connections only, whose test accuracy on CIFAR-10
          is 54.30 % (the table of the DrNAS repository's README).
Command:  python launch/run.py --config=configs/nasbench201.py --workdir=runs/nb201

Add `--config.benchmark.table=FILE.csv` for the true accuracies. The columns of that file:
`arch_str`, `cifar10_val`, `cifar10_test`, `cifar100_val`, `cifar100_test`, `in16_val`,
`in16_test`.

Variants, as in `--config=configs/nasbench201.py:lpt`; each also with `_smoke` behind it, as
in `lpt_smoke`. These are the variants `..._nasbench201` of `configs/cifar10.py`.
  (none)   plain differentiable search, second order.
  lpt      learning by passing tests.
  il       interleaving learning on CIFAR-100 and CIFAR-10.
  joint    joint learning of both.
  random   the best of random cells by validation.
  smoke    plain search on 8x8 digits, too short to learn much.
"""

from pathlib import Path
from runpy import run_path

# A config may be loaded from anywhere: its neighbour is found beside it.
common = run_path(str(Path(__file__).with_name("common.py")))


def get_config(variant=""):
    """Returns the config of a variant."""
    smoke = "_smoke" if variant.endswith("smoke") else ""
    skill = variant.removesuffix("smoke").removesuffix("_") or "baseline"
    pair = f"{skill}_nasbench201"
    if pair not in common["VARIANTS"]:
        raise ValueError(
            f"unknown variant {variant!r}: none, lpt, il, joint or random, each with _smoke "
            "or not; smoke"
        )
    return common["matrix"]("cifar10")(pair + smoke)
