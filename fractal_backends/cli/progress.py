"""How a run is shown while it goes: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task as BarTask, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from ..hooks import hookimpl
from ..interface import Cause, TaskInfo, TaskReport, UnitEvent, UnitState
from .terminal import one_line

COUNTS = ("done", "failed", "running", "left")
_LINE_EVERY_S = 10.0
_SHOWN_FAILURES = 5


class Counts:
    """An observer that counts the units of the task under way, and keeps the reports of those that ended."""

    def __init__(self) -> None:
        self.reports: list[tuple[TaskInfo, TaskReport]] = []
        self._reset()

    def _reset(self) -> None:
        self.total = self.done = self.failed = 0
        self.running: set[str] = set()

    @property
    def now(self) -> dict[str, int]:
        """How many units there are of each of `COUNTS`."""
        left = self.total - self.done - self.failed - len(self.running)
        return dict(zip(COUNTS, (self.done, self.failed, len(self.running), left), strict=True))

    @hookimpl
    def task_started(self, task: TaskInfo) -> None:
        """See `ObserverHooks`."""
        self._reset()

    @hookimpl
    def task_changed(self, task: TaskInfo) -> None:
        """See `ObserverHooks`."""
        self.total = task.units

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        """See `ObserverHooks`."""
        if event.state is UnitState.STARTED:
            self.running.add(event.unit.label)
        elif event.outcome is not None:
            self.running.discard(event.unit.label)
            if event.outcome.cause is Cause.DONE:
                self.done += 1
            else:
                self.failed += 1

    @hookimpl
    def task_ended(self, task: TaskInfo, report: TaskReport) -> None:
        """See `ObserverHooks`."""
        self.reports.append((task, report))


class _TimeColumn(ProgressColumn):
    """How long a task will still take, or took."""

    max_refresh = 0.5

    def render(self, task: BarTask) -> Text:
        """See `ProgressColumn`."""
        if task.finished:
            return Text(f"took {_clock(task.finished_time or 0.0)}", style="progress.elapsed")
        if task.time_remaining is None:
            return Text(f"{_clock(task.elapsed or 0.0)} so far", style="progress.elapsed")
        return Text(f"{_clock(task.time_remaining)} left", style="progress.remaining")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _count_column(name: str) -> TextColumn:
    return TextColumn(
        f"{{task.fields[counts][{name}]}}", justify="right", table_column=Column(name, justify="right")
    )


class _BarTable(Progress):
    """Bars with a heading, that ask for news whenever they are drawn."""

    def __init__(self, *columns: ProgressColumn, console: Console, update: Callable[[], None]) -> None:
        self._ask = update
        super().__init__(*columns, console=console, expand=True)

    def make_tasks_table(self, tasks: Iterable[BarTask]) -> Table:
        """See `Progress`."""
        self._ask()
        tasks = list(tasks)
        if hasattr(self, "live") and self.live.is_started:
            tasks = tasks[-(self.console.height - 2) :]
        table = super().make_tasks_table(tasks)
        table.show_header = bool(table.row_count)
        return table


class Bars:
    """An observer that shows a bar for each task."""

    def __init__(self, console: Console, counts: Counts) -> None:
        self._counts = counts
        self._bar: TaskID | None = None
        name = Column("task", ratio=1, no_wrap=True, overflow="ellipsis")
        self._progress = _BarTable(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=12),
            *(_count_column(count) for count in COUNTS),
            _TimeColumn(table_column=Column("", min_width=12)),
            console=console,
            update=self._update,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    @hookimpl
    def task_started(self, task: TaskInfo) -> None:
        """See `ObserverHooks`."""
        none = dict.fromkeys(COUNTS, "")
        self._bar = self._progress.add_task(f"{task.order} {one_line(task.name)}", total=None, counts=none)

    @hookimpl
    def task_ended(self, report: TaskReport) -> None:
        """See `ObserverHooks`."""
        self._update()
        if self._bar is not None and report.units == 0:
            self._progress.update(self._bar, total=1, completed=1)

    def _update(self) -> None:
        if self._bar is not None and self._counts.total:
            now = self._counts.now
            numbers = {name: str(number) for name, number in now.items()}
            numbers["failed"] = f"[red]{now['failed']}[/red]" if now["failed"] else "0"
            ended = now["done"] + now["failed"]
            self._progress.update(self._bar, total=self._counts.total, completed=ended, counts=numbers)


class Lines:
    """An observer that prints a line now and then."""

    def __init__(self, console: Console, counts: Counts) -> None:
        self._console = console
        self._counts = counts
        self._printed = time.monotonic()
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    @hookimpl
    def task_started(self, task: TaskInfo) -> None:
        """See `ObserverHooks`."""
        self._failures = 0
        self._print(f"{_title(task)}: started")

    @hookimpl
    def unit_changed(self, task: TaskInfo, event: UnitEvent) -> None:
        """See `ObserverHooks`."""
        if event.outcome is not None and event.outcome.cause is not Cause.DONE:
            self._failures += 1
            if self._failures <= _SHOWN_FAILURES:
                self._print(f"{_title(task)}: unit {event.unit.label} failed: {event.outcome.cause}")
        if time.monotonic() - self._printed > _LINE_EVERY_S:
            now = ", ".join(f"{number} {name}" for name, number in self._counts.now.items())
            self._print(f"{_title(task)}: {now}")

    @hookimpl
    def task_ended(self, task: TaskInfo, report: TaskReport) -> None:
        """See `ObserverHooks`."""
        numbers = f"{report.units} units, {report.failed} failed, {report.wall_s:.1f} s"
        self._print(f"{_title(task)}: {report.status}, {numbers}")

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        self._console.print(Text(line), soft_wrap=True)


def _title(task: TaskInfo) -> str:
    return f"Task {task.order} {one_line(task.name)}"


def make_display(console: Console, counts: Counts) -> Bars | Lines:
    """Bars where someone looks, lines where something reads."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return Bars(console, counts) if bars else Lines(console, counts)
