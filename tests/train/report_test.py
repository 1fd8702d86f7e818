"""The report: complete, self-contained, reproducible, and safe to open."""

import json
import math
import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from skillearn_jax.data import Examples
from skillearn_jax.errors import InputError, StorageError
from skillearn_jax.nas.genotype import Genotype
from skillearn_jax.train import report, report_page
from skillearn_jax.train.exam_contents import contact_sheet
from skillearn_jax.train.report import write_report
from skillearn_jax.train.report_confusion import confusion
from skillearn_jax.train.report_figures import _collected
from skillearn_jax.train.report_summary import story, tiles

HOSTILE = "</pre><script>alert('1')</script>"
EDGES = (
    ("sep_conv_3x3", 0),
    ("skip_connect", 1),
    ("max_pool_3x3", 0),
    ("dil_conv_5x5", 2),
)
GENOTYPE = Genotype(
    normal=EDGES, reduction=EDGES, normal_concat=(2, 3), reduction_concat=(2, 3)
).to_json()
SUMMARY = {
    "task": "lpt",
    "dataset": "digits",
    "seed": 2,
    "genotype": GENOTYPE,
    "params": 31234,
    "macs": 1234567,
    "num_train": 1000,
    "num_heldout": 297,
    "search": {"epochs": 2, "steps": 40, "compile_s": 30.1, "steps_s": 20.2},
    "wall_s": 143.2,
    "peak_bytes": 1_234_567_890,
}
EVALUATION = {
    "epochs": 8,
    "channels": 8,
    "cells": 3,
    "num_seeds": 1,
    "rows": [
        {
            "name": name,
            "params": 31234,
            "macs": 99,
            "errors": [e],
            "mean": e,
            "std": None,
        }
        for name, e in (("derived", 2.5), ("random 1", 3.0), ("random $2", 3.25))
    ],
    "random": {"mean": 3.125, "std": 0.177, "count": 2},
    "verdict": "Better by 0.6 points.",
}


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "my#notes.txt").touch()
    config = {
        "config": {"seed": 2, "data": {"name": HOSTILE}},
        "versions": {"jax": "0.10.2"},
        "device": "cpu",
        "program": f"stage 1: {HOSTILE}",
    }
    rows = [{"phase": "warmup", "step": s, "learner/loss": 2.3} for s in range(1, 9)]
    for step in range(9, 49):
        row = {"phase": "search", "step": step, "epoch": step // 20}
        row |= {"learner/loss": 2.0 / step, "hypergrad/alphas/direct": 0.1}
        row |= {"hypergrad/alphas/response": 0.001, "validation/exam_size": 32.0}
        row |= {"surprise/metric": math.sin(step), "nothing": None}
        row |= {"validation/exam_loss": math.nan if step == 11 else 1.0}
        rows.append(row)
    for network in ("derived", "random 1"):
        for step in (10, 20):
            row = {"phase": "evaluate", "network": network, "seed": 0, "step": step}
            rows.append({**row, "train_loss": 1.0 / step, "train_error": 50.0})
    metrics = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "genotype.json").write_text(json.dumps(GENOTYPE))
    (tmp_path / "metrics.jsonl").write_text(metrics + '{"phase": "sea')
    summary = {**SUMMARY, "evaluation": EVALUATION}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_page_holds_every_part(workdir):
    path = write_report(workdir)
    page = path.read_text()
    assert path == workdir / "report" / "index.html"
    assert "<h1>Learning by passing tests on digits, seed 2</h1>" in page
    for part in ("31.2 k", "1.23 M", "2 min 23 s", "1.23 GB", "Better by 0.6 points."):
        assert part in page
    for metric in (
        "learner/loss",
        "direct",
        "response",
        "exam_size",
        "surprise/metric",
    ):
        assert metric in page
    cells = "<td>31.2 k</td><td>99</td><td>2.50</td><td>2.50 %</td>"
    assert f'<tr><th scope="row">derived</th>{cells}</tr>' in page
    chance = f"2 random cells</th>{3 * '<td></td>'}<td>3.12 ± 0.18 %</td>"
    assert chance in page
    assert "sep_conv_3x3: c_{k-2} → node 0" in page
    assert "Skipped 1 unreadable line(s) of metrics.jsonl." in page
    assert 'href="../checkpoints/"' in page
    assert 'href="../my%23notes.txt"' in page


def test_what_a_run_had_before_it_went_on_stands_behind_what_it_has(workdir):
    """Else the page says of the whole run what is true of its end."""
    record = json.loads((workdir / "config.json").read_text())
    changes = [
        {"config.seed": [0, 1], "device": ["abacus", "cpu"]},
        {"config.seed": [1, 2], "jax": ["0.1", "0.10.2"]},
    ]
    for given in (changes, "none", [{"seed": []}, {"device": 3}], [3]):
        (workdir / "config.json").write_text(json.dumps({**record, "changes": given}))
        page = write_report(workdir).read_text()
        rows = ("seed", "2 (before: 0, 1)"), ("device", "cpu (before: abacus)")
        for name, value in (*rows, ("jax", "0.10.2 (before: 0.1)")):
            told = f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' in page
            assert told == (given is changes)


def test_what_a_run_cannot_tell_stands_below_its_cells(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    (workdir / "summary.json").write_text(json.dumps({**summary, "caveats": ["A <b>"]}))
    page = write_report(workdir).read_text()
    cells = page.partition("<h2>The derived cell</h2>")[2].partition("</section>")[0]
    assert cells.endswith('<p class="note">A &lt;b&gt;</p>')


def test_figures_are_files_and_well_formed(workdir):
    report = write_report(workdir).parent
    names = {path.name for path in report.glob("*.svg")}
    expected = {"normal.svg", "reduction.svg", "search.svg", "errors.svg"}
    assert names == {*expected, "evaluation.svg"}
    page = (report / "index.html").read_text()
    for name in names:
        svg = (report / name).read_text()
        root = ET.fromstring(svg)
        assert root.get("aria-label")
        assert root.find("{http://www.w3.org/2000/svg}title").text
        assert svg in page


def test_page_is_self_contained(workdir):
    page = write_report(workdir).read_text()
    assert set(re.findall(r"https?://[^\s\"'<>)]*", page)) == {
        "http://www.w3.org/2000/svg"
    }
    assert "<link" not in page
    assert "url(http" not in page
    assert "@import" not in page


def test_hostile_text_is_inert(workdir):
    page = write_report(workdir).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2


def test_tags_are_balanced(workdir):
    void = {"meta", "path", "rect", "use", "circle"}
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            if tag not in void:
                assert open_tags.pop() == tag

    Checker().feed(write_report(workdir).read_text())
    assert open_tags == []


def test_report_is_reproducible_to_the_byte(workdir):
    report = write_report(workdir).parent
    first = {path.name: path.read_bytes() for path in report.iterdir()}
    write_report(workdir)
    assert {path.name: path.read_bytes() for path in report.iterdir()} == first


def test_missing_parts_are_left_out(tmp_path):
    (tmp_path / "summary.json").write_text('{"task": "custom", "dataset": "d"}')
    page = write_report(tmp_path).read_text()
    assert "<h1>Custom on d</h1>" in page
    for part in ("Evaluation", "Search", "The program", "Software", "None", "<svg"):
        assert part not in page


def ticks_of(svg):
    """Returns all texts of a figure."""
    return re.findall(r">([^<>]+)</text>", svg)


@pytest.mark.parametrize(
    ("names", "count", "shown"),
    [
        (("ant", "<b> $x$ $", "_Käfer 猫"), 3, ["ant", "&lt;b&gt; $x$ $", "_Käfer 猫"]),
        ((), 3, ["0", "1", "2"]),
        (("ant", "bee"), 3, ["0", "1", "2"]),  # of other data
        (("ant", "bee", "x" * 13), 3, ["0", "1", "2"]),
        (("ant", "bee", "a\nb"), 3, ["0", "1", "2"]),
        ([f"c{i}" for i in range(20)], 20, [f"c{i}" for i in range(20)]),
    ],
)
def test_few_classes_with_short_names_are_named(names, count, shown):
    one = {"loss": 1.0, "top5_error": None, "calibration": 2.0}
    one["confusion"] = np.eye(count, dtype=int).tolist()
    svg, _ = confusion({"derived": {"0": one}}, names)
    texts = ticks_of(svg)
    bar = ["0", "20", "40", "60", "80", "100"]
    assert texts == [
        *shown,
        "predicted class",
        *shown,
        "class",
        "Held-out images, %",
        *bar,
    ]
    ET.fromstring(svg)


def test_many_classes_are_not_named():
    one = {"loss": 1.0, "top5_error": 3.0, "calibration": 2.0}
    one["confusion"] = np.eye(21, dtype=int).tolist()
    svg, caption = confusion({"derived": {"0": one}}, [f"c{i}" for i in range(21)])
    assert not any(text.startswith("c") for text in ticks_of(svg) if text != "class")
    assert "top-5 error 3.00 %" in caption


def test_the_matrix_of_many_classes_is_a_picture_and_no_path_for_each_pair():
    one = {"loss": 1.0, "top5_error": 3.0, "calibration": 2.0}
    one["confusion"] = np.eye(300, dtype=int).tolist()
    svg, _ = confusion({"derived": {"0": one}}, [])
    assert len(svg) < 50_000
    assert "data:image/png;base64" in svg


def of_task(name, error, params, images, seeds=1):
    row = EVALUATION["rows"][0] | {"name": "derived", "mean": error, "params": params}
    chance = {"mean": error + 1, "std": None, "count": 1}
    entry = EVALUATION | {"num_seeds": seeds, "rows": [row], "random": chance}
    return entry | {
        "num_heldout": images,
        "epochs": 1,
        "verdict": f"So it is on {name}.",
    }


def test_every_task_has_a_sentence_and_numbers_of_its_own(workdir):
    """Those of the first are not the run's."""
    tasks = {
        "<a>": of_task("a", 2.5, 31234, 297),
        "b": of_task("b", 40.0, 56789, 1, seeds=2),
    }
    rows = [
        {**entry["rows"][0], "name": f"derived on {name}", "task": name}
        for name, entry in tasks.items()
    ]
    evaluation = EVALUATION | {"rows": rows, "tasks": tasks}
    del evaluation["random"]
    summary = SUMMARY | {
        "task": "joint",
        "dataset": "<a> and b",
        "num_heldout": 298,
        "evaluation": evaluation,
    }
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = write_report(workdir).read_text()
    trained = "was then trained from scratch on"
    budget = "for 1 epoch with 8 channels and 3 cells"
    for sentence in (
        f"{trained} &lt;a&gt; {budget} and errs on 2.50 % of 297 held-out images.",
        f"{trained} b {budget} and errs on 40.00 % of 1 held-out image.",
        "On &lt;a&gt;, the mean of 1 random cell, trained alike, is 3.50 %.",
        "On b, the mean of 1 random cell, trained alike, is 41.00 %.",
    ):
        assert page.count(sentence) == 1
    for task, error in (("&lt;a&gt;", "3.50"), ("b", "41.00")):
        named = f"1 random cell on {task}</th>"
        assert re.search(rf"{named}(<td></td>){{3}}<td>{error} %</td>", page)
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert tiles["held-out error on &lt;a&gt;"] == (
        "2.50 %<small>(1 seed, 297 held-out images)</small>"
    )
    assert tiles["held-out error on b"] == (
        "40.00 %<small>(2 seeds, 1 held-out image)</small>"
    )
    assert tiles["parameters on &lt;a&gt;"].startswith("31.2 k<")
    assert tiles["parameters on b"].startswith("56.8 k<")
    assert tiles["multiply-adds on b"].startswith("99<")
    assert not {"held-out error", "parameters", "multiply-adds"} & set(tiles)


def test_one_is_not_said_as_several(workdir):
    evaluation = EVALUATION | {"epochs": 1, "channels": 1, "cells": 1}
    evaluation["random"] = evaluation["random"] | {"count": 1}
    search = SUMMARY["search"] | {"epochs": 1, "steps": 1}
    summary = SUMMARY | {"evaluation": evaluation, "search": search}
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = write_report(workdir).read_text()
    for words in (
        "for 1 epoch (1 step) on 1,000 training images.",
        "for 1 epoch with 1 channel and 1 cell and errs",
        "The mean of 1 random cell, trained",
        "(1 seed, 297 held-out images)",
        ">1 random cell<",
    ):
        assert words in page


def test_cells_of_nasbench201_are_counted_stage_by_stage():
    """A network of 3 has 9."""
    row = EVALUATION["rows"][0] | {"genotype": {"ops": ["skip_connect"] * 6}}
    told = story(SUMMARY | {"evaluation": EVALUATION | {"rows": [row]}})
    assert "and 3 cells in each of three stages and errs" in told
    assert "in each" not in story(SUMMARY)


def test_a_search_in_stages_says_of_how_many():
    search = SUMMARY["search"] | {"stages": 3}
    told = story(SUMMARY | {"search": search})
    assert "for 2 epochs (40 steps) in 3 stages on 1,000 training images." in told


def test_a_search_that_a_rule_ended_says_so():
    """Else its epochs differ from those of the config for no reason that is told."""
    told = story(SUMMARY | {"search": SUMMARY["search"] | {"stopped_by": "skips"}})
    assert "on 1,000 training images, until the rule 'skips' ended it." in told
    assert "rule" not in story(SUMMARY)


def test_a_given_cell_is_not_headed_as_derived(workdir):
    assert "<h2>The derived cell</h2>" in write_report(workdir).read_text()
    summary = SUMMARY | {"task": "evaluation"}
    (workdir / "summary.json").write_text(json.dumps(summary))
    assert "<h2>The given cell</h2>" in write_report(workdir).read_text()


@pytest.mark.parametrize(
    ("random", "words"),
    [
        (None, "mean.<"),
        ({"mean": 3.0, "std": None}, "mean. The line is the random cells&#x27; mean.<"),
        (
            {"mean": 3.0, "std": 0.5},
            "mean. The line and the band are the random cells&#x27; mean and standard "
            "deviation.<",
        ),
    ],
)
def test_no_more_is_said_of_chance_than_is_drawn(workdir, random, words):
    summary = SUMMARY | {"evaluation": EVALUATION | {"random": random}}
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = write_report(workdir).read_text()
    assert f"one ring per seed, a disc for the {words}/figcaption>" in page


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[1m", "a\ufffd[1m"),
        ("a\udcff", "a\ufffd"),  # a byte of a folder's name that is no text
        ("猫 _b", "猫 _b"),
        ("_$x$ <b>", "_$x$ &lt;b&gt;"),
    ],
)
def test_whatever_a_rival_is_called_its_figure_is_one(workdir, name, shown):
    """It has the name of a folder."""
    rows = [*EVALUATION["rows"], EVALUATION["rows"][0] | {"name": name}]
    summary = SUMMARY | {"evaluation": EVALUATION | {"rows": rows}}
    (workdir / "summary.json").write_text(json.dumps(summary))
    write_report(workdir)
    svg = (workdir / "report" / "errors.svg").read_text()
    ET.fromstring(svg)
    assert shown in ticks_of(svg)


def test_a_file_whose_name_is_no_text_ends_no_report(workdir):
    """A person may have put it there."""
    with open(os.fsencode(workdir) + b"/notes\xff.txt", "w"):
        pass
    page = write_report(workdir).read_text()
    assert '<a href="../notes%FF.txt">notes\\udcff.txt</a>' in page


def test_the_exam_has_the_names_of_the_classes(workdir, monkeypatch):
    row = {"index": 7, "label": 1, "loss": 0.5, "score": 0.25}
    measures = dict.fromkeys(("bank_loss", "exam_loss", "correlation"), 0.5)
    rates = {"class_rates": [0.5, 0.25], "class_shares": [1.0, 0.0]}
    examples = Examples(np.zeros((8, 2, 2, 1), np.uint8), np.zeros(8, np.int32))
    shown = {"hardest": [row], "easiest": [row]}
    sheet = contact_sheet(examples, [[row], [row]])
    exam = {"size": 1, "bank_size": 8, "sheet": sheet, **measures, **rates, **shown}
    (workdir / "exam.json").write_text(json.dumps(exam))
    names = ("ant", HOSTILE)
    monkeypatch.setattr(report, "kept_class_names", lambda workdir: names)
    page = write_report(workdir).read_text()
    assert re.search("ant +0.5000 +1.000\n", page)
    assert re.search("&lt;/script&gt; +0.2500 +0.000\n", page)
    assert "<script" not in page


def test_what_is_faint_is_said(workdir):
    """Of long searches not each step."""
    words = "each step faint (of more than 400, means of neighbours)"
    assert words in write_report(workdir).read_text()


def test_a_search_on_a_part_is_not_said_to_be_on_all():
    words = "for 2 epochs (40 steps) on {} training images."
    assert words.format("1,000") in story(SUMMARY)
    assert words.format(96) in story(SUMMARY | {"num_searched": 96})


def test_the_main_numbers_have_each_its_own_place():
    """Of one network in the mobile setting, with a table beside."""
    mobile = {"macs": 612e6, "limit": 600e6, "kept": False}
    row = EVALUATION["rows"][0] | {"std": 0.25, "mobile": mobile}
    found = {"val_accuracy": 90.126, "val_rank": 1234.0}
    found |= {"test_accuracy": 93.5, "test_rank": 7.0}
    summary = SUMMARY | {
        "evaluation": EVALUATION | {"rows": [row], "num_seeds": 3},
        "benchmark": {"dataset": "cifar100"}
        | {f"benchmark/{name}": value for name, value in found.items()},
    }
    ranks = "cifar100, rank {} of 15,625"
    assert tiles(summary) == [
        ("held-out error", "2.50 %", "± 0.25 (3 seeds, 297 held-out images)"),
        ("parameters", "31.2 k", "derived network"),
        ("multiply-adds", "1.23 M", "per image"),
        ("multiply-adds at 224x224", "612 M", "ABOVE the mobile limit of 600 M"),
        ("tabulated test accuracy", "93.50 %", ranks.format(7)),
        ("tabulated validation accuracy", "90.13 %", ranks.format("1,234")),
        ("search", "20.2 s", "after 30.1 s of compiling"),
        ("whole run", "2 min 23 s", "wall clock"),
        ("peak memory", "1.23 GB", "of the host"),
    ]
    none = {"epochs": 0, "steps": 0, "compile_s": 0, "steps_s": 0}
    given = SUMMARY | {"search": none, "peak_bytes": None}
    assert [name for name, *_ in tiles(given)] == [
        "parameters",
        "multiply-adds",
        "whole run",
    ]


def test_a_full_disk_leaves_the_old_page(workdir, monkeypatch):
    page = write_report(workdir)
    before = page.read_bytes()
    monkeypatch.setattr(report_page, "render", lambda **_: "x" * 10)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_report(workdir)
    assert page.read_bytes() == before


def test_a_search_in_stages_has_each_step_once_and_several_warmups():
    """At the end of an epoch a step has a second row, of other metrics."""
    phases = 2 * [*3 * ["warmup"], *4 * ["search"]]
    rows = [
        {"phase": phase, "step": step, "learner/loss": 1.0 / step}
        for step, phase in enumerate(phases, start=1)
    ]
    ends = [{**row, "learner/loss": 0.5} for row in rows[3:4]]  # written again
    ends += [
        {"phase": "search", "step": step, "alphas/normal_skips": 2, "stopped": step > 9}
        for step in (7, 14)
    ]
    panels, warmups = _collected([*rows, *ends])
    assert panels["learner", "loss"]["learner/loss"] == {
        float(step): [0.5 if step == 4 else 1.0 / step] for step in range(1, 15)
    }
    assert panels["alphas", ""] == {"alphas/normal_skips": {7.0: [2.0], 14.0: [2.0]}}
    assert warmups == [(0.0, 3.0), (7.0, 10.0)]
    assert len(panels) == 2


def test_lines_that_a_run_does_not_write_are_skipped(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('rch"}\n{"phase": "search"}\n{"phase": 1, "step": 2}\n')
    page = write_report(workdir).read_text()
    assert "Skipped 3 unreadable line(s) of metrics.jsonl." in page


def test_resumed_steps_count_once(workdir):
    before = (write_report(workdir).parent / "search.svg").read_text()
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines()[:-1]
    path.write_text("\n".join([*lines[:20], *lines[15:]]))
    assert (write_report(workdir).parent / "search.svg").read_text() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [(None, "no summary.json"), ("{", "not readable JSON"), ("[]", "does not hold")],
)
def test_damaged_summary_is_refused_in_one_line(tmp_path, damage, message):
    if damage is not None:
        (tmp_path / "summary.json").write_text(damage)
    with pytest.raises(InputError, match=message) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("exam.json", {"step": 3, "sheet": ""}),
        ("candidates.json", {"candidate 1": {"error": 3.0}}),
        ("heldout.json", {"derived": {"0": {"loss": 0.5}}}),
    ],
)
def test_damaged_files_are_refused_in_one_line(workdir, name, content):
    (workdir / name).write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=f"{name} does not hold what a run writes there"
    ):
        write_report(workdir)
