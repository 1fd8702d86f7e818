"""What the configs of published experiments are made of: skills times methods.

`matrix(name)` returns the `get_config` of a data set. A variant is `SKILL_METHOD`, and
`SKILL_METHOD_smoke` the same on embedded digits, small enough for a minute or two. Sources of
the hyperparameters: the authors' code of each method; what deviates is said here. Of all:
an epoch drops an incomplete last batch, where theirs take it; batches of validation and
bank are drawn anew at each step, as in DARTS's code, where those of P-DARTS, of DARTS-
and of PC-DARTS on ImageNet pass through the set; the cell is that of the last epoch.

Another method or search space is one more entry of METHODS.
"""

from skillearn_jax.train import default_config


def darts1(config):
    """First order: the architecture's gradient without its path through the weights."""
    config.hypergrad.adjoint = "first_order"


def darts2(config):
    """Second order, exact where the original takes a finite difference.

    The look-ahead is the whole step of the weights' optimiser, clipping included, where the
    original's has momentum and decay only: another gradient where the norm exceeds 5. The
    original's omits Nesterov's momentum too: where the optimiser has it, the original's
    second-order term is smaller by the factor 1 + momentum.
    """
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
    """P-DARTS's CIFAR recipe."""
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


def nasbench201(config):
    """DARTS, second order, with the settings of NAS-Bench-201's authors.

    On CIFAR-100 they train the weights on the whole training set and search on half of the
    test set; here the training set is cut in halves, as on CIFAR-10, though by index, where
    they list the images of each half, and the held-out images stay unseen. The cells' final
    training is the benchmark's, but its table knows the outcome: it is left out.
    """
    darts2(config)
    config.space.name = "nasbench201"
    config.search.cells = 5
    config.search.weights.weight_decay = 5e-4
    config.search.weights.nesterov = True
    config.evaluation.epochs = 0
    config.evaluation.cells = 5
    config.evaluation.channels = 16
    config.evaluation.batch_size = 256
    config.evaluation.auxiliary_weight = 0.0
    config.evaluation.drop_path = 0.0
    config.evaluation.cutout = 0
    config.evaluation.weights.lr = 0.1
    config.evaluation.weights.weight_decay = 5e-4
    config.evaluation.weights.nesterov = True
    config.evaluation.weights.clip = 0.0


METHODS = {
    method.__name__: method
    for method in (
        darts1,
        darts2,
        pcdarts,
        pdarts,
        darts_minus,
        darts_plus,
        nasbench201,
    )
}


def baseline(config):
    """Plain differentiable search on one data set."""
    config.skill = "baseline"


def lpt(config):
    """Learning by passing tests: the tester's learning rate is the learner's.

    The authors' tester is a ResNet-18 with the ImageNet stem; gamma = lambda = 1. With a
    method of first order the creator has no path through the tester, as in the authors'
    code for P-DARTS and PC-DARTS: its exams are made to be hard alone, and what keeps them
    meaningful, lambda's term, moves nothing.
    """
    config.skill = "lpt"
    for key in ("lr", "min_lr"):
        config.tester.weights[key] = config.search.weights[key]
    if config.search.stage_cells:  # their P-DARTS variant clips the tester too
        config.tester.weights.clip = 5.0
        config.tester.creator.clip = 5.0


def several(config):
    """Both data sets, CIFAR-100 first as in the paper of interleaving learning.

    The step of the architecture is that of the authors' code, a tenth of DARTS's,
    where the method has none of its own.
    """
    config.tasks = ("cifar100", "cifar10")
    config.data.name = "digits"  # not read
    if config.search.alphas.lr == default_config().search.alphas.lr:
        config.search.alphas.lr = 3e-5
        config.search.alphas.weight_decay = 1e-4


def il(config):
    """Interleaving learning, two rounds, with the trade-off of the authors' code.

    The encoder decays as in the method beside its pull towards the encoder before; in the
    authors' code the pull takes the place of its decay after the first batch. Their cell is
    that of the epoch with the smallest sum of validation losses, not of the last one.
    """
    several(config)
    config.skill = "interleaving"
    config.interleaving.rounds = 2
    config.interleaving.interaction_weight = 1.5e-4


def joint(config):
    """Joint learning of both."""
    several(config)
    config.skill = "joint"


SKILLS = {skill.__name__: skill for skill in (baseline, lpt, il, joint)}


def random(config):
    """Random search with as many steps of weights as a search of 50 epochs.

    How many cells for how long is this project's choice.
    """
    config.skill = "random"
    config.search.num_random = 10
    config.search.epochs = 5


VARIANTS = {
    f"{skill}_{method}": (SKILLS[skill], METHODS[method])
    for skill in SKILLS
    for method in METHODS
}
# What a random search needs of a method is its space.
VARIANTS |= {
    "random_darts": (random, darts1),
    "random_nasbench201": (random, nasbench201),
}


SMOKE_OPS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")


def smoke(config):
    """Shrinks a config to embedded digits; method and skill stay what they are."""
    config.data.name = "digits"
    config.data.padding = 1
    config.data.flip = False
    config.data.batch_size = 128
    if config.tasks:
        config.tasks = ("mnist5k", "digits")
        config.data.image_size = 8
        config.data.batch_size = 256
    config.space.num_nodes = 1
    config.space.ops = SMOKE_OPS
    config.search.epochs = 2
    config.search.warmup_epochs = min(1, config.search.warmup_epochs)
    config.search.channels = 2 * config.search.partial
    config.search.cells = 1 if config.space.name == "nasbench201" else 2
    config.search.num_random = 2
    if config.search.stage_cells:
        config.search.stage_cells = (1, 2, 2)
        config.search.stage_candidates = (5, 4, 3)
    config.tester.encoder = "small"
    config.evaluation.cutout = 0
    config.evaluation.auxiliary_weight = 0.0
    config.evaluation.cells = 2
    config.evaluation.channels = 4
    config.evaluation.epochs = 1
    config.evaluation.num_random = 1
    config.evaluation.num_seeds = 1


def matrix(name, default="baseline_darts2"):
    """Returns the function from a variant's name to its config, for a data set."""

    def get_config(variant=""):
        """Returns the config of a variant."""
        chosen = variant or default
        if chosen == "smoke":
            chosen = f"{default}_smoke"
        pair = chosen.removesuffix("_smoke")
        if pair not in VARIANTS:
            raise ValueError(
                f"unknown variant {variant!r}: {', '.join(VARIANTS)}, each with _smoke or "
                "not"
            )
        skill, method = VARIANTS[pair]
        config = default_config()
        config.data.name = name
        config.data.padding = 4
        config.data.flip = True
        config.evaluation.cutout = 16
        method(config)
        skill(config)
        if chosen != pair:
            smoke(config)
        return config

    return get_config
