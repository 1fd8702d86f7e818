"""Floor 4: the groups of config keys of the search phase."""

import dataclasses

from skillearn_jax.hypergrad import Adjoint, Exact, FiniteDifference, FirstOrder
from skillearn_jax.nas import DARTS_OPS
from skillearn_jax.train.config.optimizers import AdamConfig, SgdConfig
from skillearn_jax.train.fields import choice, number


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
