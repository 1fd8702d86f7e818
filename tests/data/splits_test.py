import numpy as np
import pytest

from skillearn_jax.data import Examples, balanced_subset, halves
from skillearn_jax.data.splits import stratified_mask
from skillearn_jax.errors import InputError


def examples(labels) -> Examples:
    number = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Examples(image=number, label=np.asarray(labels, np.int32))


def numbers(part: Examples) -> list[int]:
    return part.image.ravel().tolist()


def test_halves_cut_by_index():
    first, second = halves(examples([0, 1, 0, 1, 0]))
    assert numbers(first) == [0, 1]
    assert numbers(second) == [2, 3, 4]
    first, _ = halves(examples([0, 1, 0, 1, 0]), 0.59)  # of five 2.95, rounded down
    assert numbers(first) == [0, 1]
    first, second = halves(examples([0, 1] * 50), 0.29)
    assert (first.size, second.size) == (29, 71)


def test_stratified_halves_cut_each_class_by_index():
    first, second = halves(examples([0, 1, 0, 0, 1, 0]), stratified=True)
    assert numbers(first) == [0, 1, 2]
    assert numbers(second) == [3, 4, 5]
    labels = np.repeat([0, 1, 2], [8, 40, 16])
    first, second = halves(examples(labels), 0.25, stratified=True)
    assert np.bincount(first.label).tolist() == [2, 10, 4]
    assert sorted(numbers(first) + numbers(second)) == list(range(64))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0, 2.0, -1.0])
def test_an_empty_part_is_refused(fraction):
    with pytest.raises(InputError, match=rf"{fraction} .*--config.data.train_fraction"):
        halves(examples([0, 1, 2]), fraction)


def test_a_cut_by_index_that_parts_the_classes_is_refused():
    by_class = examples([0, 0, 0, 1, 1, 1, 2, 2, 2])
    message = "has no example of class 0: set --config.data.stratified=True"
    with pytest.raises(InputError, match=message):
        halves(by_class)
    with pytest.raises(InputError, match="class 2"):
        halves(examples([0, 1, 0, 1, 0, 1, 2]), 0.6)
    first, second = halves(by_class, stratified=True)
    assert set(first.label) == set(second.label) == {0, 1, 2}
    # A class of one example cannot be in both parts, however they are cut.
    first, _ = halves(examples([0, 1, 0]), stratified=True)
    assert numbers(first) == [0, 1]


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([0] * 40 + [1] * 4, 0.9, "of class 1, which has 4 in all, .* fraction 0.9: "),
        ([0] * 40 + [1] * 4, 0.1, "of class 1, which has 4 in all, .* fraction 0.1: "),
        ([0] * 40 + [1], 0.4, "of class 1, which has 1 in all, .* fraction 0.4: "),
    ],
)
def test_a_stratified_cut_that_rounds_a_class_away_is_refused(
    labels, fraction, message
):
    with pytest.raises(InputError, match=message + "set another --config.data.train"):
        halves(examples(labels), fraction, stratified=True)


def test_balanced_subset_keeps_the_first_of_each_class():
    subset = balanced_subset(examples([0, 0, 1, 0, 1, 1, 0]), 2)
    assert numbers(subset) == [0, 1, 2, 4]


def test_balanced_subsets_may_follow_each_other():
    given = examples([0, 0, 1, 0, 1, 1, 0])
    assert numbers(balanced_subset(given, 1, after=2)) == [3, 5]
    assert numbers(balanced_subset(given, 2, after=1)) == [1, 3, 4, 5]


def test_a_large_set_is_cut_in_its_order():
    """Where sorts differ, which are alike on few examples."""
    labels = np.random.default_rng(0).integers(0, 3, 5000, np.int32)
    given = Examples(np.arange(5000).reshape(-1, 1, 1, 1), labels)
    wanted = [np.flatnonzero(labels == c)[5:25] for c in range(3)]
    found = numbers(balanced_subset(given, 20, after=5))
    assert found == sorted(np.concatenate(wanted).tolist())


@pytest.mark.parametrize(("per_class", "after"), [(0, 0), (3, 0), (1, 2), (1, -1)])
def test_a_subset_larger_than_the_smallest_class_is_refused(per_class, after):
    left_out = f", after {after} that are left out," if after else ""
    message = (
        f"^{per_class} examples of each class{left_out} were .* from 1 to 2, .*--c"
    )
    with pytest.raises(InputError, match=message):
        balanced_subset(examples([0, 0, 0, 1, 1]), per_class, after)


@pytest.mark.parametrize(("fraction", "quota"), [(0.3, 1), (0.375, 2), (0.4, 2)])
def test_a_share_of_a_class_is_rounded_to_the_nearest(fraction, quota):
    """1.2, 1.5 and 1.6 of four."""
    mask = stratified_mask(np.repeat([0, 1], 4), fraction)
    assert mask.reshape(2, 4).sum(axis=1).tolist() == [quota, quota]
