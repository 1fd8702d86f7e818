"""Floor 4: the group of config keys of the evaluation phase."""

import dataclasses

from skillearn_jax.train.config.optimizers import SgdConfig
from skillearn_jax.train.fields import number


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation phase: derived and random cells, trained from scratch alike.

    Attributes:
        epochs: passes over all training images; 0 leaves the evaluation out.
        batch_size: over all devices.
        cells: of the derived network.
        channels: of its first cell.
        auxiliary_weight: of the loss of the auxiliary head, on an inner cell; 0 leaves
            the head out, as images below 29 pixels need it.
        label_smoothing: share of each label that is spread over all classes; 0.1 on
            ImageNet.
        drop_path: probability of dropping an operation, rising linearly to this.
        num_random: random cells to compare with.
        random_params_within: share by which the parameters of a random cell's network may
            differ from those of the derived one's, so that the comparison is not one of
            sizes; 0 takes random cells as they come.
        rivals: workdirs of finished searches whose cells are trained alike, to compare
            with.
        num_seeds: trainings of each cell; all are reported, never the best.
    """

    epochs: int = number(600, at_least=0)
    batch_size: int = number(96, at_least=1)
    cells: int = number(20, at_least=1)
    channels: int = number(36, at_least=1)
    auxiliary_weight: float = number(0.4, at_least=0)
    label_smoothing: float = number(0.0, at_least=0, below=1)
    drop_path: float = number(0.2, at_least=0, below=1)
    num_random: int = number(5, at_least=0)
    random_params_within: float = number(0.0, at_least=0, below=1)
    rivals: tuple[str, ...] = ()
    num_seeds: int = number(3, at_least=1)
    weights: SgdConfig = SgdConfig(min_lr=0.0)
