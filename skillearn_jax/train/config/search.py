"""Floor 4: the groups of config keys of the search phase."""

import dataclasses
from typing import Any, get_args

from skillearn_jax.framework.stage import Order
from skillearn_jax.hypergrad import Adjoint, Exact, FiniteDifference, FirstOrder
from skillearn_jax.nas import DARTS_OPS, CellSpace
from skillearn_jax.nas.nasbench201 import BenchSpace
from skillearn_jax.nas.schedules import Decay
from skillearn_jax.skills.lpt import LPT_VARIANTS, Ablation
from skillearn_jax.skills.lpt_losses import ExamLoss, ExamScores
from skillearn_jax.train.config.curriculum import CurriculumConfig
from skillearn_jax.train.config.optimizers import AdamConfig, SgdConfig
from skillearn_jax.train.fields import choice, number


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """The search space.

    Attributes:
        name: `darts`, or `nasbench201`, which has one cell of six edges and of the keys
            below reads `allow_none` only.
        allow_none: let an edge of NAS-Bench-201 be derived, or drawn at random, without an
            operation, as the benchmark does; DARTS never does.
        num_nodes: intermediate nodes of a cell; 4 in DARTS.
        ops: candidate operations, in the order of the columns of alpha.
        edge_normalization: weigh the edges of a node by a softmax too, as PC-DARTS.
    """

    name: str = choice("darts", ("darts", "nasbench201"))
    allow_none: bool = True
    num_nodes: int = number(4, at_least=1)
    ops: tuple[str, ...] = choice(DARTS_OPS, DARTS_OPS)
    edge_normalization: bool = False

    def build(self) -> Any:
        """Returns the space: a `CellSpace` or a `BenchSpace`."""
        if self.name == "nasbench201":
            return BenchSpace(self.allow_none)
        return CellSpace(
            ops=self.ops,
            num_nodes=self.num_nodes,
            edge_normalization=self.edge_normalization,
        )


@dataclasses.dataclass(frozen=True)
class HypergradConfig:
    """How gradients flow through the look-ahead.

    Attributes:
        adjoint: `exact`, `finite_difference` or `first_order` (no second derivative).
        radius: of the finite difference.
        per_set: one finite difference for each set that a stage moves (encoder and head),
            as the authors of interleaving learning take them, and those of learning by
            passing tests for the tester.
    """

    adjoint: str = choice("exact", ("exact", "finite_difference", "first_order"))
    radius: float = number(0.01, above=0)
    per_set: bool = False

    def build(self) -> Adjoint:
        """Returns the adjoint that is named."""
        if self.adjoint == "exact":
            return Exact()
        if self.adjoint == "finite_difference":
            return FiniteDifference(self.radius, self.per_set)
        return FirstOrder()


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The search phase.

    A random search reads `epochs`, `cells`, `channels`, `stem`, `compute`, `weights` and
    `num_random` only.

    Attributes:
        epochs: passes over the training half, warm-up included.
        warmup_epochs: the first of them, in which only weights move.
        cells: of the supernet; in NAS-Bench-201 of each of its three stages. In DARTS's
            space 3 or more: below there is no normal cell, and the derived one is chance.
        channels: of its first cell.
        initialization: of its weights: `torch` (uniform, the original's) or `flax`.
        stem: `cifar`, or `imagenet`, which reduces images to an eighth; `channels` are
            even then.
        partial: K of PC-DARTS: one of K channels passes the operations; 1 for all.
        auxiliary_skip: how the skip connection that DARTS- adds to every edge fades:
            `constant`, `linear`, `cosine`, `slow_cosine`; `off` adds none.
        compute: what images and activations are: `bfloat16` halves their memory. Weights,
            batch statistics, the heads and both gradients are float32. What it costs the
            adjoints stands in `docs/hypergradients.md`.
        remat: compute cells anew in the backward pass: three fifths less memory for three
            tenths more time of a second-order step (`docs/performance.md`).
        stop: when a search ends: `epochs` (after all of them), or earlier by a rule of
            DARTS+: `skips` (the derived normal cell has `stop_skips` of them) or
            `ranking` (that of the operations with parameters has not changed for
            `stop_ranking_epochs` epochs); or `curriculum`, at the end of the epoch in
            which the sequence of exams is over. No rule looks at the warm-up, nor at
            any stage but the last; `ranking` not at one that has two operations with
            parameters on no edge.
        stop_skips: see `stop`.
        stop_ranking_epochs: see `stop`.
        stage_cells: cells of the supernet, stage by stage, of a search in stages as in
            P-DARTS: each a fresh supernet, deeper than the one before, with `epochs` of
            its own, `warmup_epochs` included. Empty: one stage of `cells`.
        stage_candidates: operations that compete on an edge, stage by stage: the
            strongest of the stage before, edge by edge; all in the first.
        stage_skip_dropout: rate of dropout after skips at the start of each stage, from
            where it falls; 0 for none.
        max_skips: skip connections that the derived normal cell may have, as in
            P-DARTS; -1 for any number.
        num_random: cells that `skill=random` draws, trains for `epochs` and judges.
    """

    epochs: int = number(50, at_least=1)
    warmup_epochs: int = number(0, at_least=0)
    cells: int = number(8, at_least=1)
    channels: int = number(16, at_least=1)
    initialization: str = choice("torch", ("torch", "flax"))
    stem: str = choice("cifar", ("cifar", "imagenet"))
    partial: int = number(1, at_least=1)
    auxiliary_skip: str = choice("off", ("off", *get_args(Decay)))
    compute: str = choice("float32", ("float32", "bfloat16"))
    remat: bool = False
    stop: str = choice("epochs", ("epochs", "skips", "ranking", "curriculum"))
    stop_skips: int = number(2, at_least=1)
    stop_ranking_epochs: int = number(10, at_least=1)
    stage_cells: tuple[int, ...] = number((), at_least=1)
    stage_candidates: tuple[int, ...] = number((), at_least=1)
    stage_skip_dropout: tuple[float, ...] = number((), at_least=0, below=1)
    max_skips: int = number(-1, at_least=-1)
    num_random: int = number(8, at_least=1)
    weights: SgdConfig = SgdConfig()
    alphas: AdamConfig = AdamConfig()

    @property
    def num_stages(self) -> int:
        """Number of supernets, one after the other."""
        return len(self.stage_cells) or 1


@dataclasses.dataclass(frozen=True)
class TesterConfig:
    """The tester of learning by passing tests.

    Attributes:
        encoder: `small` (two convolutions, for tiny images) or a ResNet by its depth.
        stem: of a ResNet: `imagenet` (the authors', even for 32x32) or `cifar`.
        weights: how the encoder and the executor move.
        creator: how the test creator moves, up the objective.
    """

    encoder: str = choice(
        "resnet18", ("small", "resnet18", "resnet34", "resnet50", "resnet101")
    )
    stem: str = choice("imagenet", ("imagenet", "cifar"))
    weights: SgdConfig = SgdConfig(clip=0.0)
    creator: AdamConfig = AdamConfig()


@dataclasses.dataclass(frozen=True)
class LptConfig:
    """Learning by passing tests; see `skills.learning_by_passing_tests`.

    Attributes:
        interaction_weight: gamma, of the exam in the tester's training; in first order it
            acts there alone. At 0 the tester takes no exams.
        tester_weight: lambda, of the tester's validation loss in the objective. In first
            order, and where the tester takes no exams, nothing moves by it, so there it
            is 1, or 0 to leave that loss out.
        variant: `paper`, or a bundle of deviations, `skills.LPT_VARIANTS`, which then
            decides `exam_loss`, `stale_reads` and `order`, and may need
            `hypergrad.adjoint=first_order`.
        exam_loss: of the validation stage: `normalized` by the exam's size, or `mean`.
        exam_scores: of the tester's training: `live`, `fixed` (in E) or `normalized`.
        stale_reads: A meets the exam of the old E, and C the losses of the old W.
        ablation: `difficulty_only` (no executor, no tester's training) or `exam_only`
            (the tester learns from its exams alone).
        order: in which A and C move: `simultaneous`, or `alternate`.
        bank: name of the data set that exams are drawn from, as in `data.name`: its
            training images, at the size of the learner's. Empty: the validation set.
        bank_dir: where it lies.
        curriculum: exams that grow harder.
    """

    interaction_weight: float = number(1.0, at_least=0)
    tester_weight: float = number(1.0, at_least=0)
    variant: str = choice("paper", tuple(LPT_VARIANTS))
    exam_loss: str = choice("normalized", get_args(ExamLoss))
    exam_scores: str = choice("live", get_args(ExamScores))
    stale_reads: bool = False
    ablation: str = choice("none", get_args(Ablation))
    order: str = choice("simultaneous", get_args(Order))
    bank: str = ""
    bank_dir: str = ""
    curriculum: CurriculumConfig = CurriculumConfig()

    def options(self) -> dict[str, Any]:
        """Returns the arguments of the skill that these keys are."""
        names = (
            "interaction_weight",
            "tester_weight",
            "exam_loss",
            "exam_scores",
            "stale_reads",
            "ablation",
            "order",
        )
        given = {name: getattr(self, name) for name in names}
        return given | {"curriculum": self.curriculum.build()}
