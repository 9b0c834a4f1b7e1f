"""Hygiene: nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ...interface import Support
from .. import processes
from ..expectations import Subject, must, must_equal, requirement, violation
from ..subject import Runner
from ..traces import Gate
from ..violations import Violation
from ..workflows import PARTS, in_part, parallel

_GRACE_S = 0.5
"""For threads and processes that are just about to go when a run is over."""
_ROUNDS = 3
_WAYS = [*zip(PARTS, ("session", "double_fork", "no_environment", "session"), strict=True)]


def _leaving(subject: Subject, way: str) -> tuple[Path, list[list[str]]]:
    """The steps of a unit that leaves a process behind, and the lock that this process holds."""
    lock = subject.folder / "lock"
    return lock, [["alive", str(lock)], [way, str(subject.folder / "left")]]


@requirement("HYG-001")
@pytest.mark.parametrize(("part", "way"), _WAYS)
def test_after_a_success(subject: Subject, part: str, way: str) -> None:
    """Runs two tasks; a unit of the first one leaves a daemon, in a session of its own, and ends well."""
    lock, do = _leaving(subject, way)
    subject.run([in_part(part, do), parallel()], ["a"], what=f"{part}, {way}").must_succeed()
    subject.must_be_dead(lock, "when the run was over")


@requirement("HYG-002")
@pytest.mark.parametrize(("part", "way"), _WAYS)
def test_after_a_failure(subject: Subject, part: str, way: str) -> None:
    """Runs a unit that leaves a daemon, in a session of its own, and exits with 3."""
    lock, do = _leaving(subject, way)
    ended = subject.run([in_part(part, [*do, ["exit_with", 3]])], ["a"], what=f"{part}, {way}")
    ended.failure.must_be("TaskExecutionError")
    subject.must_be_dead(lock, "when the run was over")


@requirement("HYG-003")
def test_a_group(subject: Subject) -> None:
    """Runs a unit that leaves a child in its process group; it is looked for while the next task waits."""
    lock, do = _leaving(subject, "child")
    gate = Gate(subject)
    run = subject.start([parallel(do), parallel(gate.steps("the next task"))], ["a"])
    gate.must_come("the next task")
    subject.must_be_dead(lock, "when the next task had started")
    gate.let("the next task")
    run.wait().must_succeed()


@requirement("HYG-004")
def test_threads(subject: Subject) -> None:
    """Counts the threads of the runner after each round of a success, a failure and a cancel."""
    runner = subject.runner
    try:
        _must_not_grow(subject, runner, "threads", lambda: processes.threads(runner.pid))
    except Violation as found:
        violation(found.expected, f"{found.got}; all threads:\n{runner.stacks()}")


@requirement("HYG-005")
def test_descriptors(subject: Subject) -> None:
    """Counts the open descriptors of the runner after each round of a success, a failure and a cancel."""
    runner = subject.runner
    _must_not_grow(subject, runner, "open descriptors", lambda: _lines(processes.descriptors(runner.pid)))


@requirement("HYG-006")
def test_children(subject: Subject) -> None:
    """Counts the processes below the runner after each round of a success, a failure and a cancel."""
    mine = os.getpid()  # where orphans come to

    def below() -> set[str]:
        ended = dict.fromkeys(processes.zombies(subject.runner.pid), "ended, and nobody asked how")
        alive = {pid: processes.command_line(pid) for pid in processes.descendants(mine)}
        return _lines({**ended, **alive})

    _must_not_grow(subject, subject.runner, "processes below the runner", below)


def _lines(found: Mapping[Any, str]) -> set[str]:
    return {f"{key}: {value}" for key, value in found.items()}


@requirement("HYG-007")
def test_files(subject: Subject) -> None:
    """Looks into the temporary and the working folder after rounds of a success, a failure and a cancel."""
    temporary, working = subject.folder / "temporary", subject.folder / "working"
    for folder in (temporary, working):
        folder.mkdir()
    runner = subject.new_runner(env={"TMPDIR": str(temporary)}, cwd=working)
    _must_not_grow(subject, runner, "files in the temporary folder", lambda: _files(temporary))
    found = sorted(_files(working))
    must(not found, "no file in the working folder", ", ".join(found))


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _must_not_grow(subject: Subject, runner: Runner, what: str, held: Callable[[], set[Any]]) -> None:
    """What a backend makes once, or now and then, is no leak; what it makes in every round is one."""
    _one_of_each(subject, runner)
    for _ in range(_ROUNDS):
        before = held()
        _one_of_each(subject, runner)
        if _shrinks(held, len(before)):
            return
    new = ", ".join(sorted(map(str, held() - before)))
    violation(
        f"no more {what} after a success, a failure and a cancel than before them",
        f"more of them after each of {_ROUNDS} rounds; new in the last one: {new}",
    )


def _shrinks(held: Callable[[], set[Any]], limit: int) -> bool:
    return processes.eventually(lambda: len(held()) <= limit, _GRACE_S)


def _one_of_each(subject: Subject, runner: Runner) -> None:
    """A run that succeeds, one that fails, and one that is cancelled."""
    gate = Gate(subject, f"gate-{len(subject.runs)}")
    subject.run([parallel()], ["a", "b"], runner=runner, what="a success").must_succeed()
    failed = subject.run([parallel([["exit_with", 3]])], ["a", "b"], runner=runner, what="a failure")
    failed.failure.must_be("TaskExecutionError")
    cancelled = subject.start([parallel(gate.steps("the unit"))], ["a"], runner=runner, what="a cancel")
    gate.must_come("the unit")
    cancelled.cancel()
    cancelled.wait().failure.must_be("CancelledError")


@requirement("HYG-008")
def test_the_process(subject: Subject) -> None:
    """Asks the runner for what all of its process shares, before and after a run with a cache folder, a
    success, a failure and a cancel."""
    runner = subject.runner
    before = runner.state(subject.deadline)
    if subject.declared.arguments.get("user_cache_dir") != Support.REFUSED:
        subject.run([parallel()], ["a"], user_cache_dir=str(subject.folder / "cache")).must_succeed()
    _one_of_each(subject, runner)
    after = runner.state(subject.deadline)
    for what, value in before.items():
        if isinstance(value, dict):  # by name: values may be secrets
            changed = sorted(
                name for name in {*value, *after[what]} if value.get(name) != after[what].get(name)
            )
            must(not changed, f"the {what} of the process that awaited the runs to stay", f"new: {changed}")
        else:
            must_equal(after[what], value, f"the {what} of the process that awaited the runs")
