"""Faults: units that are killed, stopped or cut off, and a clock that jumps."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .. import processes
from ..expectations import Run, Subject, must_equal, not_judged, requirement, violation
from ..subject import read_json
from ..traces import QUIET_S, Gate, stays
from ..workflows import Json, image, in_part, parallel, updates

_WATCHED_S = 0.3
_HOUR_S = 3_600


def _good(name: str) -> list[object]:
    return updates({"zarr_url": name, "attributes": {"by": name}})


def _found_here(subject: Subject, run: Run, path: Path) -> Json:
    """What a unit says of itself (see `task_program.describe`); one out of reach is not judged."""
    unit: Json = read_json(subject.wait_for(path))
    if unit["machine"] != processes.machine():
        run.cancel()
        run.wait()
        not_judged("units run on another machine or in a container, where the suite cannot send them signals")
    return unit


def _stop(subject: Subject, run: Run, unit: Json) -> None:
    """Stop the unit's process group."""
    others = {os.getpgid(run.runner.pid): "the process that awaits the run", os.getpgrp(): "the suite"}
    if unit["group"] in others:
        violation(
            "a unit to have a process group of its own", f"its group is that of {others[unit['group']]}"
        )
    os.killpg(unit["group"], signal.SIGSTOP)
    subject.eventually(lambda: processes.is_stopped(unit["pid"]), "the unit to be stopped by SIGSTOP")


@requirement("FAULT-001")
def test_killed_from_outside(subject: Subject) -> None:
    """Runs three units, and kills the second one (SIGKILL) while it runs; the third one ends after that."""
    about, gate = subject.folder / "about", Gate(subject)
    do: Json = {
        "a": [_good("a")],
        "b": [["describe", str(about)], ["hang"]],
        "c": [*gate.steps("c"), _good("c")],
    }
    run = subject.start([parallel(do)], ["a", "b", "c"], **subject.room_for(2))
    os.kill(_found_here(subject, run, about)["pid"], signal.SIGKILL)
    stays(lambda: not run.is_over, QUIET_S, "the run to go on with the third unit", "it ended")
    gate.let("c")
    ended = run.wait()
    ended.failure.must_be("JobExecutionError", "returncode=-9", "0_par_0000001")
    must_equal(ended.images, [image("a", by="a"), image("b"), image("c", by="c")], "the images afterwards")
    must_equal(ended.statuses, ["failed"], "the history's statuses")


@requirement("FAULT-001")
@pytest.mark.parametrize("part", ["non_parallel", "init"])
def test_killed_alone(subject: Subject, part: str) -> None:
    """Runs a task of one unit, and kills it (SIGKILL) while it runs."""
    about = subject.folder / "about"
    run = subject.start([in_part(part, [["describe", str(about)], ["hang"]])], ["a"], what=part)
    os.kill(_found_here(subject, run, about)["pid"], signal.SIGKILL)
    run.wait().failure.must_be("JobExecutionError", "returncode=-9")


@requirement("FAULT-002")
def test_stopped_and_continued(subject: Subject) -> None:
    """Stops the process group of a unit (SIGSTOP), lets it alone for 0.3 s, and continues it (SIGCONT)."""
    about, gate = subject.folder / "about", Gate(subject)
    run = subject.start([parallel([["describe", str(about)], *gate.steps("a"), _good("a")])], ["a"])
    unit = _found_here(subject, run, about)
    gate.must_come("a")
    _stop(subject, run, unit)
    gate.let("a")
    stays(
        lambda: not run.is_over,
        _WATCHED_S,
        "a run whose unit is stopped to go on",
        "it ended while the unit was stopped",
    )
    must_equal(read_json(run.folder / "history.json"), [], "history.json while the unit is stopped")
    os.killpg(unit["group"], signal.SIGCONT)
    ended = run.wait()
    ended.must_succeed()
    must_equal(ended.images, [image("a", by="a")], "the images after it was continued")


@requirement("FAULT-003")
def test_stopped_and_cancelled(subject: Subject) -> None:
    """Stops the process group of a unit that has a child (SIGSTOP), and cancels the run."""
    about, lock, child = (subject.folder / name for name in ("about", "lock", "child"))
    steps = [["alive", str(lock)], ["child", str(child)], ["describe", str(about)], ["hang"]]
    run = subject.start([parallel(steps)], ["a"])
    _stop(subject, run, _found_here(subject, run, about))
    run.cancel()
    ended = run.wait()
    ended.failure.must_be("CancelledError")
    subject.must_be_dead(lock, "after the cancel")
    must_equal(ended.statuses, ["failed"], "the history's statuses")


_HALF = '{"image_list_updates": [{"zarr_url": "/data/zarr/b", "attributes": {"by": "half an output"}}]'


@requirement("FAULT-004")
@pytest.mark.parametrize("half", [_HALF, _HALF[:-1], _HALF + "}\0\0\0\0"], ids=["one", "two", "zeros"])
def test_half_an_output(subject: Subject, half: str) -> None:
    """Runs two units, of which the second leaves an output that is cut off, and exits with 0."""
    what = f"the second unit's output is {half!r}"
    ended = subject.run([parallel({"a": [_good("a")], "b": [["raw", half]]})], ["a", "b"], what=what)
    ended.failure.must_be("JobExecutionError", "Validation of task output failed.", "0_par_0000001")
    must_equal(ended.images, [image("a", by="a"), image("b")], "the images afterwards")


@requirement("FAULT-004")
def test_killed_while_writing(subject: Subject) -> None:
    """Runs two units, and kills the second one with SIGKILL while it writes its output over and over."""
    about, writes = subject.folder / "about", subject.folder / "writes"
    steps: Json = {"a": [_good("a")], "b": [["describe", str(about)], ["write_until_killed", str(writes)]]}
    run = subject.start([parallel(steps)], ["a", "b"])
    unit = _found_here(subject, run, about)
    subject.wait_for(writes)
    os.kill(unit["pid"], signal.SIGKILL)
    ended = run.wait()
    ended.failure.must_be("JobExecutionError", "returncode=-9", "0_par_0000001")
    must_equal(ended.images, [image("a", by="a"), image("b")], "the images afterwards")


@requirement("FAULT-008")
@pytest.mark.parametrize("hours", [2, -2])
def test_the_clock_jumps(subject: Subject, hours: int) -> None:
    """Lets the clock of the process that awaits the run jump by two hours while all but one unit rest."""
    runner, gate = subject.new_runner(), Gate(subject)
    do: Json = {"a": [*gate.steps("a"), _good("a")], "b": [_good("b")]}
    jump = f"the clock jumps by {hours} h"
    run = subject.start([parallel(do), parallel()], ["a", "b"], runner=runner, what=jump)
    gate.must_come("a")
    got = "it ended although a unit was running"
    # Dask gathers messages for 10 ms, by the clock: a jump just then would be judged by chance.
    stays(lambda: not run.is_over, _WATCHED_S, "the run to go on while a unit runs", got)
    runner.set_clock(hours * _HOUR_S, subject.deadline)
    stays(lambda: not run.is_over, _WATCHED_S, f"the run to go on when {jump}", got)
    gate.let("a")
    ended = run.wait()
    ended.must_succeed()
    must_equal(ended.images, [image("a", by="a"), image("b", by="b")], "the images afterwards")
