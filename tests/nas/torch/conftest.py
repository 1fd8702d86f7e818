"""Weights of one network copied into its twin in PyTorch, and the two compared."""

import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ATOL = {"float32": 1e-4, "float64": 1e-10}


@pytest.fixture(scope="session")
def twins(repo_root):
    """The module benchmarks/torch_networks.py, and `compare`."""
    torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")
    torch.set_num_threads(1)
    path = repo_root / "benchmarks" / "torch_networks.py"
    spec = importlib.util.spec_from_file_location("torch_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class ChannelsLast(torch.nn.Module):
        def __init__(self, inner, *args):
            super().__init__()
            self.inner, self.args = inner, args

        def forward(self, x):
            return self.inner(x.permute(0, 3, 1, 2), *self.args)

    return SimpleNamespace(
        torch=torch,
        nets=module,
        compare=compare,
        Links=Links,
        channels_last=ChannelsLast,
    )


@pytest.fixture(params=["float64", pytest.param("float32", marks=pytest.mark.long)])
def dtype(request):
    """Both precisions; JAX computes in it for the duration of the test."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


class Links(list):
    """Pairs `(part, tensor)`: which part of JAX's parameters a tensor of PyTorch holds.

    `part(params)` is an array in PyTorch's layout.
    """

    def add(self, part, tensor):
        self.append((part, tensor))

    def conv(self, path, module):
        self.add(lambda p: np.transpose(at(p, path), (3, 2, 0, 1)), module.weight)

    def norm(self, path, module):
        self.add(lambda p: at(p, [*path, "scale"]), module.weight)
        self.add(lambda p: at(p, [*path, "bias"]), module.bias)

    def linear(self, path, module):
        self.add(lambda p: at(p, [*path, "kernel"]).T, module.weight)
        self.add(lambda p: at(p, [*path, "bias"]), module.bias)

    def halving(self, path, module, edge=0):
        for i, conv in enumerate((module.even, module.odd)):
            self.add(
                lambda p, i=i: at(p, path)[i, :, edge].T[..., None, None], conv.weight
            )

    def inputs(self, path, cell, affine):
        """The two layers that bring a cell's inputs to its channels."""
        for name, module in (("older", cell.older), ("newer", cell.newer)):
            if hasattr(module, "even"):
                self.halving([*path, name, "kernel"], module)
                normalisation = module.norm
            else:
                self.conv([*path, name, "Conv_0", "kernel"], module[1])
                normalisation = module[2]
            if affine:
                self.norm([*path, name, "BatchNorm_0"], normalisation)

    def separable(self, path, module):
        """An operation of a derived network: groups of ReLU, two convolutions, norm."""
        for i in range(len(module) // 4):
            depthwise, pointwise, norm = module[4 * i + 1 : 4 * i + 4]
            self.add(
                lambda p, i=i: np.transpose(
                    at(p, [*path, f"depthwise_{i}"]), (2, 3, 0, 1)
                ),
                depthwise.weight,
            )
            self.add(
                lambda p, i=i: at(p, [*path, f"pointwise_{i}"]).T[..., None, None],
                pointwise.weight,
            )
            self.norm([*path, f"BatchNorm_{i}"], norm)


def at(tree, path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree)


def compare(torch, links, net, params, apply, others, dtype):
    """Compares outputs and gradients in all parameters and in `others`.

    Args:
        torch: the library.
        links: of all parameters.
        net: the module of PyTorch, whose forward pass takes the images.
        params: of JAX.
        apply: `(params, *values of others) -> outputs`, an array or several.
        others: pairs of an array of JAX and a tensor of PyTorch to be filled with it;
            the images come first and go to the module.
        dtype: name.
    """
    # No parameter on either side is left out.
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    assert size == sum(np.size(part(params)) for part, _ in links)
    assert {id(t) for _, t in links} == {id(t) for t in net.parameters()}
    # Drawn anew: a fresh scale is 1 and a fresh bias 0, which would hide them.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [
        jnp.asarray(leaf + 0.1 * rng.standard_normal(leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
    params = jax.tree.unflatten(tree, leaves)
    net.to(getattr(torch, dtype)).train()
    with torch.no_grad():
        for part, tensor in links:
            tensor.copy_(torch.tensor(part(params)))
    tensors = []
    for array, tensor in others:
        tensor.data = torch.tensor(np.asarray(array))
        tensor.requires_grad_(True)
        tensors.append(tensor)

    theirs = as_tuple(net(tensors[0]))
    factors = [rng.standard_normal(tuple(y.shape)) for y in theirs]
    sum(
        (y * torch.tensor(f, dtype=y.dtype)).sum()
        for y, f in zip(theirs, factors, strict=True)
    ).backward()

    def total(params, *values):
        ours = as_tuple(apply(params, *values))
        return sum(
            jnp.sum(y * jnp.asarray(f, y.dtype))
            for y, f in zip(ours, factors, strict=True)
        ), ours

    indices = tuple(range(1 + len(others)))
    grad = jax.jit(jax.value_and_grad(total, indices, has_aux=True))
    (_, ours), (by_params, *by_others) = grad(params, *(array for array, _ in others))
    for mine, yours in zip(ours, theirs, strict=True):
        close(mine, yours, dtype)
    for part, tensor in links:
        close(part(by_params), tensor.grad, dtype)
    for mine, tensor in zip(by_others, tensors, strict=True):
        close(mine, tensor.grad, dtype)


def as_tuple(outputs):
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def close(mine, yours, dtype):
    """Close in units of the largest entry: gradients may have any scale."""
    mine, yours = np.asarray(mine), yours.detach().numpy()
    assert mine.dtype == yours.dtype == dtype
    unit = max(1.0, np.abs(yours).max())
    np.testing.assert_allclose(mine / unit, yours / unit, rtol=0, atol=ATOL[dtype])
