"""Floor 4: the configuration of a run as frozen, checked dataclasses.

Below this floor nobody sees a config; above it, configs are `ml_collections` files that
start from `default_config()` and set what differs. Tuples, never lists; no `None`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from skillearn_jax.hypergrad import Adjoint, Exact, FiniteDifference, FirstOrder
from skillearn_jax.nas import DARTS_OPS
from skillearn_jax.train.fields import choice, number, parse


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are cut and drawn.

    Attributes:
        name: the source; see `skillearn_jax.data.SOURCES`.
        dir: where it lies, for sources that are not embedded.
        heldout_fraction: of an embedded set that becomes the held-out images.
        batch_size: of each stream of the search, over all devices.
        train_fraction: of the training images that the search trains on; the rest is
            its validation set and exam bank.
        stratified: whether that cut keeps class frequencies; else it is by index.
        padding: pixels around an image before a random crop.
        flip: whether images are mirrored at random.
        cutout: side of the square that is blanked at random, in pixels.
    """

    name: str = "digits"
    dir: str = ""
    heldout_fraction: float = number(0.2, above=0, below=1)
    batch_size: int = number(64, at_least=1)
    train_fraction: float = number(0.5, above=0, below=1)
    stratified: bool = False
    padding: int = number(1, at_least=0)
    flip: bool = False
    cutout: int = number(0, at_least=0)


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """The search space: a DARTS cell.

    Attributes:
        num_nodes: intermediate nodes of a cell; 4 in DARTS.
        ops: candidate operations, in the order of the columns of alpha.
    """

    num_nodes: int = number(4, at_least=1)
    ops: tuple[str, ...] = choice(DARTS_OPS, DARTS_OPS)


@dataclasses.dataclass(frozen=True)
class SgdConfig:
    """SGD: clip, then L2 decay into the gradient, then momentum, cosine by epoch.

    Attributes:
        lr: the initial learning rate.
        min_lr: the learning rate that the cosine ends in.
        momentum: of the heavy ball.
        weight_decay: added to the gradient, before momentum.
        clip: global norm of the gradient; 0 does not clip.
    """

    lr: float = number(0.025, above=0)
    min_lr: float = number(0.001, at_least=0)
    momentum: float = number(0.9, at_least=0, below=1)
    weight_decay: float = number(3e-4, at_least=0)
    clip: float = number(5.0, at_least=0)


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    """Adam with L2 decay inside the gradient, as DARTS has it for alpha.

    Attributes:
        lr: the learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        weight_decay: added to the gradient.
    """

    lr: float = number(3e-4, above=0)
    beta1: float = number(0.5, at_least=0, below=1)
    beta2: float = number(0.999, at_least=0, below=1)
    weight_decay: float = number(1e-3, at_least=0)


@dataclasses.dataclass(frozen=True)
class HypergradConfig:
    """How gradients flow through the look-ahead.

    Attributes:
        adjoint: `exact`, `finite_difference` or `first_order` (no second derivative).
        radius: of the finite difference.
    """

    adjoint: str = choice("exact", ("exact", "finite_difference", "first_order"))
    radius: float = number(0.01, above=0)

    def build(self) -> Adjoint:
        """Returns the adjoint that is named."""
        if self.adjoint == "exact":
            return Exact()
        if self.adjoint == "finite_difference":
            return FiniteDifference(self.radius)
        return FirstOrder()


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The search phase.

    Attributes:
        epochs: passes over the training half, warm-up included.
        warmup_epochs: the first of them, in which only weights move.
        cells: of the supernet.
        channels: of its first cell.
    """

    epochs: int = number(50, at_least=1)
    warmup_epochs: int = number(0, at_least=0)
    cells: int = number(8, at_least=1)
    channels: int = number(16, at_least=1)
    weights: SgdConfig = SgdConfig()
    alphas: AdamConfig = AdamConfig()


@dataclasses.dataclass(frozen=True)
class TesterConfig:
    """The tester of learning by passing tests.

    Attributes:
        encoder: `small` (two convolutions, for tiny images) or a ResNet by its depth.
        stem: of a ResNet: `imagenet` (the authors', even for 32x32) or `cifar`.
    """

    encoder: str = choice(
        "resnet18", ("small", "resnet18", "resnet34", "resnet50", "resnet101")
    )
    stem: str = choice("imagenet", ("imagenet", "cifar"))
    weights: SgdConfig = SgdConfig(clip=0.0)
    creator: AdamConfig = AdamConfig()


@dataclasses.dataclass(frozen=True)
class LptConfig:
    """Learning by passing tests.

    Attributes:
        interaction_weight: gamma, of the exam in the tester's training.
        tester_weight: lambda, of the tester's validation loss in the objective.
    """

    interaction_weight: float = number(1.0, at_least=0)
    tester_weight: float = number(1.0, at_least=0)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation phase: derived and random cells, trained from scratch alike.

    Attributes:
        epochs: passes over all training images; 0 leaves the evaluation out.
        batch_size: over all devices.
        cells: of the derived network.
        channels: of its first cell.
        drop_path: probability of dropping an operation, rising linearly to this.
        num_random: random cells to compare with.
        num_seeds: trainings of each cell; all are reported, never the best.
    """

    epochs: int = number(600, at_least=0)
    batch_size: int = number(96, at_least=1)
    cells: int = number(20, at_least=1)
    channels: int = number(36, at_least=1)
    drop_path: float = number(0.2, at_least=0, below=1)
    num_random: int = number(5, at_least=0)
    num_seeds: int = number(3, at_least=1)
    weights: SgdConfig = SgdConfig(min_lr=0.0)


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """Devices.

    Attributes:
        devices: how many to split a batch over; 0 takes all that this process sees.
    """

    devices: int = number(0, at_least=0)


@dataclasses.dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        skill: `lpt`, or `baseline` for plain differentiable search.
        seed: of everything that is random.
        log_every: steps between two lines of metrics.jsonl.
    """

    skill: str = choice("lpt", ("baseline", "lpt"))
    seed: int = number(2, at_least=0)
    log_every: int = number(1, at_least=1)
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    search: SearchConfig = SearchConfig()
    hypergrad: HypergradConfig = HypergradConfig()
    tester: TesterConfig = TesterConfig()
    lpt: LptConfig = LptConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    parallel: ParallelConfig = ParallelConfig()

    @classmethod
    def parse(cls, values: Mapping[str, Any] | ConfigDict) -> "Config":
        """Returns the checked config of a `ConfigDict` or of nested mappings.

        Raises:
            InputError: one line that names the value, what is allowed and the flag.
        """
        if isinstance(values, ConfigDict):
            values = values.to_dict()
        return parse(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as nested dicts, tuples kept."""
        return dataclasses.asdict(self)


def default_config() -> ConfigDict:
    """Returns the defaults as a `ConfigDict`, for a config file to change.

    The defaults are those of DARTS on CIFAR-10 with the tester of the authors' code.
    """
    return ConfigDict(Config().to_dict())
