"""Learning by passing tests on the 1797 digits that come with scikit-learn.

Paper:    learning by passing tests, arXiv 2011.15102. The paper searches on CIFAR; this
          is its algorithm (second order, exact) on images small enough for a laptop.
Hardware: 2 CPU cores.
Expected: nothing is published for this data set. README.md shows a run.
Command:  python launch/run.py --config=configs/lpt_digits.py --workdir=runs/lpt_digits

Variants, as in `--config=configs/lpt_digits.py:full`:
  (none)  the demonstration: 3 random cells, 3 seeds; minutes.
  full    5 random cells, 3 seeds, longer search and training.
  smoke   the same chain in under a minute, too short to learn much.
"""

from skillearn_jax.train import default_config


def get_config(variant=""):
    """Returns the config of a variant."""
    config = default_config()
    config.skill = "lpt"
    config.data.name = "digits"
    config.data.batch_size = 64
    config.data.stratified = True
    config.data.padding = 1

    # 5x5 kernels would cover most of an 8x8 image.
    config.space.ops = (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "dil_conv_3x3",
    )
    config.space.num_nodes = 2
    config.search.cells = 3
    config.search.channels = 8
    config.search.epochs = 20
    config.search.alphas.lr = 3e-2
    config.tester.encoder = "small"
    config.tester.weights.lr = 0.1
    config.tester.creator.lr = 6e-3

    config.evaluation.cells = 3
    config.evaluation.channels = 8
    config.evaluation.epochs = 10
    config.evaluation.batch_size = 64
    config.evaluation.auxiliary_weight = 0.0  # its pool is wider than these images
    config.evaluation.drop_path = 0.0
    config.evaluation.num_random = 3
    config.evaluation.num_seeds = 3

    if variant == "full":
        config.search.epochs = 50
        config.evaluation.epochs = 30
        config.evaluation.num_random = 5
    elif variant == "smoke":
        config.space.ops = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
        config.space.num_nodes = 1
        config.search.channels = 4
        config.search.epochs = 2
        config.evaluation.channels = 4
        config.evaluation.epochs = 1
        config.evaluation.num_random = 1
        config.evaluation.num_seeds = 1
    elif variant:
        raise ValueError(f"unknown variant {variant!r}: none, 'full' or 'smoke'")
    return config
