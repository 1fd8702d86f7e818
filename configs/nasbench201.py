"""A search in the space of NAS-Bench-201, with the cells' true accuracies beside it.

Paper:    Dong and Yang 2020, arXiv 2001.00326: DARTS in its space, with the benchmark's
          settings; and the same with a tester, arXiv 2011.15102.
Hardware: one GPU. The variants with `short` take minutes on one CPU core, those with `smoke`
          one, of which steps are seconds.
Expected: DARTS ends in the cell of skip connections only, whose test accuracy on CIFAR-10
          is 54.30 % (the table of the DrNAS repository's README). What the short variants
          find: docs/experiments.md.
Command:  python launch/run.py --config=configs/nasbench201.py --workdir=runs/nb201

Add `--config.benchmark.table=FILE.csv` for the true accuracies: means over seeds after 200
epochs, out of the benchmark's file (github.com/D-X-Y/NAS-Bench-201). The columns:
`arch_str`, `cifar10_val`, `cifar10_test`, `cifar100_val`, `cifar100_test`, `in16_val`,
`in16_test`.

Variants, as in `--config=configs/nasbench201.py:lpt`; each also with `_short` or `_smoke`
behind it, as in `lpt_short`. Those that are not short are the variants `..._nasbench201` of
`configs/cifar10.py`.
  (none)   plain differentiable search, second order.
  lpt      learning by passing tests.
  il       interleaving learning on CIFAR-100 and CIFAR-10.
  joint    joint learning of both.
  random   the best of random cells by validation.
  short    plain search on a fifth of the images, at 16x16 pixels, in a small network.
  smoke    plain search on 8x8 digits, too short to learn much.
"""

from pathlib import Path
from runpy import run_path

# A config may be loaded from anywhere: its neighbour is found beside it.
common = run_path(str(Path(__file__).with_name("common.py")))


def short(config):
    """Shrinks a config to 1,872 steps, of which a CPU core computes three to nine a second.

    The architecture's steps are ten times larger, for there are a tenth as many.
    """
    config.data.image_size = 16
    config.data.padding = 2
    config.search.cells = 1
    config.search.channels = 8
    config.search.epochs = 12
    config.search.alphas.lr *= 10
    config.tester.encoder = "small"
    if config.skill == "random":
        config.search.num_random = 4
        config.search.epochs = 3
    if not config.tasks:
        config.data.per_class = (1000, 1000)


def get_config(variant=""):
    """Returns the config of a variant."""
    skill, _, size = variant.rpartition("_")
    if size not in ("short", "smoke"):
        skill, size = variant, ""
    pair = f"{skill or 'baseline'}_nasbench201"
    if pair not in common["VARIANTS"]:
        raise ValueError(
            f"unknown variant {variant!r}: none, lpt, il, joint or random, each with _short, "
            "_smoke or neither; short; smoke"
        )
    config = common["matrix"]("cifar10")(f"{pair}_smoke" if size == "smoke" else pair)
    if size == "short":
        short(config)
    return config
