"""What a person sees while a run goes: a banner, a progress bar, messages, tables."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO, cast

import rich.console
import rich.panel
import rich.progress
import rich.table
import rich.text

Update = Callable[[int, Mapping[str, float]], None]

_LOG_WIDTH = 100  # of a file or a pipe, where no terminal says its own
_REDRAW_S = 0.1
_ASCII = str.maketrans("─━│┃╭╮╰╯├┤┬┴┼▶→±×·…–−", "--||+++++++++>>+x..--")


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

    def message(self, text: str) -> None:
        """Prints text as it is; above the bar while one is shown."""
        # Lines of a drawing that are too long are cut rather than folded.
        self._rich.print(rich.text.Text(text), overflow="crop", no_wrap="\n" in text)

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
        """Shows how far a loop has come; yields `update(step, metrics)`.

        `step` counts the finished steps. Metrics are shown in the order given; they are
        read, and so waited for, only at the few steps that are shown (ten times a second
        on a terminal, every tenth of the way elsewhere).
        """
        pace = _Pace(total)
        if self._rich.quiet:
            yield lambda step, metrics: None
        elif self._interactive and not self._rich.is_dumb_terminal:
            with self._bar() as bar:
                yield _bar_update(bar, bar.add_task(label, total=total, note=""), pace)
        else:
            yield self._line_update(label, pace)

    def _bar(self) -> rich.progress.Progress:
        return rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", style="bold", markup=False),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
            console=self._rich,
            refresh_per_second=4,
        )

    def _line_update(self, label: str, pace: "_Pace") -> Update:
        shown = -1

        def update(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal shown
            pace.start(step)
            tenth = 10 * step // pace.total
            if tenth > shown:
                shown = tenth
                width = len(str(pace.total))
                done = f"{step:{width}}/{pace.total} {100 * step // pace.total:3} %"
                text = f"{label}  {done}  {pace.describe(step, metrics)}"
                self._rich.print(rich.text.Text(text), soft_wrap=True)

        return update


def _bar_update(
    bar: rich.progress.Progress, task: rich.progress.TaskID, pace: "_Pace"
) -> Update:
    due = 0.0

    def update(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal due
        pace.start(step)
        now = time.perf_counter()
        if now >= due or step >= pace.total:
            due = now + _REDRAW_S
            bar.update(task, completed=step, note=pace.describe(step, metrics))

    return update


class _Pace:
    """Steps per second and time to go, counted from the end of the first step.

    The first step holds the compilation, which says nothing about the rest.
    """

    def __init__(self, total: int) -> None:
        self.total = max(1, total)
        self._first: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        if self._first is None:
            self._first = (step, time.perf_counter())

    def describe(self, step: int, metrics: Mapping[str, float]) -> str:
        assert self._first is not None
        steps = step - self._first[0]
        parts = [f"{name} {short_number(float(v))}" for name, v in metrics.items()]
        if steps > 0:
            seconds = max(1e-9, time.perf_counter() - self._first[1])
            left = _clock((self.total - step) * seconds / steps)
            parts.insert(0, f"{steps / seconds:6.1f} steps/s  {left} left")
        return "  ".join(parts)


class _Tolerant:
    """A text stream that replaces what its encoding cannot say."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
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
    """Returns a number in five significant digits, seven characters wide if it can."""
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
