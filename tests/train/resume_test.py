"""Going on with another config: what is harmless is accepted and listed, no more."""

import json

import pytest
from flax.traverse_util import flatten_dict

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.parallel import Devices
from skillearn_jax.train import Config, experiment, run
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.fingerprint import fingerprint
from skillearn_jax.train.resume import differences
from skillearn_jax.train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")

DEFAULTS = json.loads(json.dumps(Config().to_dict()))


def changed(**changes):
    """Returns the default config, as JSON has it, with some leaves replaced."""
    values = json.loads(json.dumps(DEFAULTS))
    for path, value in changes.items():
        *groups, name = path.split("__")
        group = values
        for part in groups:
            group = group[part]
        group[name] = value
    return values


def outcome(old, new, evaluated=False, compared=True):
    accepted, refused = differences(old, new, DEFAULTS, evaluated, compared)
    return [other.path for other in accepted], [other.path for other in refused]


@pytest.mark.parametrize(
    ("changes", "evaluated", "fine"),
    [
        ({"log_every": 10}, True, True),
        ({"checkpoint__every_steps": 7}, True, True),
        ({"parallel__devices": 8}, True, True),
        ({"data__stream__max_damaged": 3}, True, True),
        ({"data__stream__least_area": 0.2}, True, False),
        ({"search__epochs": 60}, False, True),
        ({"search__epochs": 60}, True, False),
        ({"search__epochs": 40}, False, False),
        ({"evaluation__epochs": 10}, False, True),
        ({"evaluation__epochs": 700}, True, False),
        ({"evaluation__num_seeds": 5}, True, True),
        ({"evaluation__num_seeds": 2}, True, False),
        ({"evaluation__num_random": 9}, True, True),
        ({"parallel__batch_norm": "per_device"}, False, False),
        ({"seed": 3}, False, False),
        ({"search__weights__lr": 0.1}, False, False),
        ({"search__warmup_epochs": 1}, False, False),
    ],
)
def test_a_difference_is_accepted_or_refused(changes, evaluated, fine):
    accepted, refused = outcome(DEFAULTS, changed(**changes), evaluated)
    path = "config." + next(iter(changes)).replace("__", ".")
    assert (accepted, refused) == (([path], []) if fine else ([], [path]))


HARMLESS = {
    "log_every",
    "profile",
    *(f"checkpoint.{key}" for key in DEFAULTS["checkpoint"]),
    "logging.tensorboard",
    "parallel.devices",
    "parallel.backend",
    "parallel.tester_optimizer",
    "data.stream.max_damaged",
    "data.dir",
    "data.dirs",
    "lpt.bank_dir",
}
MORE = {"evaluation.num_seeds", "evaluation.num_random"}
NO_DIFFERENCE = {"benchmark.dataset"}  # where there is no table


@pytest.mark.parametrize("evaluated", [True, False])
def test_of_all_keys_these_and_no_others_may_change(evaluated):
    """Before the evaluation has begun those of it too, and the search's epochs."""
    keys = flatten_dict(DEFAULTS, sep=".")
    fine = HARMLESS | MORE
    if not evaluated:
        fine |= {key for key in keys if key.startswith("evaluation.")}
        fine |= {"search.epochs"}
    assert fine < set(keys)
    for key, value in keys.items():
        other = ["x"] if isinstance(value, list) else f"{value}x"
        if isinstance(value, int | float):
            other = not value if isinstance(value, bool) else value + 1
        new = changed(**{key.replace(".", "__"): other})
        accepted, refused = outcome(DEFAULTS, new, evaluated)
        assert accepted == ([f"config.{key}"] if key in fine else []), key
        assert bool(refused) is (key not in fine | NO_DIFFERENCE), key


@pytest.mark.parametrize("key", ["data__dir", "data__dirs", "lpt__bank_dir"])
@pytest.mark.parametrize("compared", [True, False])
def test_data_may_lie_elsewhere_and_are_compared(key, compared):
    new, path = changed(**{key: "elsewhere"}), "config." + key.replace("__", ".")
    (moved,), refused = differences(DEFAULTS, new, DEFAULTS, True, compared)
    assert (moved.path, moved.more, refused) == (path, not compared, [])


@pytest.mark.parametrize("compared", [True, False])
def test_a_table_may_lie_elsewhere_and_neither_come_nor_go(compared):
    here, there, none = (changed(benchmark__table=x) for x in ("a.csv", "b.csv", ""))
    (moved,), refused = differences(here, there, DEFAULTS, True, compared)
    assert (moved.path, moved.more, refused) == (
        "config.benchmark.table",
        not compared,
        [],
    )
    for old, new in ((here, none), (none, here)):
        accepted, (other,) = differences(old, new, DEFAULTS, True, compared)
        assert (accepted, other.path) == ([], "config.benchmark.table")


def test_a_search_in_stages_has_the_epochs_it_began_with():
    stages = {"search__stage_cells": [5, 11, 17]}
    longer = changed(**stages, search__epochs=60)
    assert outcome(changed(**stages), longer) == ([], ["config.search.epochs"])


def test_a_key_that_an_earlier_version_lacks_had_its_default():
    old = changed()
    del old["checkpoint"], old["search"]["remat"]
    assert outcome(old, DEFAULTS) == ([], [])
    assert outcome(old, changed(search__remat=True)) == ([], ["config.search.remat"])
    assert outcome(old, changed(checkpoint__keep=5)) == (["config.checkpoint.keep"], [])
    assert outcome({**old, "gone": 1}, DEFAULTS) == ([], ["config.gone"])


def test_a_config_that_lacks_whole_groups_is_compared_with_the_defaults():
    assert outcome({}, changed(search__epochs=60)) == (["config.search.epochs"], [])
    assert outcome({"search": 3}, DEFAULTS) == ([], ["config.search"])
    old = changed(evaluation__num_seeds="two")
    assert outcome(old, DEFAULTS, evaluated=True) == (
        [],
        ["config.evaluation.num_seeds"],
    )


def test_every_refused_key_is_named_with_both_values(tiny_baseline, tmp_path):
    Workdir(tmp_path / "run", tiny_baseline(), {}).write_config("the program")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = {"seed": 9, "search.weights.lr": 0.5, "log_every": 2}
    with pytest.raises(InputError) as caught:
        run(tiny_baseline(other), tmp_path / "run", quiet=True)
    text = str(caught.value)
    assert "config.seed = 2, not 9; config.search.weights.lr = 0.025, not 0.5:" in text
    assert "--config.seed=2 --config.search.weights.lr=0.025" in text
    assert "log_every" not in text
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_run_grows(tiny_baseline, tmp_path, read_rows, capsys):
    """First a search; then more epochs of it; then an evaluation; then more seeds."""
    workdir = tmp_path / "run"
    base = {"search.epochs": 2, "evaluation.epochs": 0}
    run(tiny_baseline(base), workdir, quiet=True)
    rows = read_rows(workdir)
    summaries = []
    for changes in (
        {"search.epochs": 3},
        {"evaluation.epochs": 1, "evaluation.num_seeds": 1},
        {"evaluation.num_seeds": 2, "log_every": 2},
    ):
        base |= changes
        capsys.readouterr()
        summaries.append(run(tiny_baseline(base), workdir).summary)
        said = capsys.readouterr().out
        for path, value in changes.items():
            assert f"goes on with config.{path} = {value}, was " in said
    assert summaries[0]["search"]["epochs"] == 3
    assert [row["step"] for row in read_rows(workdir) if "learner/loss" in row] == [
        *range(1, 7)
    ]
    assert read_rows(workdir)[: len(rows)] == rows
    run(tiny_baseline({**base, "checkpoint.keep": 7}), workdir)  # nothing more to do
    assert "holds this run already, finished" in capsys.readouterr().out
    one, two = (s["evaluation"]["rows"][0]["errors"] for s in summaries[1:])
    assert two[:1] == one
    assert len(two) == 2
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["evaluation"]["num_seeds"] == 2
    assert record["changes"] == [
        {"config.search.epochs": [2, 3]},
        {"config.evaluation.epochs": [0, 1], "config.evaluation.num_seeds": [2, 1]},
        {"config.log_every": [1, 2], "config.evaluation.num_seeds": [1, 2]},
    ]


def test_another_version_is_said(tiny_baseline, tmp_path, monkeypatch, capsys):
    config, workdir = tiny_baseline(), tmp_path / "run"
    known = fingerprint(load(config.data.name))
    Workdir(workdir, config, known).write_config("the program")
    record = json.loads((workdir / "config.json").read_text())
    now = record["versions"]["jax"]
    record["versions"]["jax"] = "0.1.0"
    (workdir / "config.json").write_text(json.dumps(record))

    def search(*args):
        raise RuntimeError("enough")

    monkeypatch.setattr(experiment, "search", search)
    with pytest.raises(RuntimeError, match="enough"):
        run(config, workdir)
    assert f"goes on with jax {now}, was 0.1.0\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel.devices": 1},
        {"parallel.devices": 2},
        {"parallel.devices": 2, "parallel.tester_optimizer": "sharded", "skill": "lpt"},
    ],
)
def test_a_best_metric_that_is_none_is_named(
    tiny_baseline, tmp_path, changes, monkeypatch
):
    """Before anything is compiled: a warm-up may take hours."""
    monkeypatch.setattr(Devices, "compile", None)
    config = {
        "evaluation.epochs": 0,
        "checkpoint.best_metric": "validation/los",
        **changes,
    }
    message = (
        r"best_metric is 'validation/los'; .* validation/objective: set --config\."
    )
    if "skill" in changes:
        message = message.replace("objective:", "objective, .*:")
    with pytest.raises(InputError, match=message) as e:
        run(tiny_baseline(config), tmp_path / "run", quiet=True)
    assert "\n" not in str(e.value)


def test_a_data_set_of_no_table_makes_no_difference(tiny_baseline):
    """Workdirs from before it could be empty go on."""
    old, new = (
        tiny_baseline({"benchmark.dataset": name}).to_dict() for name in ("cifar10", "")
    )
    assert differences(old, new, {}, True, True) == ([], [])
    for config in (old, new):
        config["benchmark"] = {**config["benchmark"], "table": "t.csv"}
    _, (refused,) = differences(old, new, {}, True, True)
    assert refused.path == "config.benchmark.dataset"


@pytest.mark.long
def test_a_run_moves_between_one_device_and_eight(
    tiny_baseline, tmp_path, read_rows, monkeypatch
):
    """Up to rounding it is the run that stayed: batch statistics are synchronised."""
    base = {"evaluation.epochs": 0, "search.epochs": 4, "data.batch_size": 256}
    stayed = run(tiny_baseline(base), tmp_path / "stayed", quiet=True)
    for epochs, devices in ((2, 8), (3, 1), (4, 8)):
        moving = {**base, "search.epochs": 4, "parallel.devices": devices}
        with monkeypatch.context() as patch:
            stop_after(patch, 2 * epochs)
            if epochs < 4:
                with pytest.raises(KeyboardInterrupt):
                    run(tiny_baseline(moving), tmp_path / "moved", quiet=True)
            else:
                moved = run(tiny_baseline(moving), tmp_path / "moved", quiet=True)
    got, wanted = read_rows(tmp_path / "moved"), read_rows(tmp_path / "stayed")
    assert [row["step"] for row in got] == [row["step"] for row in wanted]
    for a, b in zip(got, wanted, strict=True):
        for name, value in b.items():
            close = value if name == "phase" else pytest.approx(value, 2e-3, abs=2e-4)
            assert a[name] == close, name
    assert moved.genotype == stayed.genotype


def stop_after(patch, step):
    save = Checkpoints.save

    def dies(self, at, *args):
        save(self, at, *args)
        if at == step < 8:
            self.close()
            raise KeyboardInterrupt

    patch.setattr(Checkpoints, "save", dies)
