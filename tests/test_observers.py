"""What observers of a run are told, and what happens when they fail."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fractal_backends import (
    Cause,
    InvalidInputError,
    JobExecutionError,
    RunInfo,
    TaskExecutionError,
    TaskInfo,
    TaskReport,
    UnitEvent,
    UnitState,
    get_backend,
    hookimpl,
)
from tests.helpers.workflows import (
    Json,
    compound,
    non_parallel,
    parallel,
    removals,
    run,
    saved,
    statuses,
    step,
    updates,
)


class Recorder:
    """Writes down all that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.reports: list[TaskReport] = []
        self.events: list[UnitEvent] = []
        self.runs: list[RunInfo] = []
        self.threads: set[int] = set()
        self.error: BaseException | None = None

    @hookimpl
    def run_started(self, run: RunInfo) -> None:
        self.threads.add(threading.get_ident())
        self.runs.append(run)
        self.told.append(("run started",))

    @hookimpl
    def task_started(self, run: RunInfo, task: TaskInfo) -> None:
        self.told.append(("task started", task.order, task.name, task.type, task.units))

    @hookimpl
    def task_changed(self, task: TaskInfo) -> None:
        self.told.append(("task changed", task.order, task.units))

    @hookimpl
    def unit_changed(self, task: TaskInfo, event: UnitEvent) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)
        self.told.append((event.state.value, task.order, event.unit.label))

    @hookimpl
    def task_ended(self, run: RunInfo, task: TaskInfo, report: TaskReport) -> None:
        self.reports.append(report)
        self.told.append(("task ended", task.order, report.status))
        assert len(saved(run.workflow_dir_local)["history"]) == len(self.reports)

    @hookimpl
    def run_ended(self, run: RunInfo, error: BaseException | None) -> None:
        self.runs.append(run)
        self.error = error
        self.told.append(("run ended",))


class Failing:
    """Raises whatever it is told."""

    @hookimpl
    def run_started(self) -> None:
        raise ValueError("no run")

    @hookimpl
    def task_started(self) -> None:
        raise ValueError("no task")

    @hookimpl
    def task_changed(self) -> None:
        raise ValueError("no change")

    @hookimpl
    def unit_changed(self) -> None:
        raise ValueError("no unit")

    @hookimpl
    def task_ended(self) -> None:
        raise ValueError("no end of a task")

    @hookimpl
    def run_ended(self) -> None:
        raise ValueError("no end of the run")


def _observed(folder: Path, tasks: list[Json], images: str = "", *others: object) -> Recorder:
    """What an observer is told of a run with one unit at a time."""
    recorder = Recorder()
    backend = get_backend("local", options={"parallel_tasks_per_job": 1}, observers=[*others, recorder])
    try:
        run(folder, tasks, images, backend=backend)
    except (TaskExecutionError, JobExecutionError) as error:
        assert recorder.error is error
    else:
        assert recorder.error is None
    return recorder


def _unit_story(recorder: Recorder, label: str) -> list[str]:
    return [entry[0] for entry in recorder.told if entry[2:] == (label,)]


def test_observers_see_run_task_and_unit_changes_in_order(tmp_path: Path) -> None:
    recorder = _observed(tmp_path / "run", [non_parallel(), compound(["a", "b"], task={"name": "Two"})], "a")
    around = [entry for entry in recorder.told if entry[0] not in ("queued", "started", "ended")]
    assert around == [
        ("run started",),
        ("task started", 0, "task", "non_parallel", 0),
        ("task changed", 0, 1),
        ("task ended", 0, "done"),
        ("task started", 1, "Two", "compound", 0),
        ("task changed", 1, 1),
        ("task changed", 1, 3),
        ("task ended", 1, "done"),
        ("run ended",),
    ]
    for label in ("0", "1", "1_par_0000000", "1_par_0000001"):
        assert _unit_story(recorder, label) == ["queued", "started", "ended"]
    assert recorder.told.index(("ended", 1, "1")) < recorder.told.index(("task changed", 1, 3))
    units_of_1 = [index for index, entry in enumerate(recorder.told) if entry[1:2] == (1,)]
    assert recorder.told.index(("task ended", 0, "done")) < min(units_of_1)


def test_a_units_events_tell_when_and_how(tmp_path: Path) -> None:
    before = time.time()
    do: Json = {"a": [["pid", str(tmp_path / "pid")]], "b": [["exit_with", 3]], "c": [["raw", "?"]]}
    recorder = _observed(tmp_path / "run", [parallel(do)], "abc")
    ends = {event.unit.component: event for event in recorder.events if event.state is UnitState.ENDED}
    causes = [ends[component].outcome.cause for component in range(3)]  # type: ignore[union-attr]
    assert causes == [Cause.DONE, Cause.TASK_ERROR, Cause.INVALID_OUTPUT]
    starts = [event for event in recorder.events if event.state is UnitState.STARTED]
    assert starts[0].handle == (tmp_path / "pid").read_text()
    assert all(event.outcome is None for event in starts)
    times = [event.time for event in recorder.events if event.unit.component == 0]
    assert before <= times[0] <= times[1] <= times[2] <= time.time()
    done = ends[0].outcome
    assert (
        done is not None and done.wall_s is not None and done.cpu_s is not None and done.peak_mb is not None
    )
    assert 0 < done.wall_s < 60 and 0 <= done.cpu_s < 60 and 0 < done.peak_mb < 1000


def test_a_tasks_report_counts_units_and_images(tmp_path: Path) -> None:
    change = [updates({"zarr_url": "a"}, {"zarr_url": "new"}, {"zarr_url": "other"})]
    tasks = [
        non_parallel(change),
        non_parallel([removals("new", "a")]),
        parallel(),
        parallel({"other": [["exit_with", 1]]}),
    ]
    first, second, third, last = _observed(tmp_path / "run", tasks, "a").reports
    assert (first.images_new, first.images_updated, first.images_removed) == (2, 1, 0)
    assert (second.images_new, second.images_updated, second.images_removed) == (0, 0, 2)
    assert (third.images_new, third.images_updated, third.images_removed) == (0, 1, 0)
    assert (third.status, third.units, third.failed) == ("done", 1, 0)
    assert (last.status, last.units, last.failed) == ("failed", 1, 1)
    assert last.images_updated == 0
    assert first.wall_s > 0 and first.cpu_s is not None and first.peak_mb is not None


def test_all_hooks_are_called_in_the_runs_own_thread(tmp_path: Path) -> None:
    recorder = _observed(tmp_path / "run", [parallel()], "abc")
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


@pytest.mark.parametrize("task", [parallel([["exit_with", 1]]), step("parallel", type_filters={"x": True})])
def test_observers_see_the_end_of_a_run_that_fails(tmp_path: Path, task: Json) -> None:
    recorder = _observed(tmp_path / "run", [task, non_parallel()], "a")
    assert recorder.error is not None
    assert recorder.told[-2:] == [("task ended", 0, "failed"), ("run ended",)]


def test_observers_see_nothing_of_a_run_with_invalid_input(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(InvalidInputError):
        run(tmp_path / "run", [], backend=get_backend("local", observers=[recorder]))
    assert recorder.told == []


def test_an_observer_that_raises_is_logged_and_harms_nobody(tmp_path: Path) -> None:
    alone = _observed(tmp_path / "alone", [non_parallel()], "a")
    last = Recorder()
    beside = _observed(tmp_path / "run", [non_parallel()], "a", last, Failing())
    assert beside.told == last.told == alone.told
    assert statuses(saved(tmp_path / "run")) == ["done"]
    log = (tmp_path / "run" / "workflow.log").read_text()
    for text in ("no run", "no task", "no change", "no unit", "no end of a task", "no end of the run"):
        assert f"ValueError: {text}" in log
    assert "Failing" in log


def test_observers_are_told_in_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    order: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def run_started(self) -> None:
            order.append(self.name)

    _observed(tmp_path / "run", [non_parallel()], "", *map(Named, "abc"))
    assert order == ["a", "b", "c"]


def test_observers_are_told_of_each_run_who_it_is(tmp_path: Path) -> None:
    recorder = Recorder()
    backend = get_backend("local", observers=[recorder])
    for name in ("first", "second"):
        run(tmp_path / name, [non_parallel()], backend=backend, logger_name=name, user_cache_dir="/cache")
    started, ended, started_again, ended_again = recorder.runs
    assert started == ended != started_again == ended_again
    assert started.id != started_again.id
    assert started.workflow_dir_local == started.workflow_dir_remote == tmp_path / "first"
    assert (started.logger_name, started_again.logger_name) == ("first", "second")
    assert started.user_cache_dir == "/cache"
