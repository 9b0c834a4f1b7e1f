"""Scale: many units, many tasks."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from ..expectations import Ended, Run, Subject, must, must_contain, must_equal, requirement
from ..violations import must_name
from ..workflows import Json, dataset, image, parallel

MANY = 2_003
"""A prime number: batches of any size leave a rest."""
_FAILURES = 1_000
_DESCRIPTORS = 256
_TASKS = 50
_WAITING = 1_000
_STEADY_S = 0.4
_NO_CEILING = 50
"""Where so many units have started, there is no need to see more of them."""
_COMMAND = shlex.join(["/bin/sh", str(Path(__file__).parents[1] / "quick_task.sh")])
_MEGABYTE = 1 << 20


def _quick(**fields: Any) -> Json:
    """A parallel task that takes next to no time (see `quick_task.sh`)."""
    task = {"name": "task", "type": "parallel", "command_parallel": _COMMAND, **fields.pop("task", {})}
    return {"task": task, **fields}


def _names(count: int) -> list[str]:
    return [f"{number:04}" for number in range(count)]


def _must_have_run_once(ended: Ended, names: list[str]) -> None:
    path = ended.folder / "0_task" / "ran.txt"
    ran = path.read_text().splitlines() if path.exists() else []
    wrong = sorted(set(names) - set(ran))
    must(not wrong, f"{len(names):,} units to run", f"{len(wrong):,} did not, the first of them {wrong[:1]}")
    must(len(ran) == len(names), f"{len(names):,} units to run once", f"{len(ran):,} starts")


@requirement("SCALE-001")
def test_many_units(subject: Subject) -> None:
    """Runs a parallel task of 2,003 units, each of which updates its image."""
    names = _names(MANY)
    ended = subject.run([_quick()], names)
    ended.must_succeed()
    _must_have_run_once(ended, names)
    must_equal(ended.images, [image(name, last=0) for name in names], "the images")


@requirement("SCALE-002")
def test_many_failures(subject: Subject) -> None:
    """Runs a parallel task of 1,000 units that print 2,000 characters and fail, and one that succeeds."""
    names = [*(f"bad-{name}" for name in _names(_FAILURES)), "good"]
    ended = subject.run([_quick()], names)
    message = ended.failure.must_be("TaskExecutionError").message
    _must_have_run_once(ended, names)
    for text, what in (
        (message, "message"),
        (ended.failure.fields.get("assembled") or "", "assembled error"),
    ):
        must(
            len(text.encode()) < _MEGABYTE,
            f"an error whose {what} is shorter than 1 MB",
            f"{len(text):,} characters",
        )
    must_name(message.replace(",", ""), _FAILURES, "the number of units that failed")
    must_contain(message, "0_par_0000000", "the message, as the name of the first unit that failed,")


@requirement("SCALE-003")
def test_few_descriptors(subject: Subject) -> None:
    """Runs a parallel task of 300 units where a process may have 256 open descriptors."""
    names = _names(_DESCRIPTORS + 44)
    runner = subject.new_runner(limits={"RLIMIT_NOFILE": _DESCRIPTORS})
    ended = subject.run([_quick()], names, runner=runner)
    ended.must_succeed()
    must_equal(ended.images, [image(name, last=0) for name in names], "the images")


@requirement("SCALE-004")
def test_many_tasks(subject: Subject) -> None:
    """Runs a workflow of 50 tasks as a whole, and in two runs of 25 tasks."""
    tasks = [_quick(task={"output_types": {f"t{order}": True}}) for order in range(_TASKS)]
    half = _TASKS // 2
    whole = subject.start(tasks, ["a"])
    first = subject.run(tasks, ["a"], last_task_index=half - 1)
    first.must_succeed()
    second = subject.run(
        tasks,
        dataset=dataset(first.images, filters=first.saved["filters"]),
        first_task_index=half,
        last_task_index=_TASKS - 1,
    )
    ended = whole.wait()
    for run in (ended, second):
        run.must_succeed()
        types = {f"t{order}": True for order in range(_TASKS)}
        what = f"after {_TASKS} tasks, in {'one run' if run is ended else 'two runs'}"
        must_equal(run.images, [image("a", types, last=_TASKS - 1)], f"the images {what}")
        must_equal(run.saved["filters"], {"types": types, "attributes": {}}, f"the filters {what}")
    must_equal(ended.statuses, ["done"] * _TASKS, "the statuses after one run")
    must_equal(first.statuses + second.statuses, ["done"] * _TASKS, "the statuses after two runs")


@requirement("SCALE-005")
def test_cancel(subject: Subject) -> None:
    """Cancels a run of 1,000 units when the first ones hang, with room for four where that can be asked for,
    and the others wait; each start leaves a line. Then runs another workflow."""
    trace, lock = subject.folder / "trace", subject.folder / "lock"
    do = [["alive", str(lock)], ["append", str(trace), "started"], ["hang"]]
    run = subject.start([parallel(do)], _names(_WAITING), observe=True, **subject.room_for(4))
    subject.wait_for(trace)
    _wait_until_steady(run, trace)
    run.cancel()
    run.wait().failure.must_be("CancelledError")
    started = _lines(trace)
    subject.must_be_dead(lock, "when CancelledError came out")
    must_equal(subject.run([parallel()], ["a"]).statuses, ["done"], "another run's statuses")
    must_equal(_lines(trace), started, "the number of units that had started")


def _wait_until_steady(run: Run, trace: Path) -> None:
    """Until units are quiet for a while, or many have started, or what is left is the time for a cancel."""
    seen, since = 0, time.monotonic()
    while time.monotonic() < since + _STEADY_S and run.deadline.left > run.deadline.for_cancel:
        started = _lines(trace)
        if started >= _NO_CEILING:
            return
        if started + len(run.events) != seen:
            seen, since = started + len(run.events), time.monotonic()
        time.sleep(0.01)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())
