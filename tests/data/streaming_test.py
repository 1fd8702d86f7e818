import dataclasses
import functools
import itertools
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from skillearn_jax.data import streaming as streaming_module
from skillearn_jax.data import subset
from skillearn_jax.data.augment import Augmentation
from skillearn_jax.data.crops import ATTEMPTS, random_box
from skillearn_jax.data.damage import DamageLog, check_labels, without_damage
from skillearn_jax.data.delivered import Delivered
from skillearn_jax.data.jpeg import decode, middle, resized_box
from skillearn_jax.data.records import HostBatch, Reading, crop_draws
from skillearn_jax.data.streaming import StreamingData, open_streaming
from skillearn_jax.data.streaming_grain import ArrayRecordReader
from skillearn_jax.errors import InputError

TRAIN, HELDOUT, SHARE = 50, 21, 8
FORMATS = ("tfrecord", "array_record")


def prepare(prepare_photos, folder, file_format, damaged=()):
    counts = {"train": TRAIN, "validation": HELDOUT}
    return prepare_photos(folder, file_format, counts, 1000, damaged)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, prepare_photos):
    """Returns a function that prepares a format once."""

    @functools.cache
    def folder(file_format):
        return prepare(prepare_photos, tmp_path_factory.mktemp("photos"), file_format)

    return folder


@pytest.fixture(params=FORMATS)
def data_dir(request, prepared):
    return prepared(request.param)


def streaming(data_dir, batch_size=SHARE, max_damaged=0, **options):
    options = {"image_size": 16, "shorter_side": 20, **options}
    reading = Reading("photos", data_dir, batch_size, **options)
    return open_streaming(reading, max_damaged=max_damaged)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


@jax.jit
def drawn(delivered, key, step):
    return delivered.draw(key, step, lambda index: index)


def training(data, step=0, place=jax.device_put):
    """Yields the training batches as a step draws them out of what is delivered."""
    key = jax.random.key(data.reader.reading.seed)
    for at, delivered in enumerate(data.deliveries(step, place), start=step):
        yield drawn(delivered, key, at)


def indices(batches):
    return np.concatenate([np.asarray(batch["index"]) for batch in batches]).tolist()


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert set(batch) == set(other)
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name])


def test_epochs_repeat_no_example_and_a_run_is_resumed_bit_for_bit(data_dir):
    data = streaming(data_dir)
    assert data.steps_per_epoch == 6
    batches = take(training(data), 14)
    first, second = (indices(batches[6 * i : 6 * i + 6]) for i in range(2))
    for epoch in (first, second):
        assert len(set(epoch)) == 48
        assert set(epoch) <= set(range(TRAIN))
    assert first != second
    assert first != sorted(first)
    # In the middle of the second epoch, in another process as it were.
    resumed = take(training(streaming(data_dir), 9), 5)
    assert_same(batches[9:], resumed)
    assert indices(take(training(streaming(data_dir, seed=6)), 6)) != first


def test_the_global_seed_of_tensorflow_changes_nothing(prepared):
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    data = streaming(prepared("tfrecord"))
    before = indices(take(training(data), 2))
    tf.random.set_seed(7)
    assert indices(take(training(data), 2)) == before


def test_a_training_batch_holds_what_it_says(data_dir):
    (batch,) = take(training(streaming(data_dir)), 1)
    assert batch["image"].shape == (SHARE, 16, 16, 3)
    assert isinstance(batch["image"], jax.Array)
    assert {k: v.dtype.name for k, v in batch.items()} == {
        "image": "float32",
        "label": "int32",
        "index": "int32",
    }
    # In range of normalised pixels, and of all colours.
    assert float(abs(batch["image"]).max()) < 3
    assert float(batch["image"].std()) > 0.3


def test_processes_share_an_epoch(data_dir):
    epochs = []
    for process in range(3):
        data = streaming(data_dir, 9, process=process, num_processes=3)
        assert data.steps_per_epoch == 5
        epochs.append(indices(take(training(data), 5)))
    assert [len(epoch) for epoch in epochs] == [15] * 3
    assert len(set(itertools.chain(*epochs))) == 45


def test_the_order_of_array_record_is_that_of_one_process(prepared):
    data_dir = prepared("array_record")
    alone = take(training(streaming(data_dir, 12), 3), 2)
    parts = [
        take(training(streaming(data_dir, 12, process=i, num_processes=3), 3), 2)
        for i in range(3)
    ]
    for step, batch in enumerate(alone):
        joined = {
            name: np.concatenate([np.asarray(part[step][name]) for part in parts])
            for name in batch
        }
        np.testing.assert_allclose(joined.pop("image"), batch["image"], atol=1e-5)
        assert_same([joined], [{name: batch[name] for name in joined}])


@pytest.mark.parametrize(("batch_size", "processes"), [(SHARE, 1), (12, 3), (48, 3)])
def test_evaluation_weighs_every_image_once(data_dir, batch_size, processes):
    whole = list(streaming(data_dir).reader.heldout())
    # What a network would be wrong about: a function of pixels and labels.
    mean = np.concatenate([batch.image for batch in whole]).mean((1, 2, 3)) / 255
    label = np.concatenate([batch.label for batch in whole])
    assert sorted(label) == list(range(HELDOUT))
    total = weight = 0.0
    steps, seen = [], []
    for process in range(processes):
        data = streaming(data_dir, batch_size, process=process, num_processes=processes)
        batches = list(data.eval_batches())
        steps.append(len(batches))
        for batch in batches:
            assert batch["image"].shape == (batch_size // processes, 16, 16, 3)
            image = np.asarray(batch["image"]) * data.std + data.mean
            total += (batch["weight"] * (image.mean((1, 2, 3)) + batch["label"])).sum()
            weight += batch["weight"].sum()
            seen += np.asarray(batch["index"])[np.asarray(batch["weight"]) > 0].tolist()
    assert len(set(steps)) == 1
    assert weight == HELDOUT
    assert sorted(seen) == list(range(HELDOUT))
    np.testing.assert_allclose(total / weight, (mean + label).mean(), rtol=1e-6)


def test_batches_are_split_over_devices(data_dir):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), "devices")
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    plain, split = streaming(data_dir), streaming(data_dir)
    put = {plain: jax.device_put, split: lambda batch: jax.device_put(batch, rows)}
    for kind in (training, StreamingData.eval_batches):
        one, several = (take(kind(data, place=put[data]), 3)[-1] for data in put)
        assert len(several["image"].sharding.device_set) == 4
        for name, array in one.items():
            np.testing.assert_allclose(several[name], array, atol=1e-5)


def test_both_formats_give_the_same_images_in_evaluation(prepared):
    read = {name: list(streaming(prepared(name)).reader.heldout()) for name in FORMATS}
    for ours, theirs in zip(*read.values(), strict=True):
        assert ours.name == theirs.name
        for field in ("label", "index", "intact"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        # Sums in another order, rounded to whole levels.
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1


def test_training_images_are_the_drawn_boxes(prepared, photo):
    data = streaming(prepared("array_record"))
    batch = take(data.reader.train(7), 1)[0]
    for i, name in enumerate(batch.name):
        number = int(name.removeprefix("train_").removesuffix(".JPEG"))
        image = decode(photo(1000 + number))
        draws = crop_draws(0, 7 // 6, int(batch.index[i]))
        box = tuple(int(x) for x in random_box(*image.shape[:2], draws))
        np.testing.assert_array_equal(batch.image[i], resized_box(image, box, (16, 16)))
        assert batch.label[i] == number


def test_tfrecords_are_cut_to_the_boxes_of_the_settings(prepared, photo):
    """In two epochs, of 6 steps: the draws are of the seed, the epoch and the example."""
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    data = streaming(prepared("tfrecord"), seed=3, least_area=0.6)
    for step in (5, 7):
        batch = take(data.reader.train(step), 1)[0]
        for i, name in enumerate(batch.name):
            number = int(name.removeprefix("train_").removesuffix(".JPEG"))
            assert batch.label[i] == number
            image = decode(photo(1000 + number))
            key = tf.constant([3, step // 6], tf.int64)
            draws = tf.random.stateless_uniform(
                (4, ATTEMPTS),
                tf.random.fold_in(key, tf.constant(batch.index[i], tf.int64)),
                dtype=tf.float64,
            )
            box = random_box(*image.shape[:2], draws.numpy(), (0.6, 1.0))
            top, left, height, width = map(int, box)
            part = image[top : top + height, left : left + width]
            expected = tf.image.resize(part, (16, 16)).numpy()
            # Other decoders, and other neighbours at the edges of a box.
            assert np.abs(batch.image[i] - expected).mean() < 2


def test_batches_are_placed_two_steps_ahead(data_dir):
    placed = []
    deliveries = streaming(data_dir).deliveries(
        place=lambda batch: placed.append(batch) or batch
    )
    assert next(deliveries) is placed[0]
    assert len(placed) == 3
    assert next(deliveries) is placed[1]
    assert len(placed) == 4


def test_reading_in_another_way_counts_no_damage_twice(
    tmp_path, caplog, prepare_photos
):
    folder = prepare(prepare_photos, tmp_path, "array_record", ("train_3.JPEG",))
    data = streaming(folder, 25, max_damaged=1)
    for seed in range(2):
        take(data.reread(seed=seed).deliveries(), 2)
    (name,) = data.damage.names
    assert name.endswith("(train_3.JPEG)")
    assert caplog.text.count("does not decode") == 1


def test_a_split_may_be_a_part(data_dir):
    data = streaming(data_dir, 4, train_split="train[50%:]")
    epoch = indices(take(training(data), 6))
    assert len(set(epoch)) == 24
    assert set(epoch) <= set(range(25))


@pytest.mark.parametrize("split", ["[:1%]", "[7:7]"])
def test_an_empty_part_of_a_split_is_refused(data_dir, split):
    for key, name in (("train_split", "train"), ("heldout_split", "validation")):
        message = rf"'{name}.* holds no example: set --config\.data\.stream\.{key}"
        with pytest.raises(InputError, match=message):
            streaming(data_dir, **{key: name + split})


def test_a_process_may_be_left_without_a_held_out_image(data_dir):
    weights = []
    for process in range(2):
        options = {"process": process, "num_processes": 2}
        data = streaming(data_dir, heldout_split="validation[:1]", **options)
        weights += [float(batch["weight"].sum()) for batch in data.eval_batches()]
    assert sorted(weights) == [0, 1]


def test_a_part_of_a_split_holds_its_own_images(data_dir):
    """In the order of the files, and in one file from its middle on."""
    whole = list(streaming(data_dir).reader.heldout())
    labels = np.concatenate([batch.label for batch in whole]).tolist()
    for first, last in ((0, 5), (5, 9), (3, HELDOUT)):
        part = streaming(data_dir, heldout_split=f"validation[{first}:{last}]")
        found = list(part.reader.heldout())
        assert np.concatenate([b.label for b in found]).tolist() == labels[first:last]
        index = np.concatenate([batch.index for batch in found])
        assert index.tolist() == list(range(last - first))


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_images_are_named_counted_and_too_many_an_error(
    tmp_path, caplog, prepare_photos, file_format
):
    damaged = ("train_3.JPEG", "train_40.JPEG", "validation_2.JPEG")
    folder = prepare(prepare_photos, tmp_path, file_format, damaged)
    data = streaming(folder, 25, max_damaged=3)
    batches = take(training(data), 4)
    assert all(np.isfinite(batch["image"]).all() for batch in batches)
    assert not {3, 40} & {int(x) for batch in batches for x in batch["label"]}
    assert sum(float(batch["weight"].sum()) for batch in data.eval_batches()) == 20
    # Each is counted once, whatever the number of epochs.
    assert [name.split("(")[1] for name in data.damage.names[2:]] == [
        "validation_2.JPEG)"
    ]
    assert len(data.damage.names) == 3
    assert caplog.text.count("does not decode") == 3
    with pytest.raises(
        InputError,
        match=r"2 images .*train\[\d+\] \(train_\d+.JPEG\).* 1 .*--config.data.stream.max_damaged",
    ) as caught:
        take(training(streaming(folder, 25, max_damaged=1)), 4)
    assert "\n" not in str(caught.value)


def test_one_damaged_image_is_one_image():
    with pytest.raises(InputError, match=r"^1 image does not .* than the 0 allowed:"):
        DamageLog(0).add("train", 3)


def test_labels_are_classes_from_0_on():
    check_labels(np.arange(3), 3, "photos", "train", "train_split")
    for wrong in (-1, 3):
        with pytest.raises(InputError, match=rf"label {wrong}, .* 0 to 2: .*train_spl"):
            check_labels(np.array([0, wrong]), 3, "photos", "train", "train_split")


def test_crops_are_drawn_anew_for_each_seed_epoch_and_example():
    drawn = [
        crop_draws(*of)
        for of in ((0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2), (0, 2, 1))
    ]
    assert len({array.tobytes() for array in drawn}) == len(drawn)
    np.testing.assert_array_equal(crop_draws(0, 1, 2), drawn[0])


@pytest.fixture
def record_reader(photo):
    """A reader of records as Grain hands them over, which itself need not be there."""

    class Records:
        def __getitems__(self, indices):
            return [{"image": photo(1000 + i), "label": i} for i in indices]

    def make(batch_size, size, heldout_size=0, **settings):
        reader = object.__new__(ArrayRecordReader)
        sizes = {"image_size": 16, "shorter_side": 20, "seed": 3}
        reader.reading = Reading("photos", "", batch_size, **sizes, **settings)
        reader._train = reader._heldout = Records()
        reader.train_size, reader.heldout_size = size, heldout_size
        reader.steps_per_epoch = size // batch_size
        return reader

    return make


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_cut_the_batches_of_one(record_reader, processes):
    """None of an epoch twice, all of the held-out ones once, in as many batches."""
    alone = record_reader(6, 20, 25)
    parts = [
        record_reader(6, 20, 25, process=process, num_processes=processes)
        for process in range(processes)
    ]
    steps = [alone.train_indices(step) for step in range(9)]
    for step, whole in enumerate(steps):
        joined = np.concatenate([part.train_indices(step) for part in parts])
        np.testing.assert_array_equal(joined, whole)
    epochs = [np.concatenate(steps[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert [len(set(epoch)) for epoch in epochs] == [18, 18, 18]
    assert len(set(map(tuple, epochs))) == 3
    share, seen, most = alone.reading.batch_size // processes, [], 0
    for part in parts:
        start, stop = part._heldout_part()
        batches = [part._heldout_batch(i) for i in range(-(-(stop - start) // share))]
        seen += [int(index) for batch in batches for index in batch.index]
        most = max(most, len(batches))
    assert seen == list(range(25))
    assert parts[0].reading.heldout_steps(25) == most


def test_intact_images_stand_in_for_damaged_ones_with_all_that_is_theirs():
    intact = np.array([False, True, False, True, False])
    number = np.arange(5)
    batch = HostBatch(number[:, None], 10 * number, 20 + number, intact, tuple("abcde"))
    whole = without_damage(batch)
    assert whole.intact.all()
    assert whole.label.tolist() == [10, 10, 30, 30, 10]
    assert whole.image[:, 0].tolist() == [1, 1, 3, 3, 1]
    assert whole.index.tolist() == [21, 21, 23, 23, 21]
    assert "".join(whole.name) == "bbddb"
    assert without_damage(whole) is whole
    nothing = dataclasses.replace(batch, intact=np.zeros(5, bool))
    with pytest.raises(InputError, match=r"none of 5 images .*--config\.data\.dir"):
        without_damage(nothing)


def test_array_records_are_cut_to_the_boxes_of_the_settings(record_reader, photo):
    """In two epochs."""
    reader = record_reader(SHARE, SHARE, least_area=0.6)
    for epoch in range(2):
        batch = reader._train_batch(epoch)
        assert sorted(batch.index) == list(range(SHARE))
        np.testing.assert_array_equal(batch.label, batch.index)
        for i, image in zip(batch.index.tolist(), batch.image, strict=True):
            whole = decode(photo(1000 + i))
            draws = crop_draws(3, epoch, i)
            box = random_box(*whole.shape[:2], draws, (0.6, 1.0))
            expected = resized_box(whole, tuple(map(int, box)), (16, 16))
            np.testing.assert_array_equal(image, expected)


@pytest.fixture
def hosted():
    """`hosted(batches, heldout_size)`: what is made of batches that a reader yields."""

    def batch(indices, damaged=()):
        index = np.asarray(indices, np.int32)
        image = np.tile(index.astype(np.uint8)[:, None, None, None], (1, 2, 2, 3))
        intact = ~np.isin(index, damaged)
        return HostBatch(image, index % 5, index, intact, len(index) * ("",))

    def make(batches, heldout_size=0, max_damaged=1):
        reading = Reading("x", "", 6, image_size=2, process=1, num_processes=2)
        made = [batch(*of) for of in batches]
        data = object.__new__(StreamingData)
        data.name, data.augmentation = "x", Augmentation()
        data.mean, data.std = (0.5,) * 3, (0.25,) * 3
        data.damage = DamageLog(max_damaged)
        data.reader = SimpleNamespace(
            reading=reading,
            num_classes=5,
            train_size=12,
            heldout_size=heldout_size,
            steps_per_epoch=2,
            heldout=lambda: iter(made),
            train=lambda step: iter(made[step:]),
        )
        return data

    return make


def test_held_out_batches_are_filled_with_what_weighs_nothing(hosted):
    """The larger part of 13 images is 7, three batches: so many has every process."""
    data = hosted([([7, 8, 9], (8,)), ([10, 11],)], heldout_size=13)
    batches = list(data.eval_batches(place=lambda batch: batch))
    weights = [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert [batch["weight"].tolist() for batch in batches] == weights
    indices = [[7, 8, 9], [10, 11, 0], [0, 0, 0]]
    assert [batch["index"].tolist() for batch in batches] == indices
    assert batches[0]["label"].tolist() == [2, 3, 4]
    np.testing.assert_allclose(
        batches[1]["image"][:, 0, 0, 0], (np.array([10, 11, 0]) / 255 - 0.5) / 0.25
    )
    assert data.damage.names == ["validation[8]"]


def test_read_in_another_way_damage_is_noted_in_one_log(hosted, monkeypatch):
    data = hosted([([1, 2, 3], (2,))])
    data.prepared = "files"

    def reader(prepared, reading):
        assert prepared == "files"
        return SimpleNamespace(**vars(data.reader) | {"reading": reading})

    monkeypatch.setattr(streaming_module, "_reader", reader)
    for seed in range(2):
        other = data.reread(seed=seed)
        assert (other.reader.reading.seed, data.reader.reading.seed) == (seed, 0)
        assert len(list(other.deliveries())) == 1
    assert data.damage.names == ["train[2]"]


def test_deliveries_begin_at_their_step_without_what_is_damaged(hosted):
    data = hosted([([0, 1, 2],), ([3, 4, 5], (4,)), ([6, 7, 8],)])
    placed = []
    found = data.deliveries(1, lambda batch: placed.append(batch) or batch)
    first, second = found
    assert [each is other for each, other in zip(placed, (first, second), strict=True)]
    assert first.index.tolist() == [3, 3, 5]
    assert first.label.tolist() == [3, 3, 0]
    assert first.image[:, 0, 0, 0].tolist() == [3, 3, 5]
    assert second.index.tolist() == [6, 7, 8]
    with pytest.raises(InputError, match="1 image does not decode"):
        list(hosted([([1, 2, 3], (2,))], max_damaged=0).deliveries())
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data.example())]
    assert shapes == [(3, 2, 2, 3), (3,), (3,)]


def test_the_first_intact_images_of_each_class_are_taken_as_they_are_stored(
    photo, monkeypatch
):
    labels = [1, 0, 1, 1, 0, 0, 1, 0]
    records = [{"image": photo(i), "label": label} for i, label in enumerate(labels)]
    records[1]["image"] = photo(1)[:100]
    monkeypatch.setattr(subset, "encoded", lambda *of: iter(records))
    log = DamageLog(1)
    reading = Reading("x", "", 1, image_size=16, shorter_side=20, train_split="train")
    data = SimpleNamespace(
        reader=SimpleNamespace(reading=reading), damage=log, prepared=None, name="x"
    )
    data.num_classes, data.class_names = 2, ("ant", "bee")
    data.mean, data.std = (0.5,) * 3, (0.25,) * 3
    found = subset.read_subset(data, 2)
    assert found.train.label.tolist() == [1, 1, 0, 0]
    for image, i in zip(found.train.image, (0, 2, 4, 5), strict=True):
        np.testing.assert_array_equal(image, middle(decode(photo(i)), 20, 16))
    assert (found.mean, found.std, found.class_names) == (
        data.mean,
        data.std,
        ("ant", "bee"),
    )
    assert log.names == ["train[1]"]
    with pytest.raises(InputError, match="class 0 of x has 3 images, but 4 of each"):
        subset.read_subset(data, 4)
    message = (
        r"2000000000000 images of 16x16 .*image_size or --config\.data\.per_class$"
    )
    with pytest.raises(InputError, match=message):
        subset.read_subset(data, 10**12)


def test_a_delivered_example_looks_different_at_another_step():
    image = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8)
    index = np.arange(16, dtype=np.int32)
    flip = Augmentation(flip=True)
    delivered = Delivered(image, index, index, flip, (0.5,) * 3, (0.25,) * 3)
    looks = [
        np.asarray(drawn(delivered, jax.random.key(0), step)["image"])
        for step in (1, 2)
    ]
    assert not np.array_equal(*looks)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_damaged_file_is_an_error_of_one_line(tmp_path, prepare_photos, file_format):
    folder = prepare(prepare_photos, tmp_path, file_format)
    for file in tmp_path.rglob("*-train.*"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=r"photos cannot be read .*--config\.data\.dir"
    ) as caught:
        take(training(streaming(folder)), 6)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_said_in_one_line(prepared, monkeypatch):
    data_dir = prepared("array_record")
    with pytest.raises(
        InputError, match=r"no split 'test': set .* one of train, valid"
    ):
        streaming(data_dir, heldout_split="test")
    with pytest.raises(
        InputError,
        match=r"batch size 51 exceeds the 50 .*--config.evaluation.batch_size",
    ):
        streaming(data_dir, 51)
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(InputError, match=r"Grain is needed .*\[grain\]"):
        streaming(data_dir)
    with pytest.raises(InputError, match=r"--config\.data\.dir"):
        streaming(data_dir + "/nowhere")


def test_without_a_folder_the_source_is_named_as_the_config_names_it():
    with pytest.raises(InputError, match=r"^the data source stream:photos needs the f"):
        streaming("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_size": 0},
            "batch size 0 .*1 processes: set --config.evaluation.batch_size",
        ),
        ({"batch_size": 10, "num_processes": 3}, "batch size 10 .* 3 processes"),
        ({"process": 1}, "process 1 must be from 0 to 0"),
        ({"image_size": 300}, "image size 300 .* 256: set --config.data.image_size"),
        ({"seed": -1}, "seed -1 must be from 0 .*--config.seed"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Reading(**{"builder": "x", "data_dir": "", "batch_size": 8, **change})


def test_an_image_may_be_as_large_as_its_shorter_side():
    reading = Reading("x", "", 9, image_size=256, process=2, num_processes=3)
    assert (reading.shorter_side, reading.share) == (256, 3)


def test_importing_the_module_imports_no_data_library():
    code = (
        "import sys, skillearn_jax.data.streaming;"
        "libraries = {'tensorflow', 'tensorflow_datasets', 'grain'};"
        "sys.exit(bool(libraries & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_array_record_needs_no_tensorflow(prepared):
    pytest.importorskip("grain", reason="grain is not installed")
    code = (
        "import sys\n"
        "from skillearn_jax.data.records import Reading\n"
        "from skillearn_jax.data.streaming import StreamingData, open_streaming\n"
        f"reading = Reading('photos', {prepared('array_record')!r}, 8,"
        " image_size=16, shorter_side=20)\n"
        "data = open_streaming(reading)\n"
        "next(data.reader.train(0)), next(data.reader.heldout())\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
