"""Interleaving learning on two small sets of handwritten digits that need no download.

Paper:    interleaving learning, arXiv 2103.07018. The paper takes turns between CIFAR-100
          and CIFAR-10; this is its algorithm (second order, exact, full coupling) on
          5000 images of MNIST and the 1797 digits of scikit-learn, at one size.
Hardware: 2 CPU cores.
Expected: nothing is published for these data sets. One run (seed 2, three trainings):
          derived 4.73 +- 0.40 % on mnist5k and 5.29 +- 1.47 % on digits, a random cell
          5.47 +- 0.47 and 7.06 +- 1.53; 380 CPU seconds, 3.4 GB. docs/experiments.md
          compares smaller searches.
Command:  python launch/run.py --config=configs/il_digits.py --workdir=runs/il

Variants, as in `--config=configs/il_digits.py:joint`:
  (none)      two rounds of mnist5k, digits.
  joint       both at once, one encoder.
  blocked     mnist5k twice, then digits twice.
  sequential  the same without any pull: one encoder is handed on.
  mnist5k     plain search on mnist5k alone.
  digits      plain search on digits alone.
  smoke       two rounds, in about a minute, too short to learn much.

Each reports the error of its cell on every task that it was searched on. The cells of
other runs are trained alike, and compared, where their workdirs are given:

  for v in joint mnist5k digits; do
    python launch/run.py --config=configs/il_digits.py:$v --workdir=runs/$v --config.evaluation.epochs=0
  done
  python launch/run.py --config=configs/il_digits.py --workdir=runs/il_compared --config.evaluation.rivals="('runs/joint','runs/mnist5k','runs/digits')"
"""

from skillearn_jax.train import default_config

TASKS = ("mnist5k", "digits")


def get_config(variant=""):
    """Returns the config of a variant."""
    config = default_config()
    config.skill = "interleaving"
    config.tasks = TASKS
    config.data.batch_size = 64
    config.data.stratified = True
    config.data.image_size = 14
    config.data.padding = 1

    # Few operations: four turns are four networks to compile.
    config.space.ops = (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "dil_conv_3x3",
    )
    config.space.num_nodes = 2
    config.search.cells = 3
    config.search.channels = 8
    config.search.epochs = 5
    config.search.alphas.lr = 3e-2

    config.evaluation.cells = 3
    config.evaluation.channels = 8
    config.evaluation.epochs = 5
    config.evaluation.batch_size = 64
    config.evaluation.auxiliary_weight = 0.0  # its pool is wider than these images
    config.evaluation.drop_path = 0.0
    config.evaluation.num_random = 1
    config.evaluation.num_seeds = 3

    if variant in ("joint", "blocked", "sequential"):
        config.skill = variant
    elif variant in TASKS:
        config.skill = "baseline"
        config.tasks = ()
        config.data.name = variant
    elif variant == "smoke":
        config.data.batch_size = 256
        config.data.image_size = 8
        config.space.ops = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
        config.space.num_nodes = 1
        config.search.cells = 2
        config.search.channels = 4
        config.search.epochs = 1
        config.evaluation.channels = 4
        config.evaluation.epochs = 1
        config.evaluation.batch_size = 256
        config.evaluation.num_seeds = 1
    elif variant:
        raise ValueError(
            f"unknown variant {variant!r}: none, joint, blocked, sequential, "
            "mnist5k, digits or smoke"
        )
    return config
