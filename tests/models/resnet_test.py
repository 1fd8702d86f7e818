import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.models import ResNetEncoder, SmallEncoder, resnet_encoder
from skillearn_jax.models.resnet import ResidualBlock

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
TINY = ResNetEncoder((1, 1), "basic", width=4)


def shapes(model: nn.Module, side: int = 32):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False), KEY, images
    )


def size(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("depth", "features", "parameters"),
    [
        # torchvision's counts, less 1000 * (features + 1) for the classifier.
        (18, 512, 11_689_512 - 513_000),
        (34, 512, 21_797_672 - 513_000),
        (50, 2048, 25_557_032 - 2_049_000),
        (101, 2048, 44_549_160 - 2_049_000),
    ],
)
def test_parameter_counts_are_those_of_torchvision(depth, features, parameters):
    output, variables = shapes(resnet_encoder(depth))
    assert output.shape == (2, features)
    assert size(variables["params"]) == parameters


def test_the_count_of_resnet18_by_hand():
    def block(channels: int, width: int) -> int:
        convolutions = 9 * channels * width + 9 * width * width
        projection = channels * width + 2 * width if channels != width else 0
        return convolutions + 4 * width + projection

    stem = 49 * 3 * 64 + 2 * 64
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    by_hand = stem + sum(map(block, widths, widths[1:]))
    assert size(shapes(resnet_encoder(18))[1]["params"]) == by_hand


def test_a_cifar_stem_keeps_the_resolution():
    _, variables = shapes(resnet_encoder(18, stem="cifar"))
    assert variables["params"]["ConvNorm_0"]["kernel"].shape == (3, 3, 3, 64)
    block = ResidualBlock("bottleneck", 4, stride=2)
    assert shapes(block, side=7)[0].shape == (2, 4, 4, 16)


def test_initialisation_is_kaiming_normal_with_fan_out():
    params = ResNetEncoder((1,), width=64).init(
        KEY, jnp.zeros((1, 8, 8, 3)), train=False
    )["params"]
    kernel = params["ResidualBlock_0"]["ConvNorm_0"]["kernel"]
    # 36,864 draws: the standard error of a deviation is 0.4 %.
    np.testing.assert_allclose(np.std(kernel), (2 / (9 * 64)) ** 0.5, rtol=0.02)
    stem = params["ConvNorm_0"]
    np.testing.assert_allclose(
        np.std(stem["kernel"]), (2 / (49 * 64)) ** 0.5, rtol=0.05
    )
    np.testing.assert_array_equal(stem["BatchNorm_0"]["scale"], 1)
    np.testing.assert_array_equal(stem["BatchNorm_0"]["bias"], 0)


@pytest.mark.parametrize("model", [TINY, SmallEncoder((4, 8))], ids=["resnet", "small"])
def test_encoders_train_and_have_a_mixed_second_derivative(model):
    images = jax.random.normal(KEY, (4, 8, 8, 1))
    variables = model.init(KEY, images, train=False)
    stats = variables["batch_stats"]

    def loss_fn(params):
        features, moved = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.mean(features**2), moved

    @jax.jit
    def derivatives(params):
        (loss, moved), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        product = jax.jvp(jax.grad(lambda p: loss_fn(p)[0]), (params,), (grads,))[1]
        return loss, moved["batch_stats"], grads, product

    _, moved, grads, product = derivatives(variables["params"])
    for tree in (grads, product):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(tree))
    assert jax.tree.structure(moved) == jax.tree.structure(stats)


def test_small_encoder_pools_its_last_width():
    output, _ = shapes(SmallEncoder((4, 8, 16)), side=8)
    assert output.shape == (2, 16)


@pytest.mark.parametrize("option", ["block", "stem"])
def test_an_unknown_part_is_refused(option):
    with pytest.raises(InputError, match=f"{option}='wide'; it must be one of"):
        shapes(ResNetEncoder((1,), **{option: "wide"}), side=8)


def test_an_unknown_depth_is_refused():
    with pytest.raises(InputError, match="depth 20: choose one of 18, 34, 50, 101"):
        resnet_encoder(20)
