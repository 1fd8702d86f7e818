"""Trains a given cell on ImageNet in the mobile setting, such as one found on CIFAR.

Paper:    DARTS, arXiv 1806.09055: 14 cells, 48 channels, 250 epochs, batches of 128, learning
          rate 0.1 times 0.97 per epoch, weight decay 3e-5, label smoothing 0.1, auxiliary
          head 0.4, random-resized-crop, flip, colour jitter. P-DARTS (1904.12760), as its
          code has it, and PC-DARTS (1907.05737): see the variants.
Hardware: eight GPUs for days as published; smoke: a laptop, in seconds.
Expected: top-1 errors of 26.7 (DARTS_V2) and 24.4 percent (PDARTS), by the results table in
          P-DARTS's repository. Not run here at full length.
Command:  python launch/run.py --config=configs/evaluate_imagenet.py --workdir=runs/imagenet --config.data.dir=DIR --config.genotype=PDARTS

`--config.genotype` takes the workdir of a search, on whatever data set, a published name, a
file, or `random:SEED`. `DIR` is prepared by `python -m skillearn_jax.data.prepare`
(docs/data.md). `summary.json` says whether the network keeps the mobile limit, 600 million
multiply-adds at 224x224. Variants:
  (none)   DARTS: the second convolution of the auxiliary head is not normalised.
  pdarts   batches of 256; the learning rate falls linearly, the last 5 epochs more slowly;
           the auxiliary head is normalised throughout.
  pcdarts  the same fall, batches of 1024, learning rate 0.5, 5 epochs of warm-up; the head
           of DARTS, whose evaluation its README says to follow. The authors of learning by
           passing tests train their cells like this too, those of P-DARTS as `pdarts`.
  smoke    a small one with the same stem, decay and warm-up on embedded digits, in seconds.
"""

from skillearn_jax.train import default_config


def linear(config):
    """The decay of P-DARTS and PC-DARTS."""
    config.evaluation.weights.schedule = "linear"
    config.evaluation.weights.tail_epochs = 5


def get_config(variant=""):
    """Returns the config of a variant."""
    config = default_config()
    config.skill = "baseline"
    config.genotype = "DARTS_V2"
    config.data.name = "stream:imagenet2012"
    config.data.flip = True
    config.data.colours = (0.4, 0.4, 0.4, 0.2)
    evaluation = config.evaluation
    evaluation.stem = "imagenet"
    evaluation.cells = 14
    evaluation.channels = 48
    evaluation.epochs = 250
    evaluation.batch_size = 128
    evaluation.auxiliary_weight = 0.4
    evaluation.auxiliary_norm = False
    evaluation.label_smoothing = 0.1
    evaluation.drop_path = 0.0
    evaluation.num_random = 0
    evaluation.num_seeds = 1
    evaluation.weights.lr = 0.1
    evaluation.weights.schedule = "exponential"
    evaluation.weights.decay = 0.97
    evaluation.weights.weight_decay = 3e-5
    if variant == "pdarts":
        linear(config)
        evaluation.batch_size = 256
        evaluation.auxiliary_norm = True
    elif variant == "pcdarts":
        linear(config)
        evaluation.batch_size = 1024
        evaluation.weights.lr = 0.5
        evaluation.weights.warmup_epochs = 5
    elif variant == "smoke":
        linear(config)
        config.data.name = "digits"
        config.data.image_size = 32
        config.data.flip = False
        config.data.colours = (0.0, 0.0, 0.0, 0.0)
        evaluation.cells = 3
        evaluation.channels = 4
        evaluation.epochs = 2
        evaluation.batch_size = 64
        evaluation.auxiliary_weight = 0.0
        evaluation.weights.tail_epochs = 1
        evaluation.weights.warmup_epochs = 1
    elif variant:
        raise ValueError(
            f"unknown variant {variant!r}: none, 'pdarts', 'pcdarts' or 'smoke'"
        )
    return config
