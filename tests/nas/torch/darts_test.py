"""DARTS's space agrees with PyTorch, operation by operation and as a whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.nas import CIFAR_AUXILIARY, CellSpace, Genotype, Network, Supernet
from skillearn_jax.nas.ops import operation
from skillearn_jax.nas.space import CELL_KINDS, DARTS_OPS, EDGE_LOGITS


def images_of(shape, dtype, torch):
    array = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    return jnp.asarray(array), torch.empty(0)


def channels_first(x):
    return jnp.moveaxis(x, -1, 1)


class Single(nn.Module):
    op: str
    stride: int

    @nn.compact
    def __call__(self, x):
        return operation(self.op, x.shape[-1], stride=self.stride, train=True)(x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", DARTS_OPS[1:])
def test_operation(op, stride, dtype, twins):
    links = twins.Links()
    module = twins.nets.operation(op, 4, stride, derived=True)
    side = (8, 6) if op == "skip_connect" else (7, 9)
    images, tensor = images_of((2, *side, 4), dtype, twins.torch)
    single = Single(op, stride)
    variables = single.init(jax.random.key(0), images)
    if op[:3] in ("sep", "dil"):
        links.separable(["SeparableOp_0"], module)
    elif op == "skip_connect" and stride == 2:
        links.halving(["FactorizedReduce_0", "kernel"], module)
        links.norm(["FactorizedReduce_0", "BatchNorm_0"], module.norm)

    def apply(params, x):
        y, _ = single.apply({**variables, "params": params}, x, mutable="batch_stats")
        return channels_first(y)

    net = twins.channels_last(module)
    params = variables.get("params", {})
    twins.compare(twins.torch, links, net, params, apply, [(images, tensor)], dtype)


def link_stem_and_head(links, net):
    links.conv(["stem", "Conv_0", "kernel"], net.stem[0])
    links.norm(["stem", "BatchNorm_0"], net.stem[1])
    links.linear(["head"], net.head)


def link_mixed_cell(links, name, cell, ops):
    """Parameters are stacked over edges, in the order in which they leave the states."""
    links.inputs([name, "inputs"], cell, affine=False)
    leaving = sorted(cell.places)
    # Edges from the two inputs, which alone may halve, come first.
    for row, place in enumerate(leaving):
        edge = cell.edges[cell.places.index(place)]
        c = edge.mixed
        for op, module in zip(ops, edge.ops, strict=True):
            for i in range(len(module) // 4 if op[:3] in ("sep", "dil") else 0):
                depthwise, pointwise = module[4 * i + 1], module[4 * i + 2]

                def of_depthwise(p, path=(name, f"{op}_depthwise"), i=i, row=row):
                    stack = np.asarray(p[path[0]][path[1]])
                    return np.transpose(stack[i, ..., row], (2, 0, 1))[:, None]

                def of_pointwise(p, path=(name, f"{op}_pointwise"), i=i, row=row, c=c):
                    stack = np.asarray(p[path[0]][path[1]])
                    return stack[i, :, row * c : (row + 1) * c].T[..., None, None]

                links.add(of_depthwise, depthwise.weight)
                links.add(of_pointwise, pointwise.weight)
            if hasattr(module, "even"):
                links.halving([name, op], module, row)
        if hasattr(edge.auxiliary, "even"):
            links.halving([name, "auxiliary_skip"], edge.auxiliary, row)


FEW = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")


@pytest.mark.parametrize(
    ("ops", "nodes", "options"),
    [
        (DARTS_OPS, 1, {}),
        (FEW, 2, {"partial": 2, "edge_normalization": True}),
        (FEW, 2, {"auxiliary": True}),
        pytest.param(DARTS_OPS, 4, {}, marks=pytest.mark.long),
    ],
    ids=["darts", "pc-darts", "darts-", "four nodes"],
)
def test_supernet(ops, nodes, options, dtype, twins):
    """Outputs and gradients in weights, images, operation and edge logits."""
    torch, links = twins.torch, twins.Links()
    edge_norm = options.get("edge_normalization", False)
    auxiliary = options.get("auxiliary", False)
    space = CellSpace(ops=ops, num_nodes=nodes, edge_normalization=edge_norm)
    supernet = Supernet(
        space,
        num_cells=3,
        channels=4,
        num_classes=5,
        partial=options.get("partial", 1),
        auxiliary_skip=auxiliary,
    )
    twin = twins.nets.Supernet(4, 3, 5, ops, nodes, **options)
    images, tensor = images_of((3, 8, 8, 3), dtype, torch)
    alphas = space.init_alphas(jax.random.key(2), scale=1.0)
    variables = jax.jit(supernet.init, static_argnames="train")(
        jax.random.key(0), images, alphas, train=False
    )
    link_stem_and_head(links, twin)
    for i, cell in enumerate(twin.cells):
        link_mixed_cell(links, f"cell_{i}", cell, ops)
    names = list(CELL_KINDS)
    tensors = list(twin.alphas)
    if edge_norm:
        names += [EDGE_LOGITS[kind] for kind in CELL_KINDS]
        tensors += twin.edge_logits
    skip_weight = 0.3 if auxiliary else 1.0

    def apply(params, x, *logits):
        y, _ = supernet.apply(
            {**variables, "params": params},
            x,
            dict(zip(names, logits, strict=True)),
            train=True,
            skip_weight=skip_weight,
            mutable="batch_stats",
        )
        return y

    net = twins.channels_last(twin, skip_weight)
    others = [(images, tensor)]
    others += [(alphas[name], t) for name, t in zip(names, tensors, strict=True)]
    twins.compare(torch, links, net, variables["params"], apply, others, dtype)


NORMAL = (
    ("sep_conv_3x3", 1),
    ("dil_conv_5x5", 0),
    ("skip_connect", 0),
    ("avg_pool_3x3", 2),
)
REDUCTION = (
    ("max_pool_3x3", 0),
    ("skip_connect", 1),
    ("sep_conv_5x5", 2),
    ("dil_conv_3x3", 1),
)


def test_derived_network(dtype, twins):
    """A network of three cells with its auxiliary head, in training."""
    torch, links = twins.torch, twins.Links()
    network = Network(
        Genotype(NORMAL, REDUCTION, normal_concat=(2, 3), reduction_concat=(2, 3)),
        num_cells=3,
        channels=2,
        num_classes=5,
        auxiliary=CIFAR_AUXILIARY,
    )
    twin = twins.nets.Network(2, 3, 5, NORMAL, REDUCTION)
    images, tensor = images_of((8, 32, 32, 3), dtype, torch)
    variables = jax.jit(network.init, static_argnames="train")(
        jax.random.key(0), images, train=False
    )
    link_stem_and_head(links, twin)
    for i, cell in enumerate(twin.cells):
        links.inputs([f"cell_{i}", "inputs"], cell, affine=True)
        counts = {"SeparableOp": 0, "FactorizedReduce": 0}
        for module in cell.ops:
            if hasattr(module, "even"):
                path = [f"cell_{i}", f"FactorizedReduce_{counts['FactorizedReduce']}"]
                links.halving([*path, "kernel"], module)
                links.norm([*path, "BatchNorm_0"], module.norm)
                counts["FactorizedReduce"] += 1
            elif isinstance(module, torch.nn.Sequential):
                path = [f"cell_{i}", f"SeparableOp_{counts['SeparableOp']}"]
                links.separable(path, module)
                counts["SeparableOp"] += 1
    features, head = twin.auxiliary.features, twin.auxiliary.head
    links.conv(["auxiliary", "Conv_0", "kernel"], features[2])
    links.norm(["auxiliary", "BatchNorm_0"], features[3])
    links.conv(["auxiliary", "kernel"], features[5])
    links.norm(["auxiliary", "BatchNorm_1"], features[6])
    links.linear(["auxiliary", "Dense_0"], head)

    def apply(params, x):
        outputs, _ = network.apply(
            {**variables, "params": params}, x, train=True, mutable="batch_stats"
        )
        return tuple(outputs)

    net = twins.channels_last(twin)
    twins.compare(
        torch, links, net, variables["params"], apply, [(images, tensor)], dtype
    )
