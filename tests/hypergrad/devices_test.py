"""The step over 8 devices against the same step on one device with the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FirstOrder,
    FixedPoint,
    Neumann,
    one_step,
    unroll,
)

DEVICES, PER_DEVICE = 8, 2
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(0.1),
    optax.add_decayed_weights(0.1),
    optax.sgd(0.5, momentum=0.9),
)


def under_pmap(function):
    """Returns `(replicated, batch) -> outputs: [8, ...]` under pmap."""

    def of(replicated, batch):
        shards = jax.tree.map(
            lambda leaf: leaf.reshape(DEVICES, PER_DEVICE, *leaf.shape[1:]), batch
        )
        return jax.pmap(function, axis_name="d", in_axes=(None, 0))(replicated, shards)

    return of


def under_shard_map(function):
    """Returns `(replicated, batch) -> outputs: [8, ...]` under shard_map."""
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))

    def stacked(replicated, batch):
        outputs = function(replicated, batch)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], outputs)

    return jax.jit(
        jax.shard_map(
            stacked,
            mesh=mesh,
            in_specs=(P(), P("d")),
            out_specs=P("d"),
            check_vma=False,
        )
    )


MAPPED = pytest.mark.parametrize("mapped", [under_pmap, under_shard_map])


@pytest.fixture
def assert_equal_on_each_device(assert_close):
    """`(got: [8, ...], want, rtol)`: every device holds the single device's value."""

    def check(got, want, rtol=1e-12):
        stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * DEVICES), want)
        assert_close(got, stacked, rtol)

    return check


def stage_loss(w, reads, x, y):
    hidden = jnp.tanh(x @ w["in"]) * jax.nn.softmax(reads["a"])[None]
    error = (hidden @ w["out"] - y) ** 2
    decay = jnp.sum(jnp.exp(reads["decay"]) * w["in"] ** 2)
    return jnp.mean(error) + 0.1 * decay


@pytest.fixture
def chained():
    """What is replicated and what is split of a two-stage chain with pseudo-labels."""
    rng = np.random.default_rng(12)

    def weights():
        return {
            "in": jnp.asarray(rng.normal(size=(3, 4))),
            "out": jnp.asarray(rng.normal(size=4)),
        }

    first, second = weights(), weights()

    def state(w):
        return jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), OPTIMIZER.init(w)
        )

    replicated = {
        "first": first,
        "second": second,
        "reads": {
            "a": jnp.asarray(rng.normal(size=4)),
            "decay": jnp.asarray(rng.normal(size=(3, 4))),
        },
        "states": (state(first), state(second)),
    }
    n = DEVICES * PER_DEVICE
    # Every device sees data of another size and place.
    spread = np.linspace(0.2, 3.0, n)
    batch = {
        "x": jnp.asarray(rng.normal(size=(n, 3, 3)) * spread[:, None, None]),
        "y": jnp.asarray(rng.normal(size=(n, 2)) + spread[:, None]),
    }
    return replicated, batch


def chain_hypergrad(adjoint, axis_name=None):
    """Returns `(replicated, batch) -> (hypergradient, losses, results)`."""

    def loss(w, reads, x, y):
        return stage_loss(w, reads, x, y), jnp.tanh(x @ w["in"]) @ w["out"]

    step = one_step(loss, OPTIMIZER, adjoint, axis_name)

    def objective(replicated, batch):
        reads, (first_state, second_state) = replicated["reads"], replicated["states"]
        x, y = batch["x"], batch["y"]
        taught, info = step(replicated["first"], reads, first_state, x[:, 0], y[:, 0])
        labels = jnp.tanh(x[:, 1] @ taught["in"]) @ taught["out"]
        learnt, second_info = step(
            replicated["second"], reads, second_state, x[:, 1], labels
        )
        value = stage_loss(learnt, reads, x[:, 2], y[:, 1])
        # The cotangent of the first loss differs per device, that of the second does not.
        value += info.loss * jnp.mean(y) + jnp.sin(second_info.loss)
        value += jnp.mean(
            info.aux * y[:, 0]
        )  # the auxiliary output is the device's own
        value += optax.tree.norm(info.opt_state, squared=True) * jnp.mean(y)
        value += optax.tree.norm(second_info.opt_state, squared=True)
        return value, ((info.loss, second_info.loss), (taught, learnt))

    def of(replicated, batch):
        gradient, (losses, results) = jax.grad(objective, has_aux=True)(
            replicated, batch
        )
        if axis_name is not None:
            gradient = jax.lax.pmean(gradient, axis_name)  # once, at the outside
        return gradient, losses, results

    return of


@MAPPED
@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()], ids=repr)
def test_a_chain_over_devices_equals_one_device(
    adjoint, mapped, chained, assert_equal_on_each_device
):
    """Gradients, losses and results; info.loss is the global mean on every device."""
    want = jax.jit(chain_hypergrad(Autodiff()))(*chained)
    got = mapped(chain_hypergrad(adjoint, "d"))(*chained)
    assert_equal_on_each_device(got, want)


@pytest.mark.parametrize(
    ("adjoint", "rtol"),
    [
        # Two chained differences of sums in another order: epsilon / radius, twice.
        (FiniteDifference(), 1e-9),
        (FirstOrder("current"), 1e-12),
        (FirstOrder("lookahead"), 1e-12),
    ],
    ids=repr,
)
def test_the_approximations_over_devices_equal_one_device(
    adjoint, rtol, chained, assert_equal_on_each_device
):
    want = jax.jit(chain_hypergrad(adjoint))(*chained)
    got = under_shard_map(chain_hypergrad(adjoint, "d"))(*chained)
    assert_equal_on_each_device(got, want, rtol)


@pytest.mark.parametrize(
    "adjoint", [Neumann(3, 0.1), ConjugateGradient(2, 0.1), FixedPoint(3)], ids=repr
)
def test_solutions_over_devices_equal_those_on_one(
    adjoint, assert_equal_on_each_device
):
    """Two steps to a point, its derivative, and how well the equation was solved."""
    rng = np.random.default_rng(15)
    w, a = jnp.asarray(rng.normal(size=(2, 3)))
    spread = np.linspace(0.2, 3.0, DEVICES)[:, None, None, None]
    # On each device two batches for the steps and one for the objective.
    x = jnp.asarray(rng.normal(size=(DEVICES, 3, PER_DEVICE, 3)) * spread)

    def loss(w, a, x):
        return jnp.mean(jnp.sin(x @ w) * (x @ a)) + jnp.sum(w**2)

    def hypergrad(x, axis_name=None):
        step = unroll(loss, OPTIMIZER, 2, adjoint, axis_name)

        def objective(a, probe):
            new, _ = step(w, a, OPTIMIZER.init(w), x[:2], probe=probe)
            return jnp.mean(jnp.tanh(x[2] @ new))

        gradient = jax.grad(objective, (0, 1))(a, 0.0)
        return gradient if axis_name is None else jax.lax.pmean(gradient, "d")

    want = jax.jit(hypergrad)(jnp.concatenate(x, axis=1))
    mapped = jax.vmap(lambda x: hypergrad(x, "d"), axis_name="d")
    assert_equal_on_each_device(jax.jit(mapped)(x), want, 1e-10)


@pytest.mark.parametrize("at", ["current", "lookahead"])
def test_the_loss_of_a_step_without_a_derivative_is_the_mean_too(at):
    sgd = optax.sgd(0.1)
    step = one_step(lambda w, a, x: w * a * x, sgd, FirstOrder(at), "d")
    losses = jax.vmap(lambda x: step(2.0, 3.0, sgd.init(2.0), x)[1].loss, axis_name="d")
    np.testing.assert_array_equal(losses(jnp.array([1.0, 5.0])), [18, 18])


def test_the_clip_of_the_chain_is_active(chained):
    """Guards the tests above: without a nonlinear optimiser they would show less."""
    replicated, batch = chained
    gradient = jax.jit(jax.grad(stage_loss))(
        replicated["first"], replicated["reads"], batch["x"][:, 0], batch["y"][:, 0]
    )
    assert optax.tree.norm(gradient) > 1


@MAPPED
def test_the_cotangent_is_averaged_before_the_product(
    mapped, assert_close, assert_equal_on_each_device
):
    """mean(H_i v_i) is not mean(H) mean(v): the two differ by much on this data."""
    rng = np.random.default_rng(13)
    n = DEVICES * PER_DEVICE
    spread = np.linspace(0.2, 3.0, n)[:, None]
    w, a = jnp.asarray(rng.normal(size=(2, 3)))
    x = jnp.asarray(rng.normal(size=(n, 3)) * spread)
    z = jnp.asarray(rng.normal(size=(n, 3)) * spread)
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
    state = optimizer.init(w)

    def loss(w, a, x):
        return jnp.mean(jnp.sin(x @ w) * (x @ a) ** 2)

    def target(w, z):
        return jnp.mean(jnp.tanh(z @ w))

    def of(axis_name=None):
        step = one_step(loss, optimizer, axis_name=axis_name)

        def hypergrad(a, batch):
            x, z = batch
            gradient = jax.grad(lambda a: target(step(w, a, state, x)[0], z))(a)
            return gradient if axis_name is None else jax.lax.pmean(gradient, "d")

        return hypergrad

    want = jax.jit(of())(a, (x, z))
    assert_equal_on_each_device(mapped(of("d"))(a, (x, z)), want)

    def phi(g):
        return optax.apply_updates(w, optimizer.update(g, state, w)[0])

    @jax.jit
    def by_hand(x, z):
        """Returns mean(H_i mean(v)) and mean(H_i v_i)."""
        x, z = (part.reshape(DEVICES, PER_DEVICE, 3) for part in (x, z))
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, None, 0))
        w_new, phi_vjp = jax.vjp(phi, gradients(w, a, x).mean(axis=0))
        v = jax.vmap(jax.grad(target), in_axes=(None, 0))(w_new, z)
        mean_v = jnp.broadcast_to(v.mean(axis=0), v.shape)

        def mean_of_products(v):
            u = jax.vmap(lambda v: phi_vjp(v)[0])(v)
            return jax.vjp(lambda a: gradients(w, a, x), a)[1](u)[0] / DEVICES

        return mean_of_products(mean_v), mean_of_products(v)

    right, naive = by_hand(x, z)
    assert_close(right, want)
    assert jnp.linalg.norm(naive - want) > 0.1 * jnp.linalg.norm(want)


@MAPPED
@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()], ids=repr)
def test_a_ratio_over_the_batch(adjoint, mapped, assert_equal_on_each_device):
    """Numerator and denominator are summed over devices inside the loss."""
    rng = np.random.default_rng(14)
    n = DEVICES * PER_DEVICE
    w, a = jnp.asarray(rng.normal(size=(2, 3)))
    x = jnp.asarray(rng.normal(size=(n, 3)) * np.linspace(0.2, 3.0, n)[:, None])
    state = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.3), OPTIMIZER.init(w))

    def of(axis_name, adjoint):
        def ratio(w, a, x):
            selected = jax.nn.sigmoid(x @ a)
            sums = jnp.sum(selected * jnp.sin(x @ w)), jnp.sum(selected)
            if axis_name is not None:
                sums = jax.lax.psum(sums, axis_name)
            return sums[0] / sums[1]

        step = one_step(ratio, OPTIMIZER, adjoint, axis_name)

        def hypergrad(args, x):
            def objective(args):
                w, a, state = args
                w, info = step(w, a, state, x)
                w, last = step(w, a, info.opt_state, jnp.cos(x))
                value = ratio(w, a, x) + info.loss**2
                return value, (info.loss, last.loss)

            gradient, losses = jax.grad(objective, has_aux=True)(args)
            if axis_name is not None:
                gradient = jax.lax.pmean(gradient, axis_name)
            return gradient, losses

        return hypergrad

    args = (w, a, state), x
    want = jax.jit(of(None, Autodiff()))(*args)
    assert_equal_on_each_device(mapped(of("d", adjoint))(*args), want)
