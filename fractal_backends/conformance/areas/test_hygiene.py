"""Hygiene: nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import site
import time
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
_Held = Mapping[str, Callable[[], set[Any]]]
"""What is held, by its name."""
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
        _must_not_grow(subject, runner, {"threads": lambda: processes.threads(runner.pid)})
    except Violation as found:
        violation(found.expected, f"{found.got}; all threads:\n{runner.stacks()}")


@requirement("HYG-005")
def test_descriptors(subject: Subject) -> None:
    """Counts the open descriptors of the runner after each round of a success, a failure and a cancel."""
    runner = subject.runner
    opened = {"open descriptors": lambda: _lines(processes.descriptors(runner.pid))}
    _must_not_grow(subject, runner, opened)


@requirement("HYG-006")
def test_children(subject: Subject) -> None:
    """Counts the processes below the runner after each round of a success, a failure and a cancel."""
    mine = os.getpid()  # where orphans come to

    def below() -> set[str]:
        ended = dict.fromkeys(processes.zombies(subject.runner.pid), "ended, and nobody asked how")
        alive = {pid: processes.command_line(pid) for pid in processes.descendants(mine)}
        return _lines({**ended, **alive})

    _must_not_grow(subject, subject.runner, {"processes below the runner": below})


def _lines(found: Mapping[Any, str]) -> set[str]:
    return {f"{key}: {value}" for key, value in found.items()}


@requirement("HYG-007")
def test_files(subject: Subject) -> None:
    """Looks into the temporary, the home and the working folder, and into shared memory, after rounds of a
    success, a failure and a cancel."""
    temporary, working, home = (subject.folder / name for name in ("temporary", "working", "home"))
    for folder in (temporary, working):
        folder.mkdir()
    runner = subject.new_runner(env={"TMPDIR": str(temporary), **_own_home(home)}, cwd=working)
    places = {
        "files in the temporary folder": lambda: _files(temporary),
        "files in the home folder": lambda: _files(home),
        _IN_SHARED_MEMORY: _shared_memory,
    }
    started = time.monotonic()
    grown = _growing(subject, runner, places)
    if _IN_SHARED_MEMORY in grown and _grows_anyway(time.monotonic() - started):
        del grown[_IN_SHARED_MEMORY]
    _must_be_nothing(grown)
    found = sorted(_files(working))
    must(not found, "no file in the working folder", ", ".join(found))


_IN_SHARED_MEMORY = "files in shared memory, /dev/shm,"


def _own_home(home: Path) -> dict[str, str]:
    """A home folder in which new files are seen: what the real one holds is linked there, but for caches."""
    home.mkdir()
    real = Path.home()
    for path in real.iterdir() if os.access(real, os.R_OK | os.X_OK) else ():
        if path.name != ".cache":
            (home / path.name).symlink_to(path)
    user_base = site.getuserbase()  # where packages may be that the backend needs
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PYTHONUSERBASE": user_base}


def _files(folder: Path) -> set[str]:
    """All that is below a folder; what is behind links is not."""
    return {
        os.path.relpath(os.path.join(path, name), folder)
        for path, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }


def _shared_memory() -> set[str]:
    """This user's files in shared memory that no process holds which is none of ours."""
    found = set()
    for path in Path("/dev/shm").glob("*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                found.add(str(path))
    return found - processes.held_by_others(found) if found else found


def _grows_anyway(seconds: float) -> bool:
    """Whether files come up in shared memory also while nothing of ours runs: then they are not ours."""
    before = _shared_memory()
    return processes.eventually(lambda: bool(_shared_memory() - before), seconds)


def _must_not_grow(subject: Subject, runner: Runner, held: _Held) -> None:
    """What a backend makes once, or now and then, is no leak; what it makes in every round is one."""
    _must_be_nothing(_growing(subject, runner, held))


def _growing(subject: Subject, runner: Runner, held: _Held) -> dict[str, set[Any]]:
    """That of which more is held after every round, by name, and what is new in the last one."""
    _one_of_each(subject, runner)
    least = {what: _least(now, _GRACE_S) for what, now in held.items()}  # without what is about to end
    grown: dict[str, set[Any]] = {}
    for _ in range(_ROUNDS):
        _one_of_each(subject, runner)
        now = {what: _least(held[what], _GRACE_S, len(before)) for what, before in least.items()}
        grown = {what: now[what] - before for what, before in least.items() if len(now[what]) > len(before)}
        if not grown:
            break
        least = {what: now[what] for what in grown}
    return grown


def _least(held: Callable[[], set[Any]], seconds: float, limit: int = 0) -> set[Any]:
    """The least that is held within some time, which ends early once it is no more than the limit."""
    least = held()

    def is_little() -> bool:
        nonlocal least
        least = min(least, held(), key=len)
        return len(least) <= limit

    processes.eventually(is_little, seconds)
    return least


def _must_be_nothing(grown: Mapping[str, set[Any]]) -> None:
    for what, new in grown.items():
        listed = ", ".join(sorted(map(str, new)))
        violation(
            f"no more {what} after a success, a failure and a cancel than before them",
            f"more of them after each of {_ROUNDS} rounds; new in the last one: {listed}",
        )


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
