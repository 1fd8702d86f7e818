import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.nas.counting import count_macs, num_params
from skillearn_jax.nas.known import KNOWN_GENOTYPES
from skillearn_jax.nas.network import Network
from skillearn_jax.nas.ops import SeparableOp
from skillearn_jax.nas.space import CellSpace
from skillearn_jax.nas.supernet import Supernet


@pytest.mark.parametrize(
    ("name", "num_classes", "params", "macs"),
    [
        ("DARTS_V1", 10, 3_169_414, 501.0),
        ("DARTS_V2", 10, 3_349_342, 528.4),
        ("DARTS_V2", 100, 3_401_272, 528.4),
    ],
)
def test_published_networks_have_their_published_size(name, num_classes, params, macs):
    network = Network(KNOWN_GENOTYPES[name], 20, 36, num_classes)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(
        lambda key: network.init(key, images, train=False), jax.random.key(0)
    )
    assert num_params(variables) == params
    np.testing.assert_allclose(
        count_macs(network, (32, 32, 3)) / 1e6, macs, atol=0.06 + num_classes / 1e3
    )


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


def test_num_params_counts_only_the_collection_of_parameters():
    tree = {"a": np.zeros((2, 3)), "b": jax.ShapeDtypeStruct((4,), jnp.float32)}
    assert num_params(tree) == 10
    assert num_params({"params": tree, "batch_stats": {"mean": np.zeros(7)}}) == 10
