"""NAS-Bench-201's networks agree with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.nas.nasbench201 import (
    ALPHAS_KEY,
    OPS,
    Architecture,
    BenchNetwork,
    BenchSpace,
)

C = 2
CONVS = ("nor_conv_1x1", "nor_conv_3x3")
DERIVED = (OPS[3], OPS[1], OPS[2], OPS[4], OPS[3], OPS[0])


def link_cell(links, name, cell, c, edges, ops):
    """Convolutions are stacked over edges, in the order in which they leave the nodes.

    The normalisations of a node's edges are one layer, smaller kernels first.
    """
    order = sorted(range(len(edges)), key=lambda edge: edges[edge])
    rows = dict.fromkeys(CONVS, 0)
    for source in range(3):
        places = []
        for op in CONVS:
            for edge in (e for e in order if edges[e][0] == source):
                if ops is not None and ops[edge] != op:
                    continue
                module = cell.edges[edge][0 if ops is not None else OPS.index(op)]
                row, rows[op] = rows[op], rows[op] + 1
                cut = slice(row * c, (row + 1) * c)
                places.append(module)

                def kernel(p, op=op, cut=cut):
                    return np.transpose(np.asarray(p[name][op])[..., cut], (3, 2, 0, 1))

                links.add(kernel, module[1].weight)
                if ops is None:
                    links.add(
                        lambda p, op=op, cut=cut: np.asarray(p[name][f"{op}_bias"])[
                            cut
                        ],
                        module[1].bias,
                    )
        for i, module in enumerate(places if ops is not None else []):
            cut = slice(i * c, (i + 1) * c)
            for key, tensor in (
                ("scale", module[2].weight),
                ("bias", module[2].bias),
            ):
                links.add(
                    lambda p, key=key, cut=cut, s=source: np.asarray(
                        p[name][f"norm_{s}"][key]
                    )[cut],
                    tensor,
                )


@pytest.mark.parametrize("ops", [None, DERIVED], ids=["supernet", "derived"])
def test_network(ops, dtype, twins):
    torch, links = twins.torch, twins.Links()
    architecture = None if ops is None else Architecture(ops)
    network = BenchNetwork(5, architecture, channels=C, num_cells=1)
    twin = twins.nets.BenchNetwork(C, 1, 5, ops)
    array = np.random.default_rng(1).standard_normal((3, 8, 8, 3)).astype(dtype)
    images, others = jnp.asarray(array), []
    others.append((images, torch.empty(0)))
    if ops is None:
        logits = BenchSpace().init_alphas(jax.random.key(2), scale=1.0)[ALPHAS_KEY]
        others.append((logits, twin.alphas))
    arguments = {} if ops else {"alphas": {ALPHAS_KEY: others[-1][0]}}
    variables = jax.jit(network.init, static_argnames="train")(
        jax.random.key(0), images, train=False, **arguments
    )
    links.conv(["stem", "kernel"], twin.stem[0])
    links.norm(["stem_norm"], twin.stem[1])
    links.norm(["last_norm"], twin.last)
    links.linear(["head"], twin.head)
    for stage, (cell,) in enumerate(twin.stages):
        name = f"cell_{stage}_0"
        link_cell(links, name, cell, C * 2**stage, twins.nets.BENCH_EDGES, ops)
    for i, block in enumerate(twin.blocks, start=1):
        convs = (block.body[1], block.body[4], block.shortcut)
        for j, conv in enumerate(convs):
            links.conv([f"reduce_{i}", f"Conv_{j}", "kernel"], conv)
        for j, norm in enumerate((block.body[2], block.body[5])):
            links.norm([f"reduce_{i}", f"BatchNorm_{j}"], norm)

    def apply(params, x, *logits):
        y, _ = network.apply(
            {**variables, "params": params},
            x,
            *({ALPHAS_KEY: array} for array in logits),
            train=True,
            mutable="batch_stats",
        )
        return y

    net = twins.channels_last(twin)
    twins.compare(torch, links, net, variables["params"], apply, others, dtype)
