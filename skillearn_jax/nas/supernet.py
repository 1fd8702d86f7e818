"""The supernet of the DARTS search: all candidate operations at once."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.errors import InputError, check_at_least, check_choice
from skillearn_jax.layers import (
    Axis,
    Dense,
    Draw,
    lecun_normal,
    run_module,
    torch_uniform,
)
from skillearn_jax.nas.cell import MixedCell, Mixture
from skillearn_jax.nas.edges import SkipDropout
from skillearn_jax.nas.ops import STEM_MULTIPLIER, StemName, apply_stem
from skillearn_jax.nas.schedules import check_rate, is_zero
from skillearn_jax.nas.space import (
    CELL_KINDS,
    EDGE_LOGITS,
    NUM_INPUTS,
    Alphas,
    CellSpace,
    cell_places,
)


class Initialization(NamedTuple):
    """How weights are drawn: initialisers by fan-in.

    Attributes:
        kernel: of convolutions and of the head.
        bias: of the head.
    """

    kernel: Draw
    bias: Draw


INITIALIZATIONS = {
    "torch": Initialization(torch_uniform, torch_uniform),
    "flax": Initialization(lecun_normal, lambda fan_in: nn.initializers.zeros),
}
"""By name: the defaults of PyTorch's layers and of Flax's."""


class Supernet(nn.Module):
    """Stem, a chain of mixed cells, global mean pool, linear head.

    Every edge of every cell computes

        o(x) = sum_o softmax(alpha)_o o(x)

    with one set of logits for all normal cells and one for all reduction cells. The
    logits are an argument, never a variable of the module, so that a caller may
    differentiate, freeze or replace them like any other input. The reduction cells
    stand at `reduction_positions(num_cells)` and double the channels.

    Attributes:
        space: operations and nodes of a cell, candidates per edge, edge normalisation.
        num_cells: depth L.
        channels: channels C of the first cells; the stem has 3 C.
        num_classes: size of the logits; 0 leaves the head out, and the pooled features
            are returned, for heads of a caller's own.
        partial: K of PC-DARTS: one of K channels passes the operations; 1 is plain
            DARTS.
        auxiliary_skip: add a skip connection outside the softmax to every edge
            (DARTS-).
        remat: compute the cells anew in the backward pass instead of keeping what is
            inside them: less memory for about a third more time.
        initialization: `"torch"`, uniform as in the original code, or `"flax"`.
        stem: `"cifar"`, one convolution at full resolution, or `"imagenet"`, three that
            halve it, as PC-DARTS searches on ImageNet.
        axis_name: mapped axis over which batch statistics are synchronised, or None.

    References: Liu et al. 2019, arXiv 1806.09055, section 2; Xu et al. 2020 (PC-DARTS),
      arXiv 1907.05737; Chu et al. 2021 (DARTS-), arXiv 2009.01027; Chen et al. 2019
      (P-DARTS), arXiv 1904.12760.
    """

    space: CellSpace
    num_cells: int
    channels: int
    num_classes: int
    partial: int = 1
    auxiliary_skip: bool = False
    remat: bool = False
    initialization: Literal["torch", "flax"] = "torch"
    stem: StemName = "cifar"
    axis_name: Axis = None

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        alphas: Alphas,
        *,
        train: bool,
        skip_weight: float | jax.Array = 1.0,
        skip_dropout_rate: float | jax.Array = 0.0,
    ) -> jax.Array:
        """Returns class logits, `[B, num_classes]`, or features without a head.

        Args:
            images: `[B, H, W, channels]`, any size and number of channels.
            alphas: raw logits by the keys of `space.alpha_shapes()`; the softmax over
                operations, and that over the edges of a node, is taken here.
            train: use batch statistics, and record them if `batch_stats` is mutable.
            skip_weight: beta, the factor of the auxiliary skip; may be traced. Without
                an auxiliary skip there is no other than the number 1.0.
            skip_dropout_rate: rate in `[0, 1)` of dropout after identity skips, in
                training, with a key of the collection `skip_dropout`; may be traced;
                the number 0.0 leaves it out of the program.

        Raises:
            InputError: if the logits do not fit the space, or for an option that cannot
                be or that the network does not have.
        """
        self.space.check_alphas(alphas)
        self._check_options(skip_weight, skip_dropout_rate)
        drawn = INITIALIZATIONS[self.initialization]
        mixtures = {
            kind: self._mixture(kind, alphas, skip_weight) for kind in CELL_KINDS
        }
        dropout = self._skip_dropout(skip_dropout_rate) if train else None
        older, newer = apply_stem(
            self.stem,
            STEM_MULTIPLIER * self.channels,
            images,
            train=train,
            axis_name=self.axis_name,
            draw=drawn.kernel,
        )
        make = nn.remat(MixedCell, static_argnums=(4,)) if self.remat else MixedCell
        places = cell_places(
            self.num_cells, self.channels, reduced_before=self.stem == "imagenet"
        )
        for i, place in enumerate(places):
            cell = make(
                space=self.space,
                place=place,
                partial=self.partial,
                axis_name=self.axis_name,
                draw=drawn.kernel,
                name=f"cell_{i}",
            )
            mixture = mixtures[place.kind]
            if dropout is not None:
                mixture = mixture._replace(skip_dropout=dropout.fold_in(i))
            older, newer = newer, run_module(cell, older, newer, mixture, train=train)
        pooled = jnp.mean(newer, axis=(1, 2))
        if not self.num_classes:
            return pooled
        return Dense(self.num_classes, *drawn, name="head")(pooled)

    def _check_options(
        self, skip_weight: float | jax.Array, skip_dropout_rate: float | jax.Array
    ) -> None:
        check_at_least("num_classes", self.num_classes, 0)
        check_choice("initialization", self.initialization, INITIALIZATIONS)
        if not self.auxiliary_skip and (
            isinstance(skip_weight, jax.Array) or skip_weight != 1
        ):
            raise InputError(
                "skip_weight weighs the auxiliary skip, and there is none: set "
                "auxiliary_skip=True"
            )
        check_rate("skip_dropout_rate", skip_dropout_rate)

    def _mixture(
        self, kind: str, alphas: Alphas, skip_weight: float | jax.Array
    ) -> Mixture:
        ops = jax.nn.softmax(alphas[kind], axis=-1)
        edges = None
        if self.space.edge_normalization:
            edges = self._edge_weights(alphas[EDGE_LOGITS[kind]])
        skip = jnp.asarray(skip_weight, ops.dtype) if self.auxiliary_skip else None
        return Mixture(ops, edges, skip)

    def _skip_dropout(self, rate: float | jax.Array) -> SkipDropout | None:
        if is_zero(rate):
            return None
        return SkipDropout(jnp.asarray(rate), self.make_rng("skip_dropout"))

    def _edge_weights(self, logits: jax.Array) -> jax.Array:
        """Returns the softmax over the incoming edges of each node, `[edges]`."""
        # The edges of a node are neighbours in `space.edges`.
        sizes = [NUM_INPUTS + node for node in range(self.space.num_nodes)]
        parts = jnp.split(logits, np.cumsum(sizes)[:-1])
        return jnp.concatenate([jax.nn.softmax(part) for part in parts])
