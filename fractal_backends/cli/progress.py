"""How a run is shown while it goes: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from operator import itemgetter
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task as BarTask, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from ..hooks import hookimpl
from ..interface import Cause, TaskInfo, TaskReport, UnitEvent, UnitState
from .terminal import one_line

COUNTS = ("done", "failed", "running", "left")
_LINE_EVERY_S = 10.0
_REASON_AFTER_S = 1.0
_SHOWN_FAILURES = 5
_SHOWN_REASONS = 5
_KEPT_REASONS = 20
_REASON_CHARACTERS = 100
_OTHER_REASONS = "other reasons"


class Waiting:
    """What the units of a task wait for, where their backend tells."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()

    @property
    def reason(self) -> str:
        """What most of them wait for; empty if none has a reason."""
        numbers = list(self._numbers.items())  # at once: another thread draws
        return max(numbers, key=itemgetter(1), default=("", 0))[0]

    def note(self, label: str, info: str) -> None:
        """A unit waits, for what `info` says, if it says anything."""
        self.forget(label)
        if not info:
            return
        reason = _shortened(info)
        if reason not in self._numbers and len(self._numbers) >= _KEPT_REASONS:
            reason = _OTHER_REASONS
        self._reasons[label] = reason
        self._numbers[reason] += 1

    def forget(self, label: str) -> None:
        """A unit does not wait any more."""
        reason = self._reasons.pop(label, None)
        if reason is not None:
            self._numbers[reason] -= 1
            if not self._numbers[reason]:
                del self._numbers[reason]


def _shortened(info: str) -> str:
    """On one line; one object for units with the same, of which there may be many."""
    text = one_line(info[: _REASON_CHARACTERS + 1])
    return sys.intern(text if len(info) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…")


class Counts:
    """An observer that counts the units of the task under way, and keeps the reports of those that ended."""

    def __init__(self) -> None:
        self.reports: list[tuple[TaskInfo, TaskReport]] = []
        self._reset()

    def _reset(self) -> None:
        self.total = self.done = self.failed = 0
        self.running: set[str] = set()
        self._waiting = Waiting()

    @property
    def waiting_for(self) -> str:
        """What most of the units that wait do so for, as `waiting: Resources`; empty if it is not known."""
        reason = self._waiting.reason
        return f"waiting: {reason}" if reason else ""

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
        label = event.unit.label
        if event.state is UnitState.QUEUED:
            if label not in self.running:
                self._waiting.note(label, event.info)
            return
        self._waiting.forget(label)
        if event.state is UnitState.STARTED:
            self.running.add(label)
        elif event.outcome is not None:
            self.running.discard(label)
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
    """Bars with a heading and a note below, that ask for news whenever they are drawn."""

    def __init__(
        self,
        *columns: ProgressColumn,
        console: Console,
        update: Callable[[], None],
        note: Callable[[], str],
    ) -> None:
        self._ask = update
        self._note = note
        super().__init__(*columns, console=console, expand=True)

    def make_tasks_table(self, tasks: Iterable[BarTask]) -> Table:
        """See `Progress`."""
        self._ask()
        tasks = list(tasks)
        if hasattr(self, "live") and self.live.is_started:
            tasks = tasks[-(self.console.height - 3) :]
        table = super().make_tasks_table(tasks)
        table.show_header = bool(table.row_count)
        return table

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress`."""
        yield from super().get_renderables()
        if note := self._note():
            yield Text(note, no_wrap=True, overflow="ellipsis")


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
            note=lambda: counts.waiting_for,
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
        self._reasons: set[str] = set()
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_timer()

    @hookimpl
    def task_started(self, task: TaskInfo) -> None:
        """See `ObserverHooks`."""
        self._failures = 0
        self._reasons.clear()
        self._print(f"{_title(task)}: started")

    @hookimpl
    def unit_changed(self, task: TaskInfo, event: UnitEvent) -> None:
        """See `ObserverHooks`."""
        if event.outcome is not None and event.outcome.cause is not Cause.DONE:
            self._failures += 1
            if self._failures <= _SHOWN_FAILURES:
                self._print(f"{_title(task)}: unit {event.unit.label} failed: {event.outcome.cause}")
        if time.monotonic() - self._printed > _LINE_EVERY_S:
            self._print_counts(task)
        elif event.info and self._timer is None and len(self._reasons) < _SHOWN_REASONS:
            self._timer = threading.Timer(_REASON_AFTER_S, self._tell_reason, [task])
            self._timer.daemon = True
            self._timer.start()

    def _tell_reason(self, task: TaskInfo) -> None:
        """Units that wait may do so for hours, in which nothing else happens."""
        self._timer = None
        reason = self._counts.waiting_for
        if reason and reason not in self._reasons:
            self._print_counts(task)

    def _print_counts(self, task: TaskInfo) -> None:
        now = ", ".join(f"{number} {name}" for name, number in self._counts.now.items())
        reason = self._counts.waiting_for
        self._reasons.add(reason)
        self._print(f"{_title(task)}: {now} ({reason})" if reason else f"{_title(task)}: {now}")

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()

    @hookimpl
    def task_ended(self, task: TaskInfo, report: TaskReport) -> None:
        """See `ObserverHooks`."""
        self._stop_timer()
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
