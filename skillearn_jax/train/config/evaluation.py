"""Floor 4: the group of config keys of the evaluation phase."""

import dataclasses

from skillearn_jax.train.config.optimizers import SgdConfig
from skillearn_jax.train.fields import choice, number


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation phase: derived and random cells, trained from scratch alike.

    Attributes:
        epochs: passes over all training images; 0 leaves the evaluation out.
        batch_size: over all devices.
        accumulate: batches whose gradients make one update of the weights; the learning
            rate is that of the update. Batch statistics are those of each batch.
        cells: of the derived network; in NAS-Bench-201 of each of its three stages.
        channels: of its first cell.
        stem: `cifar`, at full resolution, or `imagenet`, which halves it three times.
            The auxiliary head is that of the same data set in DARTS.
        auxiliary_weight: of the loss of the auxiliary head, on an inner cell; 0 leaves
            the head out, as images below 29 pixels need it, with the stem `imagenet`
            below 193.
        auxiliary_norm: whether the second convolution of that head is normalised too.
            DARTS leaves it out on ImageNet, P-DARTS does not.
        label_smoothing: share of each label that is spread over all classes; 0.1 on
            ImageNet.
        cutout: side of the square that is blanked at random in training images, in
            pixels; other augmentations are those of `data`.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of cutmix, 0 for none; of both, each image takes one.
        average: the network that is judged has the weights and the batch statistics that
            are averaged over the updates with this decay; 0 judges the last ones.
        compute: what images and activations are in training: `bfloat16` halves their
            memory. Weights, batch statistics, the heads and the judgement are float32.
        drop_path: probability of dropping an operation: this times epoch / epochs.
        num_random: random cells to compare with.
        random_params_within: share by which the parameters of a random cell's network may
            differ from those of the derived one's, so that the comparison is not one of
            sizes; 0 takes random cells as they come. Over several tasks, whose heads
            differ in size, `random 1` may be another cell on each.
        rivals: workdirs of finished searches whose cells are trained alike, to compare
            with.
        num_seeds: trainings of each cell; all are reported, never the best.
        weights: how the weights of all these networks move.
    """

    epochs: int = number(600, at_least=0)
    batch_size: int = number(96, at_least=1)
    accumulate: int = number(1, at_least=1)
    cells: int = number(20, at_least=1)
    channels: int = number(36, at_least=1)
    stem: str = choice("cifar", ("cifar", "imagenet"))
    auxiliary_weight: float = number(0.4, at_least=0)
    auxiliary_norm: bool = True
    label_smoothing: float = number(0.0, at_least=0, below=1)
    cutout: int = number(0, at_least=0)
    mixup: float = number(0.0, at_least=0)
    cutmix: float = number(0.0, at_least=0)
    average: float = number(0.0, at_least=0, below=1)
    compute: str = choice("float32", ("float32", "bfloat16"))
    drop_path: float = number(0.2, at_least=0, below=1)
    num_random: int = number(5, at_least=0)
    random_params_within: float = number(0.0, at_least=0, below=1)
    rivals: tuple[str, ...] = ()
    num_seeds: int = number(3, at_least=1)
    weights: SgdConfig = SgdConfig(min_lr=0.0)
