"""A search in the space of NAS-Bench-201, with the cells' true accuracies beside it.

Paper:    Dong and Yang 2020, arXiv 2001.00326: DARTS in its space, with the benchmark's
          settings; and the same with a tester, arXiv 2011.15102.
Hardware: one GPU. The variant `smoke` runs on 2 CPU cores.
Expected: DARTS ends in the cell of skip connections only, whose test accuracy on CIFAR-10
          is 54.30 % (the table of the DrNAS repository's README).
Command:  python launch/run.py --config=configs/nasbench201.py --workdir=runs/nb201

Add `--config.benchmark.table=FILE.csv` for the true accuracies. The columns of that file:
`arch_str`, `cifar10_val`, `cifar10_test`, `cifar100_val`, `cifar100_test`, `in16_val`,
`in16_test`.

Variants, as in `--config=configs/nasbench201.py:lpt`:
  (none)  plain differentiable search, second order.
  lpt     learning by passing tests.
  smoke   plain search on 8x8 digits, too short to learn much.
"""

from skillearn_jax.train import default_config


def get_config(variant=""):
    """Returns the config of a variant."""
    config = default_config()
    config.skill = "baseline"
    config.data.name = "cifar10"
    config.space.name = "nasbench201"
    config.search.cells = 5
    config.search.weights.weight_decay = 5e-4
    config.search.weights.nesterov = True

    # The final training of the benchmark; the table knows its outcome.
    config.evaluation.epochs = 0
    config.evaluation.cells = 5
    config.evaluation.channels = 16
    config.evaluation.batch_size = 256
    config.evaluation.auxiliary_weight = 0.0
    config.evaluation.drop_path = 0.0
    config.evaluation.weights.lr = 0.1
    config.evaluation.weights.weight_decay = 5e-4
    config.evaluation.weights.nesterov = True

    if variant == "lpt":
        config.skill = "lpt"
    elif variant == "smoke":
        config.data.name = "digits"
        config.data.stratified = True
        config.data.padding = 1
        config.search.cells = 1
        config.search.channels = 4
        config.search.epochs = 2
        config.evaluation.epochs = 1
        config.evaluation.cells = 1
        config.evaluation.channels = 4
        config.evaluation.num_random = 1
        config.evaluation.num_seeds = 1
    elif variant:
        raise ValueError(f"unknown variant {variant!r}: none, 'lpt' or 'smoke'")
    return config
