"""What a person sees while a run goes: a banner, a progress bar, messages, tables."""

import contextlib
import io
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO, cast

import rich.columns
import rich.console
import rich.panel
import rich.progress
import rich.table
import rich.text

from skillearn_jax.commands import complain, drop_output


class Update(Protocol):
    """A function that takes what `Console.progress` shows."""

    def __call__(self, step: int, metrics: Mapping[str, float], part: str = "") -> None:
        """Shows it."""


_LOG_WIDTH = 100  # of a file or a pipe, where no terminal says its own
_REDRAW_S = 0.1
_ASCII = str.maketrans("─━│┃╭╮╰╯├┤┬┴┼▶→×·…–−", "--||+++++++++>>x..--") | {
    ord("±"): "+-"  # a plus alone would be a sum
}


class Console:
    """Prints to a person's terminal, or as plain lines to a file or a pipe.

    Text is never read as markup. Characters that the stream cannot encode are replaced,
    so a narrow or old terminal never stops a run.
    """

    def __init__(self, quiet: bool = False, file: TextIO | None = None) -> None:
        """Opens the console.

        Args:
            quiet: print nothing at all (every process but the first is quiet).
            file: where to print; the standard output by default.
        """
        stream = sys.stdout if file is None else file
        if stream is None:  # it was closed before the start
            stream = io.StringIO()
        self._interactive = stream.isatty()
        self._rich = rich.console.Console(
            file=cast(TextIO, _Tolerant(stream)),
            quiet=quiet,
            force_terminal=self._interactive,
            force_jupyter=False,
            color_system="auto" if self._interactive else None,
            width=None if self._interactive else _LOG_WIDTH,
            markup=False,
            emoji=False,
            highlight=False,
        )

    @property
    def columns(self) -> int:
        """How wide a line may be."""
        return self._rich.width

    def banner(self, title: str, lines: Sequence[str]) -> None:
        """Prints a framed title with lines of explanation below it."""
        self._rich.print(
            rich.panel.Panel(
                rich.text.Text("\n".join(lines)),
                title=rich.text.Text(title, style="bold"),
                title_align="left",
                border_style="cyan",
                expand=False,
            )
        )

    def message(self, text: str, *, fold: bool = True) -> None:
        """Prints text, above the bar while one is shown.

        Nothing is cut: a word that is too long, as a path, stays whole.

        Args:
            text: of one line or several.
            fold: between words, to the width of the console; where others look for a line
                by its beginning, it stays one.
        """
        if fold:
            text = "\n".join(
                textwrap.fill(
                    line, self.columns, break_long_words=False, break_on_hyphens=False
                )
                for line in text.splitlines()
            )
        self._print_lines(text, "ignore")

    def drawing(self, text: str) -> None:
        """Prints a drawing; what is too wide is cut rather than folded."""
        self._print_lines(text, "crop")

    def _print_lines(self, text: str, overflow: rich.console.OverflowMethod) -> None:
        lines = rich.text.Text(text, no_wrap=True, overflow=overflow)
        # As options of `print`, these would be those of the bar below it too; and texts
        # that are in no group lose theirs.
        self._rich.print(rich.console.Group(lines), crop=False)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> None:
        """Prints a table; columns that hold only numbers are aligned to the right."""
        table = rich.table.Table(
            title=rich.text.Text(title, style="bold"), title_justify="left"
        )
        for index, name in enumerate(columns):
            numeric = all(isinstance(row[index], int | float) for row in rows)
            table.add_column(
                rich.text.Text(name),
                justify="right" if numeric and rows else "left",
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(rich.text.Text(_cell(value)) for value in row))
        self._rich.print(table)

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Update]:
        """Shows how far a loop has come; yields `update(step, metrics, part)`.

        `step` counts the finished steps. Metrics are shown in the order given; they are
        read, and so waited for, only at the few steps that are shown (ten times a second
        on a terminal, every tenth of the way elsewhere). `part` names what is stepped:
        where it changes, there was something to compile, and the pace is counted anew.
        """
        pace = _Pace(total)
        if self._rich.quiet:
            yield lambda step, metrics, part="": None
        elif self._interactive and not self._rich.is_dumb_terminal:
            with self._bar() as bar:
                task = bar.add_task(label, total=total, rate="", metrics=())
                yield _bar_update(bar, task, pace)
        else:
            yield self._line_update(label, pace)

    def _bar(self) -> "_Bar":
        label = rich.table.Column(no_wrap=True, overflow="ellipsis")
        kept = rich.table.Column(no_wrap=True)
        return _Bar(
            rich.progress.TextColumn(
                "{task.description}", style="bold", markup=False, table_column=label
            ),
            rich.progress.BarColumn(bar_width=max(4, min(24, self._rich.width - 56))),
            rich.progress.MofNCompleteColumn(table_column=kept),
            rich.progress.TimeElapsedColumn(table_column=kept),
            rich.progress.TextColumn(
                "{task.fields[rate]}", markup=False, table_column=kept
            ),
            console=self._rich,
            refresh_per_second=4,
        )

    def _line_update(self, label: str, pace: "_Pace") -> Update:
        shown = -1

        def update(step: int, metrics: Mapping[str, float], part: str = "") -> None:
            nonlocal shown
            pace.start(step, part)
            tenth = 10 * step // pace.total
            if tenth > shown:
                shown = tenth
                width = len(str(pace.total))
                done = f"{step:{width}}/{pace.total} {100 * step // pace.total:3} %"
                parts = [label, done, pace.rate(step), *_listed(metrics)]
                text = "  ".join(part for part in parts if part)
                self._rich.print(rich.text.Text(text), soft_wrap=True)

        return update


class _Bar(rich.progress.Progress):
    """A progress bar with the metrics below it, on as many lines as they need."""

    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["metrics"]:
                texts = [
                    rich.text.Text(m, no_wrap=True) for m in task.fields["metrics"]
                ]
                yield rich.columns.Columns(texts, padding=(0, 2))


def _bar_update(bar: _Bar, task: rich.progress.TaskID, pace: "_Pace") -> Update:
    due = 0.0

    def update(step: int, metrics: Mapping[str, float], part: str = "") -> None:
        nonlocal due
        pace.start(step, part)
        now = time.perf_counter()
        if now >= due or step >= pace.total:
            due = now + _REDRAW_S
            bar.update(
                task, completed=step, rate=pace.rate(step), metrics=_listed(metrics)
            )

    return update


class _Pace:
    """Steps per second and time to go, counted from the end of a part's first step.

    The first step holds the compilation, which says nothing about the rest.
    """

    def __init__(self, total: int) -> None:
        self.total = max(1, total)
        self._part: str | None = None
        self._first: tuple[int, float] | None = None

    def start(self, step: int, part: str) -> None:
        if part != self._part:
            self._part, self._first = part, (step, time.perf_counter())

    def rate(self, step: int) -> str:
        assert self._first is not None
        steps = step - self._first[0]
        if steps <= 0:
            return ""
        each = max(1e-9, time.perf_counter() - self._first[1]) / steps
        pace = f"{1 / each:6.1f} steps/s" if each < 10 else f"{each:6.1f} s/step"
        return f"{pace}  {_clock((self.total - step) * each)} left"


def _listed(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {short_number(float(v))}" for name, v in metrics.items()]


class _Tolerant:
    """A text stream that replaces what its encoding cannot say, and may lose its reader.

    What a run prints is also in its workdir: a pipe that nobody reads any more, as behind
    `head`, a terminal that was closed and a full disk are no reasons to end it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if self._stream is sys.stdout:
            drop_output(sys.stdout)
        else:
            self._stream = io.StringIO()
        why = f"the output is not taken any more ({error.strerror})"
        if isinstance(error, BrokenPipeError):
            why = "nobody reads the output any more"
        complain("skillearn_jax", f"{why}; the run goes on, Ctrl-C saves and ends it")

    def _write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            plain = text.translate(_ASCII)
            text = plain.encode(encoding, "replace").decode(encoding)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def short_number(value: float) -> str:
    """Returns a number in five digits, seven characters wide if it can."""
    size = abs(value)
    if value != value or size == float("inf"):
        text = str(value)
    elif value == 0 or 1e-3 <= size < 1e5:
        whole = len(str(int(size)))
        text = f"{value:.{max(0, 5 - whole)}f}"
    else:
        text = f"{value:.1e}"
    return text.rjust(7)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
