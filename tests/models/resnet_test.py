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
    deviation = (2 / (9 * 64)) ** 0.5
    np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.02)
    assert np.abs(kernel).max() > 3.5 * deviation  # not cut
    stem = params["ConvNorm_0"]
    np.testing.assert_allclose(
        np.std(stem["kernel"]), (2 / (49 * 64)) ** 0.5, rtol=0.05
    )
    np.testing.assert_array_equal(stem["BatchNorm_0"]["scale"], 1)
    np.testing.assert_array_equal(stem["BatchNorm_0"]["bias"], 0)


def conv_norm(variables, x, stride, *path):
    """A convolution padded alike on all sides, as torch has it, and normalisation."""
    params, stats = variables["params"], variables["batch_stats"]
    for name in path:
        params, stats = params[name], stats[name]
    pad = params["kernel"].shape[0] // 2
    x = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    norm = {**params["BatchNorm_0"], **stats["BatchNorm_0"]}
    rows = {name: value.reshape(1, 1, 1, -1) for name, value in norm.items()}
    x = (x - rows["mean"]) / jnp.sqrt(rows["var"] + 1e-5)
    return x * rows["scale"] + rows["bias"]


def written_out(variables, images, layers, stem, pool):
    """Returns the features of a ResNet as torchvision has it.

    `layers` are the strides of the convolutions, block by block; `stem` that of the first.
    """

    x = jax.nn.relu(conv_norm(variables, images, stem, "ConvNorm_0"))
    if pool:
        edged = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        height, width = ((size + 1) // 2 for size in x.shape[1:3])
        windows = [
            edged[:, i : i + 2 * height : 2, j : j + 2 * width : 2][:, :height, :width]
            for i in range(3)
            for j in range(3)
        ]
        x = jnp.max(jnp.stack(windows), axis=0)
    for i, strides in enumerate(layers):
        block = f"ResidualBlock_{i}"
        y = x
        for j, stride in enumerate(strides):
            y = jax.nn.relu(y) if j else y
            y = conv_norm(variables, y, stride, block, f"ConvNorm_{j}")
        if x.shape != y.shape:
            last = f"ConvNorm_{len(strides)}"
            x = conv_norm(variables, x, max(strides), block, last)
        x = jax.nn.relu(x + y)
    return jnp.mean(x, (1, 2))


def drawn_variables(model, images):
    """Returns variables of the model in float64, statistics among them that are not plain."""
    shapes = jax.eval_shape(lambda x: model.init(KEY, x, train=False), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(
            0.3 + rng.random(x.shape) if x.ndim == 1 else rng.normal(size=x.shape)
        ),
        shapes,
    )


@pytest.mark.parametrize("side", [8, 11])
@pytest.mark.parametrize(
    ("block", "stem", "layers"),
    [
        ("basic", "imagenet", [(1, 1), (1, 1), (2, 1)]),
        ("bottleneck", "cifar", [(1, 1, 1), (1, 1, 1), (1, 2, 1)]),
    ],
)
def test_a_resnet_is_that_of_torchvision(x64, block, stem, layers, side):
    model = ResNetEncoder((2, 1), block, width=2, stem=stem)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, side, side + 2, 3)))
    variables = drawn_variables(model, images)
    large = stem == "imagenet"
    features = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    wanted = written_out(variables, images, layers, 2 if large else 1, large)
    np.testing.assert_allclose(features, wanted, rtol=1e-10, atol=1e-12)


def test_the_small_encoder_halves_after_its_first_layer(x64):
    model = SmallEncoder((2, 3, 4))
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 7, 1)))
    variables = drawn_variables(model, images)
    x = images
    for i in range(3):
        x = jax.nn.relu(conv_norm(variables, x, 2 if i else 1, f"ConvNorm_{i}"))
    features = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(features, jnp.mean(x, (1, 2)), rtol=1e-10)


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
