"""The supernet of the DARTS search: all candidate operations at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.layers import Dense
from skillearn_jax.nas.cell import MixedCell
from skillearn_jax.nas.functional import Form
from skillearn_jax.nas.ops import Stem
from skillearn_jax.nas.space import CELL_KINDS, Alphas, CellSpace, cell_places


class Supernet(nn.Module):
    """Stem, a chain of mixed cells, global mean pool, linear head.

    Every edge of every cell computes

        o(x) = sum_o softmax(alpha)_o o(x)

    with one set of logits for all normal cells and one for all reduction cells. The
    logits are an argument, never a variable of the module, so that a caller may
    differentiate, freeze or replace them like any other input. The reduction cells
    stand at `reduction_positions(num_cells)` and double the channels.

    Attributes:
      space: operations and nodes of a cell.
      num_cells: depth L.
      channels: channels C of the first cells; the stem has 3 C.
      num_classes: size of the logits.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
      form: how separable convolutions are computed; None leaves it to
        `separable_form`.

    References: Liu et al. 2019, arXiv 1806.09055, section 2.
    """

    space: CellSpace
    num_cells: int
    channels: int
    num_classes: int
    axis_name: str | None = None
    form: Form | None = None

    @nn.compact
    def __call__(self, images: jax.Array, alphas: Alphas, *, train: bool) -> jax.Array:
        """Returns class logits, `[B, num_classes]`.

        Args:
          images: `[B, H, W, channels]`, any size and number of channels.
          alphas: raw logits `[edges, ops]` for `"normal"` and `"reduction"` cells; the
            softmax over operations is taken here.
          train: use batch statistics, and record them if `batch_stats` is mutable.

        Raises:
          InputError: if the logits do not fit the space.
        """
        weights = self._mixture_weights(alphas)
        stem = Stem(self.channels, self.axis_name, name="stem")
        older = newer = stem(images, train=train)
        for i, place in enumerate(cell_places(self.num_cells, self.channels)):
            cell = MixedCell(
                space=self.space,
                place=place,
                axis_name=self.axis_name,
                form=self.form,
                name=f"cell_{i}",
            )
            older, newer = newer, cell(older, newer, weights[place.kind], train=train)
        return Dense(self.num_classes, name="head")(jnp.mean(newer, axis=(1, 2)))

    def _mixture_weights(self, alphas: Alphas) -> Alphas:
        shape = (self.space.num_edges, len(self.space.ops))
        for kind in CELL_KINDS:
            if kind not in alphas or alphas[kind].shape != shape:
                got = alphas[kind].shape if kind in alphas else "nothing"
                raise InputError(f"alphas[{kind!r}] must have shape {shape}, got {got}")
        return {kind: jax.nn.softmax(alphas[kind], axis=-1) for kind in CELL_KINDS}
