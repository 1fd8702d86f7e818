"""Trains a given cell on CIFAR-10 by the published recipe, without a search.

Paper:    DARTS, arXiv 1806.09055: 20 cells, 36 channels, 600 epochs, batches of 96, cutout
          16, auxiliary head 0.4, drop path to 0.2.
Hardware: a GPU for about a day and a half as published; the variants run on a laptop.
Expected: docs/experiments.md. Nothing here has been run at full length.
Command:  python launch/run.py --config=configs/evaluate_cifar10.py --workdir=runs/darts_v2 --config.data.dir=DIR --config.genotype=DARTS_V2

`--config.genotype` takes a published name (an unknown one is answered with all that there
are), a file, the workdir of a search, or `random:SEED` (`random`: of the run's seed). Variants:
  (none)  the published recipe.
  short   the images at 8x8 pixels, 5 cells of 4 channels for 3 epochs in batches of 250, beside
          5 random cells of its size, each three times: a quarter of an hour on one CPU core.
  smoke   a small one on the embedded digits, in seconds.
"""

from skillearn_jax.train import default_config


def get_config(variant=""):
    """Returns the config of a variant."""
    config = default_config()
    config.skill = "baseline"
    config.genotype = "DARTS_V2"
    config.data.name = "cifar10"
    config.data.padding = 4
    config.data.flip = True
    config.evaluation.cutout = 16
    config.evaluation.num_random = 0
    if variant == "short":
        config.data.image_size = 8
        config.data.padding = 1
        config.evaluation.cutout = 0
        config.evaluation.cells = 5
        config.evaluation.channels = 4
        config.evaluation.auxiliary_weight = 0.0
        config.evaluation.epochs = 3
        config.evaluation.batch_size = 250
        config.evaluation.weights.lr = 0.1
        config.evaluation.drop_path = 0.0
        config.evaluation.num_random = 5
        config.evaluation.random_params_within = 0.05
    elif variant == "smoke":
        config.data.name = "digits"
        config.data.batch_size = 64
        config.data.padding = 1
        config.data.flip = False
        config.evaluation.cutout = 0
        config.evaluation.cells = 2
        config.evaluation.channels = 4
        config.evaluation.epochs = 1
        config.evaluation.batch_size = 64
        config.evaluation.auxiliary_weight = 0.0
        config.evaluation.num_seeds = 1
    elif variant:
        raise ValueError(f"unknown variant {variant!r}: none, 'short' or 'smoke'")
    return config
