"""The console: plain where no terminal listens, silent on request, never in the way."""

import errno
import io
import os
import re
import sys
import time
from types import SimpleNamespace

import pytest

from skillearn_jax.train.console import Console, _clock, _Pace, short_number


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self):
        return True

    def shown(self):
        return self.buffer.getvalue().decode(self.encoding)


def run(console, steps=100):
    console.banner("LPT on [digits]", ["seed 2", "a → b"])
    with console.progress("search", steps) as update:
        for step in range(1, steps + 1):
            update(step, {"tester/loss": 1.0, "learner/loss": 2.0 / step})
            if step == steps // 2:
                console.message("half ± way [red]")
    console.table("Evaluation", ("network", "error"), [("derived", 2.5), ("other", 3)])


def test_pipe_gets_plain_lines_every_tenth(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    run(Console(file=pipe))
    text = pipe.getvalue()
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if line.startswith("search")]
    assert len(lines) == 11
    assert "100/100 100 %" in lines[-1]
    assert lines[-1].index("tester/loss") < lines[-1].index("learner/loss")
    assert "steps/s" in lines[-1]
    assert "LPT on [digits]" in text
    assert "half ± way [red]" in text
    assert "derived" in text


def test_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    run(Console(file=terminal))
    assert "━" in terminal.shown()
    assert "100/100" in terminal.shown()
    assert "learner/loss  0.0200" in terminal.shown()


@pytest.mark.parametrize("columns", [64, 80, 120])
def test_a_bar_keeps_its_parts_however_narrow_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    names = ("loss", "objective", "exam", "tester acc", "|dA|", "|dC|")
    with Console(file=terminal).progress("search", 220) as update:
        for step in range(1, 221):
            update(step, dict.fromkeys(names, 0.25))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown())
    *_, bar = (line for line in text.splitlines() if "220/220" in line)
    for part in ("search ", "━━━━", "220/220 0:00:0", "steps/s  0:00 left"):
        assert part in bar
    below = text[text.rindex(bar) :]
    for name in names:
        assert f"{name}  0.2500" in below


def test_a_pipe_that_nobody_reads_any_more_ends_no_run(capsys):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    run(Console(file=Closed()))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "nobody reads the output any more; the run goes on" in err


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_neither_does_a_terminal_that_is_closed_nor_a_full_disk(capsys, code):
    class Gone(io.StringIO):
        def flush(self):
            raise OSError(code, os.strerror(code))

    run(Console(file=Gone()))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert (
        f"the output is not taken any more ({os.strerror(code)}); the run goes on"
        in err
    )


def test_without_a_standard_output_nothing_is_printed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    run(Console())
    run(Console(quiet=True))


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_compiling_the_next_network_is_not_in_the_pace(monkeypatch, stream):
    """Two networks of 20 steps, 50 a second, after a minute of compiling each."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    now = 0.0
    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("skillearn_jax.train.console.time", clock)
    file = stream()
    with Console(file=file).progress("evaluate", 40) as update:
        for network in (0, 1):
            now += 60
            for step in range(1, 21):
                now += 0.02
                update(20 * network + step, {}, f"network {network}")
    text = file.shown() if stream is Terminal else file.getvalue()
    paces = re.findall(r"([\d.]+) steps/s", text)
    assert set(paces) == {"50.0"}


def test_the_time_to_go_is_told_by_the_pace_so_far(monkeypatch):
    """After a minute of compiling, half a step a second: 89 steps are 178 s."""
    now = 60.0
    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("skillearn_jax.train.console.time", clock)
    pace = _Pace(100)
    pace.start(1, "search")
    assert pace.rate(1) == ""
    now += 20
    pace.start(11, "search")
    assert pace.rate(11).split() == ["0.5", "steps/s", "2:58", "left"]
    now += 980
    pace.start(21, "search")
    assert pace.rate(21).split() == ["50.0", "s/step", "1:05:50", "left"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("columns", ["1", "12", "80"])
def test_narrow_and_old_terminals_are_survived(monkeypatch, encoding, columns):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    run(Console(file=Terminal(encoding)))


PATH = "/".join(20 * ["my-runs"])  # longer than a line


@pytest.mark.parametrize(("stream", "columns"), [(io.StringIO, 100), (Terminal, 40)])
def test_of_a_message_nothing_is_cut(monkeypatch, stream, columns):
    """Of a drawing it is, which folded would be none."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    file = stream()
    console = Console(file=file)
    assert console.columns == columns
    words = " ".join(f"word{i}" for i in range(30))
    console.message(f"report: {PATH[:95]}", fold=False)
    console.message(f"see {PATH}")
    console.message(f"a   table\n\n  of two  lines\n! {words}")
    console.drawing("│" * 120 + "\n┼")
    text = file.shown() if stream is Terminal else file.getvalue()
    lines = text.splitlines()
    assert lines[:3] == [f"report: {PATH[:95]}", "see", PATH]
    assert lines[3:6] == ["a   table", "", "  of two  lines"]
    assert " ".join(lines[6:-2]) == f"! {words}"
    assert all(len(line) <= columns for line in lines[3:])
    assert lines[-2:] == ["│" * columns, "┼"]


def test_drawings_become_ascii_where_they_must():
    terminal = Terminal("ascii")
    Console(file=terminal).message("╭─▶ c_{k}\n╰")
    assert "+->" in terminal.shown()
    Console(file=terminal).message("─ 3.06 ± 0.96 %")
    assert "- 3.06 +- 0.96 %" in terminal.shown()


def test_quiet_prints_nothing(capsys):
    run(Console(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_an_exception_passes_through_and_stops_the_bar():
    console = Console(file=Terminal())

    def fail():
        with console.progress("search", 10) as update:
            update(1, {})
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    run(console)


def test_metrics_are_read_only_when_shown():
    class Slow(float):
        reads = 0

        def __float__(self):
            Slow.reads += 1
            return 1.0

    metrics = {"loss": Slow()}
    with Console(file=io.StringIO()).progress("search", 10_000) as update:
        start = time.perf_counter()
        for step in range(1, 10_001):
            update(step, metrics)
        seconds = time.perf_counter() - start
    assert Slow.reads == 11
    assert seconds / 10_000 < 1e-4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, " 0.0000"),
        (2.302585, " 2.3026"),
        (-12.5, "-12.500"),
        (1797, " 1797.0"),
        (1.5e-5, "1.5e-05"),
        (float("nan"), "    nan"),
    ],
)
def test_short_number(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0:00"),
        (59.6, "1:00"),
        (3599, "59:59"),
        (3661, "1:01:01"),
        (1e5, "27:46:40"),
    ],
)
def test_time_to_go_is_that_of_a_clock(seconds, text):
    assert _clock(seconds) == text
