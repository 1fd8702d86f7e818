from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.nas import CIFAR_AUXILIARY, Genotype, Network, counting
from skillearn_jax.nas.counting import count_macs, count_params, num_params
from skillearn_jax.nas.functional import Form, separable_conv
from skillearn_jax.nas.ops import SeparableOp
from skillearn_jax.nas.space import CellSpace
from skillearn_jax.nas.supernet import Supernet


def test_the_darts_supernet_has_its_published_size():
    space, images = CellSpace(), jnp.zeros((1, 32, 32, 3))
    net = Supernet(space, num_cells=8, channels=16, num_classes=10)

    def init(key):
        return net.init(key, images, space.init_alphas(key), train=False)

    assert num_params(jax.eval_shape(init, jax.random.key(0))) == 1_930_618


def test_macs_of_one_operation_by_hand():
    # Six pixels out of each convolution; 3 channels in, 4 out of the second one.
    op = SeparableOp("sep_conv_3x3", 4, stride=2)
    assert count_macs(op, (4, 6, 3)) == 6 * (9 * 3 + 3 * 3) + 6 * (9 * 3 + 3 * 4)


@pytest.mark.parametrize("form", get_args(Form))
def test_a_separable_convolution_counts_alike_however_it_is_computed(form):
    class Two(nn.Module):
        """Two branches of 3 onto 4 channels."""

        def __call__(self, x, train):
            return separable_conv(
                x, jnp.ones((5, 5, 3, 2)), jnp.ones((3, 8)), form=form
            )

    assert count_macs(Two(), (4, 6, 3)) == 2 * 24 * (25 * 3 + 3 * 4)


def test_the_auxiliary_head_costs_nothing_at_prediction():
    cell = (("skip_connect", 0), ("max_pool_3x3", 1))
    network = Network(Genotype(cell, cell), 1, 2, 3)
    with_head = network.clone(auxiliary=CIFAR_AUXILIARY)
    shape = (16, 16, 3)
    assert count_macs(with_head, shape) == count_macs(network, shape)
    assert count_params(with_head, shape) > count_params(network, shape)


def test_a_network_of_as_many_operations_as_the_limit_is_above_it(monkeypatch):
    class Pointwise(nn.Module):
        """Of one multiply-add a pixel."""

        def __call__(self, x, train):
            return x @ jnp.ones((1, 1))

    for limit, kept in ((224**2, False), (224**2 + 1, True)):
        monkeypatch.setattr(counting, "MOBILE_LIMIT", limit)
        found = counting.mobile_setting(Pointwise(), image_channels=1)
        assert found == {"macs": 224**2, "limit": limit, "kept": kept}


def test_num_params_counts_only_the_collection_of_parameters():
    tree = {"a": np.zeros((2, 3)), "b": jax.ShapeDtypeStruct((4,), jnp.float32)}
    assert num_params(tree) == 10
    assert num_params({"params": tree, "batch_stats": {"mean": np.zeros(7)}}) == 10
