"""The search spaces in PyTorch, one module per operation and edge, to compare with.

Written from the published definitions and independent of `skillearn_jax`: grouped
convolutions, loops over edges. The benchmark times it, the tests copy weights into it.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
BENCH_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
BENCH_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def norm(channels: int, affine: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, affine=affine)


def relu_conv_norm(inputs: int, outputs: int, affine: bool) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, norm(outputs, affine))


def separable(
    c: int, size: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    pad = dilation * (size - 1) // 2
    depthwise = nn.Conv2d(c, c, size, stride, pad, dilation, groups=c, bias=False)
    return [nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), norm(c, affine)]


class FactorizedReduce(nn.Module):
    def __init__(self, inputs: int, outputs: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.norm = norm(outputs, affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.0 * x[:, :, :: self.stride, :: self.stride]


def operation(name: str, c: int, stride: int, *, derived: bool) -> nn.Module:
    """Returns an operation: in the supernet pools are normalised and nothing is affine."""
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(c, c, derived)
    if name.endswith("pool_3x3"):
        pool: nn.Module = nn.MaxPool2d(3, stride, 1)
        if name.startswith("avg"):
            pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return pool if derived else nn.Sequential(pool, norm(c, False))
    size = int(name[-1])
    if name.startswith("dil"):
        return nn.Sequential(*separable(c, size, stride, 2, derived))
    first, second = (separable(c, size, s, 1, derived) for s in (stride, 1))
    return nn.Sequential(*first, *second)


class MixedOp(nn.Module):
    """All operations on one edge; `partial` and `auxiliary` as PC-DARTS and DARTS-."""

    def __init__(
        self, c: int, stride: int, ops: Sequence[str], partial: int, auxiliary: bool
    ) -> None:
        super().__init__()
        self.stride, self.partial, self.mixed = stride, partial, c // partial
        self.ops = nn.ModuleList(
            operation(op, self.mixed, stride, derived=False) for op in ops
        )
        self.auxiliary = None
        if auxiliary:
            self.auxiliary = operation(
                "skip_connect", self.mixed, stride, derived=False
            )

    def forward(
        self, x: torch.Tensor, weights: torch.Tensor, skip_weight: float
    ) -> torch.Tensor:
        inside, rest = x[:, : self.mixed], x[:, self.mixed :]
        y = sum(w * op(inside) for w, op in zip(weights, self.ops, strict=True))
        if self.auxiliary is not None:
            y = y + skip_weight * self.auxiliary(inside)
        if self.partial == 1:
            return y
        if self.stride == 2:
            rest = F.max_pool2d(rest, 2, 2)
        y = torch.cat([y, rest], 1)
        grouped = y.reshape(len(y), self.partial, self.mixed, *y.shape[2:])
        return grouped.transpose(1, 2).reshape(y.shape)


class MixedCell(nn.Module):
    def __init__(
        self,
        older: int,
        newer: int,
        c: int,
        reduction: bool,
        reduced_before: bool,
        ops: Sequence[str] = OPS,
        nodes: int = 4,
        partial: int = 1,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.reduction, self.nodes = reduction, nodes
        adapt = FactorizedReduce if reduced_before else relu_conv_norm
        self.older = adapt(older, c, False)
        self.newer = relu_conv_norm(newer, c, False)
        self.places = [(s, 2 + node) for node in range(nodes) for s in range(2 + node)]
        self.edges = nn.ModuleList(
            MixedOp(c, 2 if reduction and source < 2 else 1, ops, partial, auxiliary)
            for source, _ in self.places
        )

    def forward(
        self,
        older: torch.Tensor,
        newer: torch.Tensor,
        weights: torch.Tensor,
        edge_logits: torch.Tensor | None,
        skip_weight: float,
    ) -> torch.Tensor:
        states = [self.older(older), self.newer(newer)]
        first = 0
        for _ in range(self.nodes):
            last = first + len(states)
            edges = zip(
                self.edges[first:last], weights[first:last], states, strict=True
            )
            parts = [edge(x, w, skip_weight) for edge, w, x in edges]
            if edge_logits is not None:
                shares = F.softmax(edge_logits[first:last], -1)
                parts = [share * y for share, y in zip(shares, parts, strict=True)]
            states.append(sum(parts))
            first = last
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    def __init__(
        self,
        channels: int,
        cells: int,
        classes: int = 10,
        ops: Sequence[str] = OPS,
        nodes: int = 4,
        partial: int = 1,
        auxiliary: bool = False,
        edge_normalization: bool = False,
    ) -> None:
        super().__init__()
        c, older, newer = channels, 3 * channels, 3 * channels
        conv = nn.Conv2d(3, newer, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(newer))
        self.cells = nn.ModuleList()
        reduced = False
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            c = 2 * c if reduction else c
            options = (ops, nodes, partial, auxiliary)
            self.cells.append(MixedCell(older, newer, c, reduction, reduced, *options))
            older, newer, reduced = newer, nodes * c, reduction
        self.head = nn.Linear(newer, classes)
        edges = len(self.cells[0].edges)
        # Of normal and of reduction cells; no parameters of the module.
        self.alphas = [
            torch.zeros(edges, len(ops), requires_grad=True) for _ in range(2)
        ]
        self.edge_logits: list[torch.Tensor | None] = [None, None]
        if edge_normalization:
            self.edge_logits = [
                torch.zeros(edges, requires_grad=True) for _ in range(2)
            ]

    def forward(self, images: torch.Tensor, skip_weight: float = 1.0) -> torch.Tensor:
        older = newer = self.stem(images)
        for cell in self.cells:
            kind = int(cell.reduction)
            weights = F.softmax(self.alphas[kind], -1)
            y = cell(older, newer, weights, self.edge_logits[kind], skip_weight)
            older, newer = newer, y
        return self.head(newer.mean((2, 3)))


Edges = Sequence[tuple[str, int]]


class DerivedCell(nn.Module):
    def __init__(
        self,
        older: int,
        newer: int,
        c: int,
        reduction: bool,
        reduced_before: bool,
        edges: Edges,
    ) -> None:
        super().__init__()
        adapt = FactorizedReduce if reduced_before else relu_conv_norm
        self.older = adapt(older, c, True)
        self.newer = relu_conv_norm(newer, c, True)
        self.sources = [source for _, source in edges]
        self.ops = nn.ModuleList(
            operation(op, c, 2 if reduction and source < 2 else 1, derived=True)
            for op, source in edges
        )

    def forward(self, older: torch.Tensor, newer: torch.Tensor) -> torch.Tensor:
        states = [self.older(older), self.newer(newer)]
        for i in range(0, len(self.ops), 2):
            parts = [self.ops[j](states[self.sources[j]]) for j in (i, i + 1)]
            states.append(parts[0] + parts[1])
        return torch.cat(states[2:], 1)


class AuxiliaryHead(nn.Module):
    def __init__(self, c: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, padding=0, count_include_pad=False),
            nn.Conv2d(c, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.head = nn.Linear(768, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


class Network(nn.Module):
    """A derived network for CIFAR; the auxiliary head reads cell 2 L // 3."""

    def __init__(
        self, channels: int, cells: int, classes: int, normal: Edges, reduction: Edges
    ) -> None:
        super().__init__()
        c, older, newer = channels, 3 * channels, 3 * channels
        conv = nn.Conv2d(3, newer, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(newer))
        self.cells = nn.ModuleList()
        self.place = 2 * cells // 3
        reduced = False
        for i in range(cells):
            halves = i in (cells // 3, 2 * cells // 3)
            c = 2 * c if halves else c
            edges = reduction if halves else normal
            self.cells.append(DerivedCell(older, newer, c, halves, reduced, edges))
            older, newer, reduced = newer, len(edges) // 2 * c, halves
            if i == self.place:
                self.auxiliary = AuxiliaryHead(newer, classes)
        self.head = nn.Linear(newer, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        older = newer = self.stem(images)
        for i, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer)
            if i == self.place:
                auxiliary = self.auxiliary(newer)
        return self.head(newer.mean((2, 3))), auxiliary


def bench_operation(name: str, c: int, *, derived: bool) -> nn.Module:
    """Returns an operation of NAS-Bench-201; a bias where the normalisation has none."""
    if name == "none":
        return Zero(1)
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    size = int(name[-1])
    conv = nn.Conv2d(c, c, size, padding=size // 2, bias=not derived)
    return nn.Sequential(nn.ReLU(), conv, norm(c, derived))


class BenchCell(nn.Module):
    def __init__(self, c: int, ops: Sequence[str] | None) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList(
                bench_operation(op, c, derived=ops is not None)
                for op in (BENCH_OPS if ops is None else [ops[edge]])
            )
            for edge in range(len(BENCH_EDGES))
        )

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            nodes.append(
                sum(
                    w * op(nodes[BENCH_EDGES[edge][0]])
                    for edge in range(len(BENCH_EDGES))
                    if BENCH_EDGES[edge][1] == target
                    for w, op in zip(weights[edge], self.edges[edge], strict=True)
                )
            )
        return nodes[-1]


class BenchBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(F.avg_pool2d(x, 2))


class BenchNetwork(nn.Module):
    """NAS-Bench-201: the supernet, or the network of six operations."""

    def __init__(
        self, channels: int, cells: int, classes: int, ops: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(channels))
        self.stages, self.blocks = nn.ModuleList(), nn.ModuleList()
        for stage in range(3):
            c = channels * 2**stage
            if stage:
                self.blocks.append(BenchBlock(c // 2, c))
            self.stages.append(nn.ModuleList(BenchCell(c, ops) for _ in range(cells)))
        self.last = nn.BatchNorm2d(c)
        self.head = nn.Linear(c, classes)
        self.alphas = None
        if ops is None:
            self.alphas = torch.zeros(6, len(BENCH_OPS), requires_grad=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(6, 1, dtype=images.dtype)
        if self.alphas is not None:
            weights = F.softmax(self.alphas, -1)
        x = self.stem(images)
        for stage, cells in enumerate(self.stages):
            if stage:
                x = self.blocks[stage - 1](x)
            for cell in cells:
                x = cell(x, weights)
        return self.head(F.relu(self.last(x)).mean((2, 3)))
