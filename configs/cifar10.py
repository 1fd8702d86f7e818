"""Architecture search on CIFAR-10 by several methods, with and without a tester.

Paper:    DARTS (arXiv 1806.09055), PC-DARTS (1907.05737), P-DARTS (1904.12760), DARTS-
          (2009.01027), DARTS+ (1909.06035); learning by passing tests (2011.15102) on top of each. The
          hyperparameters are those of the authors' code; the evaluation is DARTS's, but
          for cutout.
Hardware: one GPU with 16 GB; not run at this size by this project.
Expected: not reproduced here. Test error of the derived cells as their authors report
          it: DARTS second order 2.76 +- 0.09, PC-DARTS 2.57 +- 0.07, P-DARTS 2.50.
Command:  python launch/run.py --config=configs/cifar10.py --workdir=runs/darts2 --config.data.dir=FOLDER

FOLDER holds cifar-10-binary.tar.gz or cifar-10-python.tar.gz; see docs/data.md.

Variants, as in `--config=configs/cifar10.py:lpt_pcdarts`:
  (none)                DARTS, second order, exact.
  baseline_darts1       DARTS, first order.
  baseline_pcdarts      partial channels and edge normalisation, first order.
  baseline_pdarts       three stages, deeper and with fewer candidates, first order.
  baseline_darts_minus  an auxiliary skip that fades linearly, first order.
  baseline_darts_plus   DARTS, first order, until the normal cell has two skips.
  lpt_darts1            learning by passing tests in the same six searches.
  lpt_darts2            second order, exact: the algorithm of the paper.
  lpt_pcdarts           as baseline_pcdarts.
  lpt_pdarts            as baseline_pdarts.
  lpt_darts_minus       as baseline_darts_minus.
  lpt_darts_plus        as baseline_darts_plus.
  smoke                 lpt_pcdarts on the embedded digits, in about a minute.
"""

from skillearn_jax.train import default_config


def darts1(config):
    """First order: the architecture's gradient without its path through the weights."""
    config.hypergrad.adjoint = "first_order"


def darts2(config):
    """Second order, exact where the original takes a finite difference."""
    config.hypergrad.adjoint = "exact"


def pcdarts(config):
    """PC-DARTS's CIFAR recipe."""
    darts1(config)
    config.space.edge_normalization = True
    config.search.partial = 4
    config.search.warmup_epochs = 15
    config.data.batch_size = 256
    config.search.weights.lr = 0.1
    config.search.weights.min_lr = 0.0
    config.search.alphas.lr = 6e-4
    config.evaluation.drop_path = 0.3


def pdarts(config):
    """P-DARTS's CIFAR recipe; a tester is clipped too, as in the authors' code."""
    darts1(config)
    config.data.batch_size = 96
    config.search.epochs = 25
    config.search.warmup_epochs = 10
    config.search.stage_cells = (5, 11, 17)
    config.search.stage_candidates = (8, 5, 3)
    config.search.stage_skip_dropout = (0.1, 0.4, 0.7)
    config.search.max_skips = 2
    config.search.weights.min_lr = 0.0
    config.search.alphas.lr = 6e-4
    config.search.alphas.clip = 5.0
    config.tester.weights.clip = 5.0
    config.tester.weights.min_lr = 0.0
    config.tester.creator.clip = 5.0
    config.evaluation.batch_size = 128
    config.evaluation.drop_path = 0.3


def darts_minus(config):
    """DARTS- with the decay of its script."""
    darts1(config)
    config.search.auxiliary_skip = "linear"


def darts_plus(config):
    """DARTS+ with its first criterion."""
    darts1(config)
    config.search.stop = "skips"


METHODS = {
    method.__name__: method
    for method in (darts1, darts2, pcdarts, pdarts, darts_minus, darts_plus)
}


def get_config(variant=""):
    """Returns the config of a variant."""
    config = default_config()
    config.data.name = "cifar10"
    config.data.padding = 4
    config.data.flip = True
    skill, _, method = (variant or "baseline_darts2").partition("_")
    if variant == "smoke":
        skill, method = "lpt", "pcdarts"
    if skill not in ("baseline", "lpt") or method not in METHODS:
        names = [f"{s}_{m}" for s in ("baseline", "lpt") for m in METHODS]
        raise ValueError(f"unknown variant {variant!r}: {', '.join(names)} or smoke")
    config.skill = skill
    METHODS[method](config)
    if variant == "smoke":
        config.data.name = "digits"
        config.data.batch_size = 128
        config.data.padding = 1
        config.data.flip = False
        config.space.num_nodes = 1
        config.search.channels = 8
        config.search.cells = 2
        config.search.epochs = 2
        config.search.warmup_epochs = 1
        config.tester.encoder = "small"
        config.evaluation.auxiliary_weight = 0.0
        config.evaluation.cells = 2
        config.evaluation.channels = 4
        config.evaluation.epochs = 1
        config.evaluation.num_random = 1
        config.evaluation.num_seeds = 1
    return config
