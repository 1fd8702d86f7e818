"""The DARTS search step in PyTorch, to compare `search_step.py` with; one JSON line each.

    pip install torch
    python benchmarks/search_step_torch.py --cells=5 --channels=8 --batch=16

One module per operation and edge, as the original code has it: grouped convolutions, a
loop over edges (`torch_networks.py`). The second-order architecture gradient is the
original's finite difference, without momentum in the look-ahead. Compare ratios taken
one after the other on one machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch_networks import Supernet


def weight_gradient(net: Supernet, images: torch.Tensor, labels: torch.Tensor) -> None:
    torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.parameters()))


def architecture_gradient(
    net: Supernet, images: torch.Tensor, labels: torch.Tensor, rate: float = 0.025
) -> None:
    """Second order: look ahead, then a central difference of radius 0.01 / |v|."""
    weights = list(net.parameters())
    old = [w.detach().clone() for w in weights]

    def gradient(of: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        loss = F.cross_entropy(net(images), labels)
        # Two cells are both reduction cells: the other logits are not used.
        return torch.autograd.grad(loss, of, allow_unused=True)

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
