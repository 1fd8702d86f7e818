"""The DARTS search step in PyTorch, to compare `search_step.py` with; one JSON line each.

    pip install torch
    python benchmarks/search_step_torch.py --cells=5 --channels=8 --batch=16

Written for this benchmark from the published definitions, one module per operation and
edge, as the original code has it: grouped convolutions, a loop over edges. The second-order
architecture gradient is the original's finite difference, without momentum in the
look-ahead. Compare ratios taken one after the other on one machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

NODES = 4


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, affine=False)


def relu_conv_norm(inputs: int, outputs: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, norm(outputs))


def separable(channels: int, size: int, stride: int, dilation: int = 1) -> nn.Module:
    pad = dilation * (size - 1) // 2
    groups = {"groups": channels, "bias": False}
    depthwise = nn.Conv2d(channels, channels, size, stride, pad, dilation, **groups)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, pointwise, norm(channels))


class FactorizedReduce(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.0 * x[:, :, :: self.stride, :: self.stride]


class MixedOp(nn.Module):
    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        average = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        self.ops = nn.ModuleList(
            [
                Zero(stride),
                nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(c)),
                nn.Sequential(average, norm(c)),
                nn.Identity() if stride == 1 else FactorizedReduce(c, c),
                nn.Sequential(separable(c, 3, stride), separable(c, 3, 1)),
                nn.Sequential(separable(c, 5, stride), separable(c, 5, 1)),
                separable(c, 3, stride, 2),
                separable(c, 5, stride, 2),
            ]
        )

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))


class Cell(nn.Module):
    def __init__(
        self, older: int, newer: int, c: int, reduction: bool, reduced_before: bool
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.older = (FactorizedReduce if reduced_before else relu_conv_norm)(older, c)
        self.newer = relu_conv_norm(newer, c)
        self.edges = nn.ModuleList(
            MixedOp(c, 2 if reduction and source < 2 else 1)
            for node in range(NODES)
            for source in range(2 + node)
        )

    def forward(
        self, older: torch.Tensor, newer: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        states = [self.older(older), self.newer(newer)]
        first = 0
        for _ in range(NODES):
            edges = zip(self.edges[first:], weights[first:], states, strict=False)
            first += len(states)
            states.append(sum(edge(x, w) for edge, w, x in edges))
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    def __init__(self, channels: int, cells: int, classes: int = 10) -> None:
        super().__init__()
        c, older, newer = channels, 3 * channels, 3 * channels
        conv = nn.Conv2d(3, newer, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(newer))
        self.cells = nn.ModuleList()
        reduced = False
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            c = 2 * c if reduction else c
            self.cells.append(Cell(older, newer, c, reduction, reduced))
            older, newer, reduced = newer, NODES * c, reduction
        self.head = nn.Linear(newer, classes)
        edges = len(self.cells[0].edges)
        self.alphas = [torch.zeros(edges, 8, requires_grad=True) for _ in range(2)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        older = newer = self.stem(images)
        for cell in self.cells:
            weights = F.softmax(self.alphas[int(cell.reduction)], -1)
            older, newer = newer, cell(older, newer, weights)
        return self.head(newer.mean((2, 3)))


def weight_gradient(net: Supernet, images: torch.Tensor, labels: torch.Tensor) -> None:
    torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.parameters()))


def architecture_gradient(
    net: Supernet, images: torch.Tensor, labels: torch.Tensor, rate: float = 0.025
) -> None:
    """Second order: look ahead, then a central difference of radius 0.01 / |v|."""
    weights = list(net.parameters())
    old = [w.detach().clone() for w in weights]

    def gradient(of: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(net(images), labels), of)

    def place(direction: tuple[torch.Tensor, ...], factor: float) -> None:
        with torch.no_grad():
            for w, start, d in zip(weights, old, direction, strict=True):
                w.copy_(start + factor * d)

    place(gradient(weights), -rate)
    v = gradient(weights + net.alphas)[: len(weights)]
    radius = 0.01 / torch.cat([d.reshape(-1) for d in v]).norm().item()
    place(v, radius)
    gradient(net.alphas)
    place(v, -radius)
    gradient(net.alphas)
    place(v, 0.0)


def measure(call: Callable[[], None], repeats: int) -> dict[str, float]:
    """Returns the medians of wall and processor seconds, after one call."""
    call()
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {
        "step_s": round(statistics.median(wall), 4),
        "cpu_s": round(statistics.median(cpu), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    net = Supernet(args.channels, args.cells)
    images = torch.randn(args.batch, 3, 32, 32)
    labels = torch.arange(args.batch) % 10
    for part, call in (("weights", weight_gradient), ("alphas", architecture_gradient)):
        times = measure(lambda c=call: c(net, images, labels), args.repeats)
        print(
            json.dumps(
                {"part": part, **vars(args), **times, "torch": torch.__version__}
            )
        )


if __name__ == "__main__":
    main()
