"""Whole runs: what they leave, that they repeat, and that they go on after a stop."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from skillearn_jax.data import from_arrays, load
from skillearn_jax.errors import InputError, NonFiniteError
from skillearn_jax.nas import Genotype, derive_genotype
from skillearn_jax.train import experiment, run, run_comparison
from skillearn_jax.train import loop as loop_module
from skillearn_jax.train.build import build_search
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")

TIMES = {"wall_s", "peak_bytes", "compile_s", "steps_s"}


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def read(workdir, name):
    return json.loads((workdir / name).read_text())


def left_by(workdir):
    """Returns what must be the same, bit for bit, in two runs of the same config."""
    return {
        "metrics.jsonl": (workdir / "metrics.jsonl").read_text(),
        "genotype.json": (workdir / "genotype.json").read_text(),
        "evaluation.json": (workdir / "evaluation.json").read_text(),
        "summary.json": without_times(read(workdir, "summary.json")),
    }


# What a run leaves.


def test_a_run_leaves_the_documented_files(finished):
    names = {path.name for path in finished.workdir.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "alphas.jsonl",
        "genotype.json",
        "cells.json",
        "evaluation.json",
        "heldout.json",
        "exam.json",
        "summary.json",
        "checkpoints",
        "networks",
        "report",
        "timing.jsonl",
        ".lock",
    }
    assert finished.result.report == finished.workdir / "report" / "index.html"
    page = finished.result.report.read_text()
    assert "Learning by passing tests on digits" in page
    assert "Skipped" not in page


def test_a_run_leaves_its_exam_and_reports_it(finished):
    exam = read(finished.workdir, "exam.json")
    assert len(exam["hardest"]) == 12
    assert exam["size"] == -(-exam["bank_size"] // 2) == len(exam["selected"])
    assert len(exam["class_rates"]) == 10
    page = (finished.workdir / "report" / "index.html").read_text()
    assert exam["sheet"] in page
    assert "share in the exam" in page


def test_config_is_the_resolved_one(finished):
    written = read(finished.workdir, "config.json")
    assert written["config"] == json.loads(json.dumps(finished.config.to_dict()))
    assert "stage 2  tester" in written["program"]
    assert "maximize creator" in written["program"]


def test_metrics_have_a_row_a_step_and_one_an_epoch(finished, read_rows):
    rows = read_rows(finished.workdir)
    steps = [
        (row["phase"], row["step"], row["epoch"])
        for row in rows
        if "learner/loss" in row
    ]
    # 719 training images in batches of 256.
    assert steps == [
        ("warmup", 1, 0),
        ("warmup", 2, 0),
        ("search", 3, 1),
        ("search", 4, 1),
    ]
    ends = [row for row in rows if "alphas/entropy/normal" in row]
    assert [(row["step"], row["epoch"]) for row in ends] == [(2, 0), (4, 1)]
    for row in ends:
        assert 0 < row["alphas/entropy/normal"] <= np.log(4) + 1e-6
        assert row["alphas/skips/normal"] in (0, 1, 2)
        assert row["stopped"] is False
    searched = [r for r in rows if r["phase"] == "search" and "learner/loss" in r]
    assert len(searched) == 2
    for row in searched:
        for metric in ("tester/loss", "validation/exam_loss", "hypergrad/alphas/norm"):
            assert np.isfinite(row[metric])
        assert row["hypergrad/creator/response"] > 0
    trained = [row for row in rows if row["phase"] == "evaluate"]
    assert [(row["network"], row["seed"]) for row in trained] == [
        ("derived", 0),
        ("derived", 1),
        ("random 1", 0),
        ("random 1", 1),
    ]
    assert {row["step"] for row in trained} == {5}  # 1438 images in batches of 256


def test_alphas_rest_in_the_warmup_and_move_in_the_search(finished, read_rows):
    ends = [
        row for row in read_rows(finished.workdir) if "alphas/entropy/normal" in row
    ]
    assert ends[0]["alphas/entropy/normal"] != ends[1]["alphas/entropy/normal"]
    warm = [r for r in read_rows(finished.workdir) if r["phase"] == "warmup"]
    assert not any("hypergrad" in name for row in warm for name in row)


def test_summary_says_what_came_out(finished):
    summary = read(finished.workdir, "summary.json")
    assert summary == finished.result.summary
    assert (summary["task"], summary["dataset"], summary["seed"]) == (
        "lpt",
        "digits",
        2,
    )
    assert summary["num_train"] + summary["num_heldout"] == 1797
    assert (summary["search"]["epochs"], summary["search"]["steps"]) == (2, 4)
    assert summary["search"]["compile_s"] > 0
    assert summary["wall_s"] > summary["search"]["compile_s"]
    assert summary["peak_bytes"] > 1e8
    genotype = read(finished.workdir, "genotype.json")
    assert summary["genotype"] == genotype
    assert Genotype.from_json(genotype) == finished.result.genotype
    rows = summary["evaluation"]["rows"]
    assert [row["name"] for row in rows] == ["derived", "random 1"]
    assert rows[0]["genotype"] == genotype
    assert (summary["params"], summary["macs"]) == (rows[0]["params"], rows[0]["macs"])
    assert summary["params"] > 0
    assert summary["macs"] > 0


def test_errors_of_all_seeds_are_reported(finished):
    stored = read(finished.workdir, "evaluation.json")
    evaluation = finished.result.summary["evaluation"]
    for row in evaluation["rows"]:
        errors = row["errors"]
        assert [stored[row["name"]][str(seed)] for seed in (0, 1)] == errors
        assert errors[0] != errors[1]
        # A percentage of whole images.
        count = finished.result.summary["num_heldout"]
        mistakes = np.asarray(errors) * count / 100
        np.testing.assert_allclose(mistakes, np.round(mistakes), atol=1e-6)
        assert row["mean"] == pytest.approx(np.mean(errors))
        assert row["std"] == pytest.approx(abs(errors[0] - errors[1]) / np.sqrt(2))
    random = evaluation["rows"][1]
    assert evaluation["random"] == {
        "mean": random["mean"],
        "std": random["std"],
        "count": 1,
    }
    assert "too few trainings" in evaluation["verdict"]


def test_the_genotype_is_that_of_the_last_checkpoint(finished):
    key = jax.random.key(0)
    setup = build_search(finished.config, load("digits"), key, 2)
    like = setup.phases[-1].enter(setup.params, key, setup.model_state)
    checkpoints = Checkpoints(finished.workdir / "checkpoints" / "search")
    saved = checkpoints.newest()
    checkpoints.close()
    assert saved.step == 4
    state = saved.restore(like)
    assert int(state.step) == 4
    alphas = {kind: np.asarray(a) for kind, a in state.params["alphas"].items()}
    assert (
        derive_genotype(alphas, finished.config.space.build())
        == finished.result.genotype
    )


def test_each_program_is_traced_once(finished):
    # Warm-up and search; two networks, each of them for two seeds.
    assert finished.traces == {("learner", "tester"): 2, ("network",): 2}


# Repeating and continuing.


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    finished, tiny, tmp_path, monkeypatch, moment
):
    """Stopped around the checkpoint that ends the warm-up."""
    stop(monkeypatch, Checkpoints, "save", call=1, moment=moment)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "genotype.json").exists()
    if moment == "after":
        search = tmp_path / "run" / "checkpoints" / "search"
        assert [path.name for path in search.iterdir()] == ["2"]
    result = run(tiny(), tmp_path / "run", quiet=True)
    assert left_by(tmp_path / "run") == left_by(finished.workdir)
    assert result.genotype == finished.result.genotype


def stop(monkeypatch, owner, name, call, moment):
    """Interrupts before or after the given call of a method, counted from 1."""
    original = getattr(owner, name)
    calls = 0

    def interrupted(self, *args):
        nonlocal calls
        calls += 1
        if calls == call and moment == "before":
            raise KeyboardInterrupt
        result = original(self, *args)
        if calls == call:
            if isinstance(self, Checkpoints):
                self.close()  # the save is complete on disk
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, interrupted)


@pytest.fixture(scope="module")
def searched(quick_module, tiny_baseline, tmp_path_factory):
    """A finished search of three epochs, one of them warm-up; nothing is evaluated."""
    config = tiny_baseline(LONGER)
    workdir = tmp_path_factory.mktemp("searched") / "run"
    return config, workdir, run(config, workdir, quiet=True)


LONGER = {"search.epochs": 3, "evaluation.epochs": 0}


@pytest.mark.parametrize(
    ("owner", "name", "call", "moment"),
    [
        (Checkpoints, "save", 2, "after"),
        (Checkpoints, "save", 3, "after"),
        # One step into the last epoch: its row is there and its checkpoint is not.
        (Workdir, "append_rows", 5, "after"),
        (Workdir, "append_rows", 6, "before"),
    ],
)
def test_a_search_goes_on_from_wherever_it_stopped(
    searched, tiny_baseline, tmp_path, monkeypatch, owner, name, call, moment
):
    config, workdir, _ = searched
    opened = []
    init = Checkpoints.__init__
    monkeypatch.setattr(
        Checkpoints,
        "__init__",
        lambda self, path, **options: (
            opened.append(self),
            init(self, path, **options),
        )[1],
    )
    stop(monkeypatch, owner, name, call, moment)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    # A process that ends waits for the save under way; this one goes on instead.
    opened[0].close()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "search", "step"')  # what a kill may leave
    run(config, tmp_path / "run", quiet=True)
    for file in ("metrics.jsonl", "genotype.json"):
        assert (tmp_path / "run" / file).read_text() == (workdir / file).read_text()


def test_the_same_seed_repeats_bit_for_bit_and_another_differs(
    searched, tiny_baseline, tmp_path
):
    config, workdir, _ = searched
    run(config, tmp_path / "same", quiet=True)
    expected = (workdir / "metrics.jsonl").read_text()
    assert (tmp_path / "same" / "metrics.jsonl").read_text() == expected
    run(tiny_baseline({**LONGER, "seed": 3}), tmp_path / "other", quiet=True)
    assert (tmp_path / "other" / "metrics.jsonl").read_text() != expected


def test_without_an_evaluation_there_is_none(searched, read_rows):
    _, workdir, result = searched
    assert not (workdir / "evaluation.json").exists()
    assert "evaluation" not in result.summary
    assert "macs" not in result.summary
    assert result.summary["search"]["steps"] == 6
    rows = read_rows(workdir)
    assert not any("tester" in name or "exam" in name for row in rows for name in row)
    assert "<h2>The exam</h2>" not in result.report.read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", '{"task": 1}', "is not the summary of a run: remove it"),
        ("summary.json", "[1]", "summary.json does not hold what a run writes"),
        ("evaluation.json", "[1]", "evaluation.json does not hold what a run writes"),
        ("evaluation.json", '{"derived": {"0": "1"}}', "evaluation.json does not hold"),
        ("heldout.json", '{"derived": {"0": {}}}', "heldout.json does not hold what"),
    ],
)
def test_damaged_results_are_named(finished, tmp_path, name, content, message):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    if name != "summary.json":
        (workdir / "summary.json").unlink()
    (workdir / name).write_text(content)
    page = (workdir / "report" / "index.html").read_bytes()
    with pytest.raises(InputError, match=message):
        run(finished.config, workdir, quiet=True)
    assert (workdir / "report" / "index.html").read_bytes() == page


def test_a_tilde_in_the_workdir_is_the_home_folder(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = run(finished.config, "~/run", quiet=True)
    assert result.report == workdir / "report" / "index.html"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_finished_run_retrains_nothing(finished, tiny, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    before = left_by(workdir)
    steps = []
    take = loop_module.CompiledLoop.steps

    def counted(self, *args):
        for latest, metrics in take(self, *args):
            steps.extend(metrics)
            yield latest, metrics

    monkeypatch.setattr(loop_module.CompiledLoop, "steps", counted)
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "load_images", None)  # the data may be gone
        result = run(tiny(), workdir, quiet=True)
    # It goes by what the data are, not by where they lie.
    run(tiny({"data.dir": "elsewhere"}), workdir, data=load("digits"), quiet=True)
    assert steps == []
    assert left_by(workdir) == before
    assert result.genotype == finished.result.genotype


def test_a_finished_run_needs_no_file_that_its_config_names(finished, tiny, tmp_path):
    """The cells of others, a table: what came of them is in its own files."""
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    record = read(workdir, "config.json")
    record["config"]["evaluation"]["rivals"] = [str(tmp_path / "gone")]
    (workdir / "config.json").write_text(json.dumps(record))
    rivals = {"evaluation.rivals": (str(tmp_path / "gone"),)}
    result = run(tiny(rivals), workdir, quiet=True)
    assert result.genotype == finished.result.genotype
    with pytest.raises(InputError, match=r"rivals names '.*gone', which holds no"):
        run(tiny({**rivals, "evaluation.num_seeds": 3}), workdir, quiet=True)


def test_a_run_does_not_grow_on_other_data(finished, tiny, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    digits = load("digits")
    image = np.array(digits.heldout.image)
    image[0, 0, 0] ^= 1
    heldout = dataclasses.replace(digits.heldout, image=image)
    other = dataclasses.replace(digits, heldout=heldout)
    before = (workdir / "config.json").read_bytes()
    for seeds in (2, 3):
        config = tiny({"evaluation.num_seeds": seeds})
        with pytest.raises(InputError, match=r"other data \(the held-out images\)"):
            run(config, workdir, data=other, quiet=True)
    assert (workdir / "config.json").read_bytes() == before


def test_a_search_without_its_checkpoints_is_not_repeated(finished, tiny, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    shutil.rmtree(workdir / "checkpoints" / "search")
    before = left_by(workdir)
    more = tiny({"evaluation.num_seeds": 3})
    with pytest.raises(InputError, match=r"no checkpoints/search, .*genotype") as e:
        run(more, workdir, quiet=True)
    assert "\n" not in str(e.value)
    assert left_by(workdir) == before


def test_a_run_that_was_ended_while_it_grew_is_not_finished(
    finished, tiny, tmp_path, monkeypatch
):
    """The config is that of the grown run by then; what was summed up is of the old."""
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    begun = []

    def ended(*args):
        begun.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "evaluate", ended)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tiny({"evaluation.num_seeds": 3}), workdir, quiet=True)
    assert len(begun) == 2


@pytest.mark.parametrize("trained", [True, False])
def test_an_interrupted_evaluation_goes_on(
    finished, tiny, tmp_path, count_traces, trained
):
    """Killed in the second training of the second network, or just after it."""
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    expected = left_by(workdir)
    errors = read(workdir, "evaluation.json")
    del errors["random 1"]["1"]
    (workdir / "evaluation.json").write_text(json.dumps(errors))
    (workdir / "summary.json").unlink()
    if not trained:
        shutil.rmtree(workdir / "checkpoints" / "evaluation")
    run(tiny(), workdir, quiet=True)
    assert count_traces[("network",)] == (0 if trained else 1)
    assert left_by(workdir) == {
        **expected,
        "evaluation.json": (finished.workdir / "evaluation.json").read_text(),
    }


# Other ways to run.


def test_a_users_own_arrays(tiny_baseline, tmp_path, read_rows):
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = rng.integers(0, 80, (96, 10, 12, 3)).astype(np.uint8)
    images[np.arange(96), labels] += 150
    data = from_arrays("stripes", images[:64], labels[:64], images[64:], labels[64:])
    changes = {
        "data.batch_size": 8,
        "evaluation.batch_size": 8,
        "evaluation.num_random": 0,
        "evaluation.num_seeds": 1,
        "evaluation.drop_path": 0.0,
        "search.warmup_epochs": 0,
        "search.epochs": 1,
    }
    result = run(tiny_baseline(changes), tmp_path / "run", data=data, quiet=True)
    assert result.summary["dataset"] == "stripes"
    assert (result.summary["num_train"], result.summary["num_heldout"]) == (64, 32)
    assert [row["name"] for row in result.summary["evaluation"]["rows"]] == ["derived"]
    assert "verdict" not in result.summary["evaluation"]
    assert result.summary["evaluation"]["rows"][0]["std"] is None
    assert len([r for r in read_rows(tmp_path / "run") if "learner/loss" in r]) == 4


def test_two_devices_change_nothing(finished, tiny, tmp_path, read_rows):
    changes = {
        "parallel.devices": 2,
        "parallel.tester_optimizer": "sharded",
        "evaluation.num_random": 0,
        "evaluation.num_seeds": 1,
    }
    two = run(tiny(changes), tmp_path / "run", quiet=True)
    expected = [r for r in read_rows(finished.workdir) if r.get("network") is None]
    rows = [r for r in read_rows(tmp_path / "run") if r.get("network") is None]
    for got, wanted in zip(rows, expected, strict=True):
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            close = value if name == "phase" else pytest.approx(value, 1e-3, abs=1e-4)
            assert got[name] == close, name
    assert two.genotype == finished.result.genotype
    trained = read_rows(tmp_path / "run")[-1]
    of_one = [r for r in read_rows(finished.workdir) if r.get("network") == "derived"]
    assert trained["train_loss"] == pytest.approx(of_one[0]["train_loss"], rel=1e-3)


def test_a_finite_difference_adds_a_response_to_the_first_order(
    searched, tiny_baseline, tmp_path, read_rows
):
    changes = {**LONGER, "hypergrad.adjoint": "finite_difference"}
    run(tiny_baseline(changes), tmp_path / "run", quiet=True)
    rows = [r for r in read_rows(tmp_path / "run") if "learner/loss" in r]
    plain = [r for r in read_rows(searched[1]) if "learner/loss" in r]
    assert rows[:2] == plain[:2]  # the warm-up has no hypergradient
    name = "hypergrad/alphas/direct"
    # First order at the current weights, and not after the look-ahead: close by.
    assert rows[2][name] == pytest.approx(plain[2][name], rel=0.2)
    assert plain[2]["hypergrad/alphas/response"] == 0
    assert rows[2]["hypergrad/alphas/response"] > 0
    assert rows[2]["validation/objective"] != plain[2]["validation/objective"]


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.name": "nosuch"}, "unknown data set 'nosuch'"),
        ({"parallel.devices": 9}, "this machine has 8"),
        ({"search.warmup_epochs": 2}, "must be below config"),
        (
            {"evaluation.accumulate": 10**6},
            r"accumulate is 1000000, .*--config\.evaluation\.accumulate",
        ),
        (
            {"data.batch_size": 800},
            r"batch_size is 800; .* at most 71\d.* --config\.data\.batch_size",
        ),
        (
            {"data.train_fraction": 0.999},
            r"--config\.data\.(train_fraction|batch_size)",
        ),
        ({"data.batch_size": 255, "parallel.devices": 2}, "255 cannot be split over 2"),
        ({"space.ops": ()}, "ops must hold one"),
        ({"space.ops": ("none", "none", "skip_connect")}, "ops must not repeat"),
        (
            {"evaluation.batch_size": 1500},
            r"evaluation.batch_size is 1500; .* --config\.evaluation\.batch_size",
        ),
        (
            {"evaluation.batch_size": 255, "parallel.devices": 2},
            r"255 cannot be split over 2 .* --config\.evaluation\.batch_size",
        ),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(
    tiny_baseline, tmp_path, monkeypatch, changes, message
):
    def began(*args):
        raise AssertionError("the search has begun")

    monkeypatch.setattr(experiment, "search", began)
    with pytest.raises(InputError, match=message):
        run(tiny_baseline(changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_plain_mappings_are_a_config_too(tmp_path):
    with pytest.raises(InputError, match="config has no key 'sede'"):
        run({"sede": 3}, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "config", ["configs/lpt_digits.py", pathlib.Path("configs/lpt_digits.py")]
)
def test_a_path_is_no_config(config, tmp_path):
    match = r"^config is 'configs/lpt_digits.py', a path, .* --config=configs/lpt_dig"
    for function in (run, run_comparison):
        with pytest.raises(InputError, match=match):
            function(config, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match=r"^config is a NoneType; it must map keys"):
        run(None, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_explodes_is_named_and_what_was_done_is_kept(
    searched, tiny_baseline, tmp_path, read_rows
):
    changes = {**LONGER, "search.weights.lr": 1e30, "search.weights.clip": 0.0}
    with pytest.raises(NonFiniteError, match=r"learner/\w+ became .* at step 2:"):
        run(tiny_baseline(changes), tmp_path / "run", quiet=True)
    rows = read_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [1]
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_quiet_run_prints_nothing(searched, capfd):
    config, workdir, _ = searched
    with pytest.raises(InputError):
        run(config, workdir / "config.json", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_the_embedded_sets_load_without_a_network():
    assert load("digits").train.size == 1438
    assert jax.default_backend() == "cpu"
