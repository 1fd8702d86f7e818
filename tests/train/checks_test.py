"""What a run refuses before it begins, and what it has no business with."""

import pytest

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.parallel import Devices
from skillearn_jax.train.checks import check, check_batches, check_images


def checked(config, devices=2):
    data = load("digits")
    check(config)
    check_images(config, data)
    check_batches(config, data, Devices.take(devices, "pmap"))


@pytest.mark.parametrize(
    ("key", "value", "more"),
    [
        ("evaluation.batch_size", 5000, {}),
        ("evaluation.rivals", ("/nowhere",), {}),
        ("evaluation.cutout", 8, {}),
        ("evaluation.auxiliary_weight", 0.4, {}),
        ("evaluation.channels", 3, {"evaluation.stem": "imagenet"}),
        ("evaluation.accumulate", 1000, {}),
        ("evaluation.weights.warmup_epochs", 9, {}),
    ],
)
def test_keys_of_an_evaluation_stop_no_search_without_one(
    tiny_baseline, key, value, more
):
    changes = {key: value, **more}
    with pytest.raises(InputError, match=f"--config.{key}"):
        checked(tiny_baseline(changes))
    checked(tiny_baseline({**changes, "evaluation.epochs": 0}))


@pytest.mark.parametrize(
    ("key", "fits", "too_much", "more"),
    [
        ("evaluation.batch_size", 1438, 1439, {}),
        ("data.batch_size", 717, 718, {}),
        # Three epochs of five whole batches.
        ("evaluation.accumulate", 15, 16, {"evaluation.epochs": 3}),
        ("evaluation.weights.warmup_epochs", 3, 4, {"evaluation.epochs": 3}),
        ("search.weights.warmup_epochs", 2, 3, {}),
        ("evaluation.weights.min_lr", 0.025, 0.0251, {}),
    ],
)
def test_what_just_fits_is_taken(tiny_baseline, key, fits, too_much, more):
    checked(tiny_baseline({**more, key: fits}), devices=1)
    with pytest.raises(InputError, match=f"--config.{key}"):
        checked(tiny_baseline({**more, key: too_much}), devices=1)


@pytest.mark.parametrize(
    ("key", "value", "default", "decider", "chosen", "other"),
    [
        ("hypergrad.per_set", True, False, "adjoint", "finite_difference", "exact"),
        ("hypergrad.radius", 0.1, 0.01, "adjoint", "finite_difference", "exact"),
        ("search.weights.decay", 0.9, 0.97, "schedule", "exponential", "linear"),
        ("search.weights.tail_epochs", 1, 0, "schedule", "linear", "cosine"),
        ("evaluation.weights.decay", 0.9, 0.97, "schedule", "exponential", "cosine"),
        ("tester.weights.decay", 0.9, 0.97, "schedule", "exponential", "cosine"),
        ("search.stop_skips", 1, 2, "stop", "skips", "epochs"),
        ("search.stop_skips", 1, 2, "stop", "skips", "ranking"),
        ("search.stop_ranking_epochs", 1, 10, "stop", "ranking", "skips"),
        ("lpt.curriculum.threshold", 0.5, 0.3, "active", True, False),
        ("lpt.curriculum.capacity_aware", True, False, "active", True, False),
    ],
)
def test_what_another_key_leaves_unread_is_refused(
    tiny, key, value, default, decider, chosen, other
):
    """It would do nothing, without a word."""
    group, _, _ = key.rpartition(".")
    # For `ranking`; otherwise any would do.
    ops = {"space.ops": ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")}
    checked(tiny({**ops, key: value, f"{group}.{decider}": chosen}))
    checked(tiny({**ops, key: default, f"{group}.{decider}": other}))
    with pytest.raises(InputError) as caught:
        checked(tiny({**ops, key: value, f"{group}.{decider}": other}))
    assert str(caught.value) == (
        f"config.{key} is {value!r}, but config.{group}.{decider} is {other!r}, with which "
        f"it is not read: set --config.{group}.{decider}={chosen}, or "
        f"--config.{key}={default}"
    )


def test_to_look_ahead_takes_a_momentum(tiny):
    changes = {"search.weights.nesterov": True, "search.weights.momentum": 0.1}
    checked(tiny(changes))
    message = r"nesterov is True, .*: set --config\.search\.weights\.momentum, or"
    with pytest.raises(InputError, match=message):
        checked(tiny({**changes, "search.weights.momentum": 0.0}))


def test_an_exponential_decay_has_no_least_rate(tiny_baseline):
    for group, default in (("search", 0.001), ("evaluation", 0.0)):
        weights = f"{group}.weights"
        changes = {f"{weights}.min_lr": 1e-4, f"{weights}.lr": 1e-5}
        with pytest.raises(InputError, match=rf"at most config.{weights}.lr, 1e-05: "):
            checked(tiny_baseline(changes))
        shape = {f"{weights}.schedule": "exponential"}
        with pytest.raises(InputError) as caught:
            checked(tiny_baseline({**changes, **shape}))
        assert str(caught.value) == (
            f"config.{weights}.min_lr is 0.0001, but config.{weights}.schedule is "
            "'exponential', with which it is not read: set "
            f"--config.{weights}.schedule=cosine, or --config.{weights}.min_lr={default}"
        )
        # Nobody has asked for the first, and the second is what it falls to by itself.
        for least in (default, 0.0):
            fine = {**changes, **shape, f"{weights}.min_lr": least}
            checked(tiny_baseline(fine))


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"space.num_nodes": 3}, 6),
        ({"space.ops": ("none", "max_pool_3x3")}, 0),
        ({"space.name": "nasbench201", "evaluation.drop_path": 0.0}, 6),
    ],
)
def test_a_rule_that_no_cell_could_meet_is_refused(tiny_baseline, changes, most):
    changes = {"search.stop": "skips", **changes}
    if most:
        check(tiny_baseline({**changes, "search.stop_skips": most}))
    too_many = {**changes, "search.stop_skips": most + 1}
    with pytest.raises(InputError, match=f"has {most} skip .*--config.search.stop="):
        check(tiny_baseline(too_many))


def test_a_bound_on_skips_wants_skips(tiny_baseline):
    ops, learnt = ("none", "sep_conv_3x3", "dil_conv_3x3"), {"search.max_skips": 0}
    check(tiny_baseline({**learnt, "space.ops": (*ops, "skip_connect")}))
    check(tiny_baseline({"space.ops": ops}))
    message = r"max_skips is 0, but .* skip_connect: set --config.search.max_skips=-1"
    with pytest.raises(InputError, match=message):
        check(tiny_baseline({**learnt, "space.ops": ops}))


def test_a_ranking_of_one_operation_is_refused(tiny_baseline):
    """Which stands from the first epoch on: it would end every search."""
    ops = ("none", "skip_connect", "sep_conv_3x3")
    rule = {"search.stop": "ranking"}
    with pytest.raises(
        InputError, match=r"ops has 1 of them: set --config.search.stop"
    ):
        check(tiny_baseline({**rule, "space.ops": ops}))
    check(tiny_baseline({**rule, "space.ops": (*ops, "dil_conv_3x3")}))


def test_a_search_over_one_operation_is_refused(tiny_baseline):
    """Its softmax is 1: no gradient ever reaches the logits."""
    one = {"space.ops": ("skip_connect",)}
    with pytest.raises(InputError, match=r"one operation.* more --config.space.ops,"):
        check(tiny_baseline(one))
    for has_a_choice in (
        {"space.edge_normalization": True},
        {"skill": "random", "search.warmup_epochs": 0},
        {"genotype": "random"},
    ):
        check(tiny_baseline({**one, **has_a_choice}))


@pytest.mark.parametrize("ops", [(), ("none",), ("skip_connect", "skip_connect")])
def test_operations_that_make_no_space_are_named_with_their_flag(tiny_baseline, ops):
    match = r"^config\.space\.ops must .*: set --config\.space\.ops$"
    with pytest.raises(InputError, match=match):
        check(tiny_baseline({"space.ops": ops}))
