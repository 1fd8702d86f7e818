"""Searches a cell on a part of ImageNet, by PC-DARTS: plainly, or by passing tests.

Paper:    PC-DARTS, arXiv 1907.05737, with the hyperparameters of its code: 8 cells of 16
          channels behind the ImageNet stem, half of the channels through the operations,
          50 epochs, batches of 1024, learning rate 0.5 with 5 epochs of warm-up, the
          architecture from epoch 35. With a tester, arXiv 2011.15102: batches of 768.
Hardware: eight V100 for 11.5 hours as published; smoke: a laptop, in a minute.
Expected: a cell to train with `configs/evaluate_imagenet.py:pcdarts`; 24.2 percent top-1
          error, by the results table in PC-DARTS's repository, for the cell that its
          authors found so (`PC_DARTS_image`). Not run here at full length.
Command:  python launch/run.py --config=configs/search_imagenet.py --workdir=runs/search_imagenet --config.data.dir=DIR

`DIR` is prepared by `python -m skillearn_jax.data.prepare` (docs/data.md). 128 and 32 images of
each class, about a tenth and a fortieth, are held in memory: 24 GB at 224x224 pixels. Crops
deviate: they are shifts of the middle of an image by up to 28 pixels, where the authors
take random-resized ones. Then, with the cell that was found:

  python launch/run.py --config=configs/evaluate_imagenet.py:pcdarts --workdir=runs/imagenet --config.data.dir=DIR --config.genotype=runs/search_imagenet

Variants:
  (none)     plain PC-DARTS, first order.
  lpt        learning by passing tests; the tester's rates are the learner's, without warm-up.
  smoke      plain, on embedded digits: too short to learn much.
  lpt_smoke  likewise with a tester.
"""

from pathlib import Path
from runpy import run_path

from skillearn_jax.train import default_config

# A config may be loaded from anywhere: its neighbour is found beside it.
common = run_path(str(Path(__file__).with_name("common.py")))


def get_config(variant=""):
    """Returns the config of a variant."""
    if variant not in ("", "lpt", "smoke", "lpt_smoke"):
        raise ValueError(
            f"unknown variant {variant!r}: none, 'lpt', 'smoke' or 'lpt_smoke'"
        )
    config = default_config()
    config.data.name = "stream:imagenet2012"
    config.data.per_class = (128, 32)
    config.data.padding = 28
    config.data.flip = True
    common["pcdarts"](config)
    config.data.batch_size = 1024
    config.search.stem = "imagenet"
    config.search.partial = 2
    config.search.warmup_epochs = 35
    config.search.weights.lr = 0.5
    config.search.weights.warmup_epochs = 5
    config.search.alphas.lr = 6e-3
    config.search.alphas.clip = 5.0
    config.evaluation.epochs = 0
    if variant.startswith("lpt"):
        common["lpt"](config)
        config.data.batch_size = 768
        config.tester.weights.clip = 5.0
        config.tester.creator.lr = 6e-3
        config.tester.creator.clip = 5.0
    else:
        common["baseline"](config)
    if variant.endswith("smoke"):
        common["smoke"](config)
        config.data.per_class = ()
        config.data.image_size = 32
        config.search.weights.warmup_epochs = 1
        config.evaluation.epochs = 0
    return config
