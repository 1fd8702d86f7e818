"""The derived network: the cells of a genotype, stacked and trained from scratch."""

import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from skillearn_jax.errors import check_at_least
from skillearn_jax.layers import Axis, Dense, example_numbers, run_module
from skillearn_jax.nas.auxiliary import Auxiliary, AuxiliaryHead
from skillearn_jax.nas.genotype import EDGES_PER_NODE, Edges, Genotype
from skillearn_jax.nas.ops import (
    STEM_MULTIPLIER,
    CellInputs,
    StemName,
    apply_stem,
    operation,
)
from skillearn_jax.nas.schedules import check_rate, is_zero
from skillearn_jax.nas.space import CellPlace, cell_places


def scan_cells_by_default() -> bool:
    """Returns whether the networks of a run scan over equal cells; see `Network`.

    The one place that decides: everywhere but on CPU, where equal cells already share
    their compiled pieces (`subroutine`): there a loop compiles as long, and a training
    step of DARTS_V2, 20 cells of 36 channels, batch 4, takes 1.15 times as long. No
    accelerator has been measured.
    """
    return jax.default_backend() != "cpu"


class Cell(nn.Module):
    """A derived cell: every node is the sum of two operations.

    Attributes:
        edges: `(operation, source)` pairs, two per node.
        concat: states that the cell returns, side by side.
        place: kind and channels C of the cell; a reduction cell halves the resolution
            on the edges from its two inputs.
        axis_name: see `BatchNorm`.
    """

    edges: Edges
    concat: tuple[int, ...]
    place: CellPlace
    axis_name: Axis = None

    @nn.compact
    def __call__(
        self,
        older: jax.Array,
        newer: jax.Array,
        masks: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """Returns the concatenated nodes, `[B, H', W', len(concat) * C]`.

        Args:
            older: output of the cell before the last one.
            newer: output of the last cell.
            masks: `[B, edges]`, the factor on the output of each edge but identities;
                or None.
            train: see `BatchNorm`.
        """
        _, features, reduced_before = self.place
        inputs = CellInputs(
            features, reduced_before, True, self.axis_name, name="inputs"
        )
        states = list(inputs(older, newer, train=train))
        outputs = []
        for i, (op, source) in enumerate(self.edges):
            stride = self.place.stride_from(source)
            apply = operation(
                op,
                features,
                stride=stride,
                train=train,
                axis_name=self.axis_name,
            )
            y = apply(states[source])
            if masks is not None and not (op == "skip_connect" and stride == 1):
                y = y * masks[:, i, None, None, None]
            outputs.append(y)
            if len(outputs) == EDGES_PER_NODE:
                states.append(outputs.pop() + outputs.pop())
        return jnp.concatenate([states[i] for i in self.concat], axis=-1)


class Outputs(NamedTuple):
    """What a network with an auxiliary head returns in training.

    Attributes:
        logits: `[B, num_classes]`.
        auxiliary: `[B, num_classes]`, of the auxiliary head.
    """

    logits: jax.Array
    auxiliary: jax.Array


class Network(nn.Module):
    """Stem, a chain of derived cells, global mean pool, linear head.

    Attributes:
        genotype: the two cells.
        num_cells: depth L.
        channels: channels C of the first cells; the stem has 3 C, that of ImageNet C.
        num_classes: size of the logits.
        stem: `"cifar"`, one convolution at full resolution; `"imagenet"`, three that
            halve it, with C channels at the end.
        auxiliary: the head on the output of cell 2 L // 3, or None.
        axis_name: mapped axis over which batch statistics are synchronised, or None.
        scan_cells: run consecutive cells of equal shapes as one `lax.scan`, which
            compiles them once; see `scan_cells_by_default`. Variables, masks and
            results are those of cells written out one after the other, as `init` always
            has them.

    References: Liu et al. 2019, arXiv 1806.09055, section 3; drop path: Larsson et al.
      2017, arXiv 1605.07648.
    """

    genotype: Genotype
    num_cells: int
    channels: int
    num_classes: int
    stem: StemName = "cifar"
    auxiliary: Auxiliary | None = None
    axis_name: Axis = None
    scan_cells: bool = False

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        drop_path_rate: float | jax.Array = 0.0,
    ) -> jax.Array | Outputs:
        """Returns class logits, `[B, num_classes]`; `Outputs` if there are auxiliary ones.

        The auxiliary head is computed in training only.

        In training, drop path multiplies the output of every operation but the identity
        by `mask / (1 - rate)`, with one Bernoulli(1 - rate) mask per example and edge.
        The masks depend on the key of the collection `drop_path` and on the index of
        the example over all devices of `axis_name`, not on the number of devices.

        Args:
            images: `[B, H, W, channels]`, any size and number of channels.
            train: use batch statistics, and record them if `batch_stats` is mutable.
            drop_path_rate: probability in `[0, 1)`, may be traced; the number 0.0
                leaves drop path out of the program.

        Raises:
            InputError: for a rate outside `[0, 1)`, a size that is too small, an odd
                number of channels with the ImageNet stem, and images that are too small
                for the auxiliary head.
        """
        masks = None
        check_at_least("num_classes", self.num_classes, 1)
        check_rate("drop_path_rate", drop_path_rate)
        if train and not is_zero(drop_path_rate):
            masks = self._drop_path_masks(images.shape[0], drop_path_rate)
        width = self.channels
        if self.stem == "cifar":
            width *= STEM_MULTIPLIER
        older, newer = apply_stem(
            self.stem, width, images, train=train, axis_name=self.axis_name
        )
        auxiliary = None
        places = cell_places(
            self.num_cells, self.channels, reduced_before=self.stem == "imagenet"
        )
        done = 0
        while done < self.num_cells:
            start, place = done, places[done]
            done += self._num_alike(places[start:], older, newer)
            names = [f"cell_{i}" for i in range(start, done)]
            own_masks = None if masks is None else masks[start:done].astype(newer.dtype)
            older, newer = self._run(names, place, (older, newer), own_masks, train)
            # It reads a reduction cell, which is never run with others.
            if done - 1 == 2 * self.num_cells // 3:
                auxiliary = self._auxiliary_logits(newer, train)
        logits = Dense(self.num_classes, name="head")(jnp.mean(newer, axis=(1, 2)))
        return logits if auxiliary is None else Outputs(logits, auxiliary)

    def _num_alike(
        self, places: Sequence[CellPlace], older: jax.Array, newer: jax.Array
    ) -> int:
        """Returns how many of the next cells are run together, at least 1.

        Several are if their places are equal and the output of each has the shape of
        its two inputs: then so have all parameters.
        """
        place = places[0]
        channels = len(getattr(self.genotype, f"{place.kind}_concat")) * place.features
        if (
            not self.scan_cells
            or self.is_initializing()
            or older.shape != newer.shape
            or newer.shape[-1] != channels
        ):
            return 1
        return sum(1 for _ in itertools.takewhile(place.__eq__, places))

    def _run(
        self,
        names: Sequence[str],
        place: CellPlace,
        inputs: tuple[jax.Array, jax.Array],
        masks: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the outputs of the last two cells, of one cell or of several alike.

        Args:
            names: of the cells.
            place: of each of them.
            inputs: the outputs of the two cells before them.
            masks: `[cells, B, edges]` or None, see `Cell`.
            train: see `BatchNorm`.
        """

        def cell(**module: Any) -> Cell:
            return Cell(
                edges=getattr(self.genotype, place.kind),
                concat=getattr(self.genotype, f"{place.kind}_concat"),
                place=place,
                axis_name=self.axis_name,
                **module,
            )

        if len(names) == 1:
            mask = None if masks is None else masks[0]
            output = run_module(cell(name=names[0]), *inputs, mask, train=train)
            return inputs[1], output

        alike = cell(parent=None)
        collections = ("params", "batch_stats")
        mutable = [c for c in collections if self.is_mutable_collection(c)]

        def step(states: Any, own: Any) -> Any:
            variables, mask = own
            output, changed = alike.apply(
                variables, *states, mask, train, mutable=mutable
            )
            return (states[1], output), changed

        variables = jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *[{c: self.get_variable(c, name) for c in collections} for name in names],
        )
        states, changed = lax.scan(step, inputs, (variables, masks))
        for i, name in enumerate(names):
            for collection, values in changed.items():
                own = jax.tree.map(operator.itemgetter(i), values)
                self.put_variable(collection, name, own)
        return states

    def _auxiliary_logits(self, x: jax.Array, train: bool) -> jax.Array | None:
        if self.auxiliary is None or not (train or self.is_initializing()):
            return None
        head = AuxiliaryHead(
            self.num_classes, self.auxiliary, self.axis_name, name="auxiliary"
        )
        logits = head(x, train=train)
        return logits if train else None

    def _drop_path_masks(self, batch: int, rate: float | jax.Array) -> jax.Array:
        """Draws the factors of all edges in one go, `[cells, B, edges]`."""
        key = self.make_rng("drop_path")
        examples = example_numbers(batch, self.axis_name)
        shape = (self.num_cells, len(self.genotype.normal))

        def draw(example: jax.Array) -> jax.Array:
            return jax.random.bernoulli(
                jax.random.fold_in(key, example), 1 - rate, shape
            )

        return jax.vmap(draw, out_axes=1)(examples) / (1 - rate)
