"""The search methods beyond plain DARTS, through the launcher's door."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.nas import drop_candidates
from skillearn_jax.nas.space import CELL_KINDS
from skillearn_jax.train import run
from skillearn_jax.train.build import build_search
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.checks import check, check_images
from skillearn_jax.train.stages import next_space, note_stage, noted_stage, search_stage

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")

SEARCH_ONLY = {"evaluation.epochs": 0, "search.warmup_epochs": 0}
# Two operations that a ranking tells apart, and logits that all but rest.
SETTLED = {
    "space.ops": ("none", "dil_conv_3x3", "dil_conv_5x5"),
    "search.alphas.lr": 1e-9,
}


def test_partial_channels_and_edges_search_and_derive(tiny_baseline, tmp_path):
    config = tiny_baseline(
        {
            **SEARCH_ONLY,
            "space.edge_normalization": True,
            "search.partial": 2,
            "search.channels": 4,
            "search.max_skips": 0,
            "search.alphas.lr": 0.1,
        }
    )
    result = run(config, tmp_path / "run", quiet=True)
    assert "skip_connect" not in [op for op, _ in result.genotype.normal]


def test_the_auxiliary_skip_fades_with_the_epochs(tiny_baseline):
    config = tiny_baseline({"search.auxiliary_skip": "linear", "search.epochs": 4})
    data = load("digits")
    setup = build_search(config, data, jax.random.key(0), steps_per_epoch=3)
    assert "auxiliary_skip" in setup.params["weights"]["cell_0"]
    program = setup.phases[-1].program
    state = program.init(setup.params, jax.random.key(0), setup.model_state)
    images = jax.random.normal(jax.random.key(1), (8, *data.image_shape))
    batch = {"image": images, "label": jnp.arange(8)}
    batches = dict.fromkeys(program.streams, batch)

    @jax.jit
    def loss(steps):
        learner = {**state.model_state["learner"], "steps": steps}
        aged = state._replace(model_state={**state.model_state, "learner": learner})
        return program.objective(aged, batches)

    losses = [float(loss(jnp.int32(steps))) for steps in range(7)]
    assert losses[0] == losses[1] == losses[2] != losses[3]
    assert losses[3] == losses[5] != losses[6]
    after, _ = jax.jit(program.step)(state, batches)
    assert after.model_state["learner"]["steps"] == 1


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"search.stop": "ranking", "search.stop_ranking_epochs": 1, **SETTLED}, 3),
        ({"search.stop": "skips", "search.stop_skips": 1}, 2),
        (
            {
                "search.stop": "skips",
                "search.stop_skips": 1,
                "search.stage_cells": (1, 1),
                "search.stage_candidates": (2, 2),
                "search.stage_skip_dropout": (0.0, 0.0),
            },
            7,  # all five of the first stage
        ),
        ({}, 5),
    ],
)
def test_a_rule_ends_the_search_and_a_continued_run_stays_ended(
    changes, epochs, tiny_baseline, tmp_path, read_rows, capsys
):
    """A skip beside `none` is derived, and ranks that do not move stand, whatever comes."""
    config = tiny_baseline(
        {
            "evaluation.epochs": 0,
            "search.epochs": 5,
            "search.warmup_epochs": 1,
            "space.ops": ("none", "skip_connect"),
            **changes,
        }
    )
    result = run(config, tmp_path / "run")
    step = result.summary["search"]["steps"]
    said = f"stopped by the rule {config.search.stop!r} at step {step}\n"
    assert (said in capsys.readouterr().out) is bool(changes)
    rows = read_rows(tmp_path / "run")
    stopped = [row["stopped"] for row in rows if "stopped" in row]
    assert stopped == [False] * (epochs - 1) + [bool(changes)]
    (tmp_path / "run" / "summary.json").unlink()
    again = run(config, tmp_path / "run", quiet=True)
    for summary in (result.summary["search"], again.summary["search"]):
        assert summary["epochs"] == epochs
        assert summary.get("stopped_by", "epochs") == config.search.stop
    assert read_rows(tmp_path / "run") == rows


def dies_after_saving(patch, step):
    """The run is interrupted once the checkpoint of this step is on the disk."""
    save = Checkpoints.save

    def dies(self, at, *args):
        save(self, at, *args)
        if at == step:
            self.close()
            raise KeyboardInterrupt

    patch.setattr(Checkpoints, "save", dies)


def test_an_interrupted_search_stops_where_the_other_did(
    tiny_baseline, tmp_path, read_rows, monkeypatch
):
    config = tiny_baseline(
        {
            **SEARCH_ONLY,
            "search.epochs": 8,
            **SETTLED,
            "search.stop": "ranking",
            "search.stop_ranking_epochs": 3,
            "checkpoint.every_steps": 1,
        }
    )
    whole = run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        dies_after_saving(patch, whole.summary["search"]["steps"] // 2)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "torn", quiet=True)
    run(config, tmp_path / "torn", quiet=True)
    assert whole.summary["search"]["epochs"] < 8
    assert read_rows(tmp_path / "torn") == read_rows(tmp_path / "whole")


def test_what_the_networks_cannot_take_is_refused(tiny):
    data = load("digits")
    with pytest.raises(
        InputError, match=r"8x8 pixels; .* needs 29 or more: set --config\.evaluation"
    ):
        check_images(tiny({"evaluation.auxiliary_weight": 0.4}), data)
    off = {"evaluation.auxiliary_weight": 0.4, "evaluation.epochs": 0}
    check_images(tiny(off), data)
    with pytest.raises(
        InputError, match=r"search.channels is 6; .*search.partial, 4: set"
    ):
        check(tiny({"search.channels": 6, "search.partial": 4}))
    with pytest.raises(InputError, match="max_skips is 2, but the space has no other"):
        check(tiny({"search.max_skips": 2, "space.ops": ("none", "skip_connect")}))


def test_a_refused_image_size_leaves_nothing_behind(tiny_baseline, tmp_path):
    config = tiny_baseline({"data.name": "mnist5k", "evaluation.auxiliary_weight": 0.4})
    with pytest.raises(InputError, match="28x28 pixels"):
        run(config, tmp_path / "small", quiet=True)
    assert not (tmp_path / "small").exists()


PDARTS = {
    "search.epochs": 2,
    "search.warmup_epochs": 1,
    "search.stage_cells": (1, 2),
    "search.stage_candidates": (4, 3),
    "search.stage_skip_dropout": (0.0, 0.3),
}


def test_stages_grow_deeper_over_fewer_candidates_and_can_be_torn(
    tiny_baseline, tmp_path, read_rows, monkeypatch
):
    config = tiny_baseline(
        {
            **PDARTS,
            "evaluation.epochs": 0,
            "search.max_skips": 1,
            "checkpoint.every_steps": 1,
        }
    )
    whole = run(config, tmp_path / "whole", quiet=True)
    assert whole.summary["search"]["epochs"] == 4
    (kept,) = json.loads((tmp_path / "whole" / "stages.json").read_text())
    assert {len(ops) for kind in ("normal", "reduction") for ops in kept[kind]} == {3}
    for kind in ("normal", "reduction"):
        for op, source in getattr(whole.genotype, kind):
            assert op in kept[kind][source]  # one node: edges are sources
    rows = read_rows(tmp_path / "whole")
    phases = [r["phase"] for r in rows if "stopped" in r]
    assert phases == ["warmup", "search", "warmup", "search"]

    for torn_after in (4, 5):  # at the end of the first stage, one step into the second
        workdir = tmp_path / f"torn after {torn_after}"
        with monkeypatch.context() as patch:
            dies_after_saving(patch, torn_after)
            with pytest.raises(KeyboardInterrupt):
                run(config, workdir, quiet=True)
        stages = workdir / "stages.json"
        assert stages.exists() == (torn_after == 5)
        if stages.exists():  # refused before anything is compiled
            left = stages.read_text()
            stages.write_text(left[:-9])
            with pytest.raises(InputError, match=r"stages\.json is not readable JSON"):
                run(config, workdir, quiet=True)
            stages.write_text(left)
        again = run(config, workdir, quiet=True)
        assert again.genotype == whole.genotype
        assert read_rows(workdir) == rows
        # Whichever stage it went on in, a run shows the program of the last.
        for path in (workdir, tmp_path / "whole"):
            program = json.loads((path / "config.json").read_text())["program"]
            assert "supernet of 2 cells" in program
            assert " in 2 stages on " in (path / "report" / "index.html").read_text()


def test_every_stage_has_its_cells_its_rate_and_its_candidates(tiny):
    """The file has the candidates of the stages that came after others, in their order."""
    config = tiny(
        {
            "search.cells": 7,
            "search.stage_cells": (1, 2, 5),
            "search.stage_candidates": (4, 3, 2),
            "search.stage_skip_dropout": (0.0, 0.3, 0.6),
        }
    )
    files = {}
    workdir = SimpleNamespace(
        read_json=lambda name, like: files.get(name), write_json=files.__setitem__
    )
    ops = config.space.ops
    logits = ([0.0, 3.0, 2.0, 1.0], [3.0, 2.0, 1.0])  # of the first stage, the second
    kept = (ops[1:], ops[1:3])
    rates, spaces = (0.0, 0.3, 0.6), [config.space.build()]
    for index in (0, 1, 0):  # and once more, as of a run that falls back
        stage = search_stage(config, index, spaces[index])
        assert (stage.cells, stage.skip_dropout) == ((1, 2, 5)[index], rates[index])
        alphas = {kind: np.array(2 * [logits[index]]) for kind in CELL_KINDS}
        spaces = [*spaces[: index + 1], next_space(config, stage, alphas, workdir)]
        found = json.loads(json.dumps(files["stages.json"]))
        of_edges = [2 * [list(kept[i])] for i in range(index + 1)]
        assert found == [dict.fromkeys(CELL_KINDS, edges) for edges in of_edges]
        note = note_stage(search_stage(config, index + 1, spaces[-1]))
        again = noted_stage(config, json.loads(json.dumps(note)))
        assert again == (index + 1, spaces[-1])
    del files["stages.json"]  # what is known is in its place all the same
    alphas = {kind: np.array(2 * [logits[1]]) for kind in CELL_KINDS}
    next_space(config, search_stage(config, 1, spaces[1]), alphas, workdir)
    assert len(files["stages.json"]) == 2
    assert json.loads(json.dumps(files["stages.json"]))[0] == found[0]
    assert note_stage(search_stage(config, 0, spaces[0])) == {"stage": 0}
    alone = search_stage(tiny({"search.cells": 7}), 0, spaces[0])
    assert (alone.cells, alone.skip_dropout) == (7, 0.0)


def test_only_the_tester_goes_on_from_stage_to_stage(tiny):
    config = tiny(PDARTS)
    data = load("digits")
    first = build_search(config, data, jax.random.key(0), 2)
    space = drop_candidates(first.params["alphas"], config.space.build(), 3)
    second = build_search(
        config, data, jax.random.key(1), 2, stage=search_stage(config, 1, space)
    )
    key = jax.random.key(2)
    begin = first.phases[-1].enter(first.params, key, first.model_state)
    begin = begin._replace(step=begin.step + 4)
    sets = second.phases[0].program.sets
    entered = second.phases[0].enter(
        {name: second.params[name] for name in sets}, key, second.model_state, begin
    )
    assert entered.step == 4
    assert entered.model_state["learner"]["steps"] == 0
    for name, source in (("encoder", first), ("weights", second), ("alphas", second)):
        same = jax.tree.map(jnp.array_equal, entered.params[name], source.params[name])
        assert all(jax.tree.leaves(same)), name
    assert set(second.params["weights"]) > set(first.params["weights"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search.stage_candidates": (4,)}, "as many entries as config.search.stage_c"),
        ({"search.stage_candidates": (3, 3)}, "must begin with 4"),
        ({"search.stage_candidates": (4, 5)}, "and not rise"),
        ({"search.stage_candidates": (4, 1)}, "must end with 2 or more"),
        ({"search.stage_skip_dropout": ()}, "stage_skip_dropout is .* as many entries"),
        (
            {"space.ops": ("none", "max_pool_3x3", "avg_pool_3x3", "dil_conv_3x3")},
            r"is \(0.0, 0.3\), but .* no skip_connect .*dropout='\(0.0, 0.0\)'",
        ),
        (
            {"search.stage_candidates": (4, 2), "search.max_skips": 1},
            "must end with 3 or more",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(changes, message, tiny):
    check(tiny(PDARTS))
    check(tiny({**PDARTS, "search.max_skips": 1}))  # of three candidates
    with pytest.raises(InputError, match=message):
        check(tiny({**PDARTS, **changes}))
    with pytest.raises(InputError, match=r"stage_skip_dropout is \(1.0,\); .* below 1"):
        tiny({"search.stage_skip_dropout": (1.0,)})
