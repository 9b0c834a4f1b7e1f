"""The daemon of a spool (see `spool`): takes requests, runs units and writes down what happens to them.

Two processes. The worker does the work. The guard, its parent, only waits until all that descends from it is
gone, so that the lock which both hold tells truly whether anything is left, also when the worker is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fractal_backends import Cause, Outcome, Supervisor, Unit

_POLL_S = 0.01
_WATCH_S = 0.05
_PR_SET_CHILD_SUBREAPER = 36


class Worker:
    """Serves one spool: ends when its permit is taken away, or when nobody is there to give it more work."""

    def __init__(self, folder: Path, guard: int, ends_with_runner: bool) -> None:
        self._guard = guard
        self._ends_with_runner = ends_with_runner
        self._requests = (folder / "requests").open("rb")
        self._permit = (folder / "permit").open("rb")
        self._events = os.open(folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._supervisor = Supervisor()
        self._stopping = threading.Event()

    def serve(self) -> None:
        """Returns when nothing is left of any unit."""
        while True:
            runner_is_gone = _is_free(self._permit.fileno())
            self._take_requests()
            is_idle = not any(thread.is_alive() for thread in self._threads)
            if self._must_stop() or (runner_is_gone and (is_idle or self._ends_with_runner)):
                break
            time.sleep(_POLL_S)
        self._stopping.set()
        self._supervisor.stop()
        for thread in self._threads:
            thread.join()

    def _must_stop(self) -> bool:
        permitted = os.fstat(self._permit.fileno()).st_size > 0
        return not permitted or os.getppid() != self._guard or self._stopping.is_set()

    def _take_requests(self) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for request in new_lines(self._requests):
            self._threads.append(threading.Thread(target=self._execute, args=(request,)))
            self._threads[-1].start()

    def _execute(self, request: dict[str, Any]) -> None:
        unit, limits = Unit(**request["unit"]), request["limits"]
        execute = self._execute_limited if any(limits.values()) else self._execute_unlimited
        try:
            outcome = execute(unit, **limits)
        except OSError as error:
            outcome = Outcome(Cause.LAUNCH_FAILED, str(error))
        self._tell(unit, asdict(outcome))

    def _execute_unlimited(self, unit: Unit, **_: Any) -> Outcome:
        return self._supervisor.execute(unit, lambda _: self._tell(unit))

    def _execute_limited(self, unit: Unit, memory_mb: int | None, seconds: int | None) -> Outcome:
        """With a supervisor of its own: a unit that exceeds a limit is ended with all that it started."""
        ended = threading.Event()
        reasons: list[Outcome] = []
        watchers: list[threading.Thread] = []
        with Supervisor() as supervisor:

            def watch(root: int) -> None:
                end = time.monotonic() + (seconds or float("inf"))
                while not ended.wait(_WATCH_S):
                    if time.monotonic() > end:
                        reasons.append(Outcome(Cause.TIME_LIMIT, f"It ran for more than {seconds} s."))
                    elif _memory_mb(root) > (memory_mb or float("inf")):
                        reasons.append(Outcome(Cause.OUT_OF_MEMORY, f"It took more than {memory_mb} MB."))
                    if reasons or self._stopping.is_set():
                        supervisor.stop()
                        return

            def started(pid: int) -> None:
                self._tell(unit)
                watchers.append(threading.Thread(target=watch, args=(_parent(pid),)))
                watchers[-1].start()

            outcome = supervisor.execute(unit, started)
            ended.set()
            for watcher in watchers:
                watcher.join()
        if reasons and outcome.cause is Cause.CANCELLED:
            return replace(outcome, cause=reasons[0].cause, info=reasons[0].info)
        return outcome

    def _tell(self, unit: Unit, outcome: dict[str, Any] | None = None) -> None:
        """An event; without an outcome, of a start. A daemon that cannot tell ends everything."""
        line = json.dumps({"label": unit.label, "outcome": outcome}).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            if os.write(self._events, line) == len(line):
                return
        self._stopping.set()


def new_lines(file: Any) -> Iterator[Any]:
    """What was appended to a file of JSON lines since it was last read."""
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):  # not all of it is written yet
            file.seek(place)
            return
        yield json.loads(line)


def _is_free(fd: int) -> bool:
    """Whether nobody holds a lock on a file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _stat(pid: int | str) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()


def _parent(pid: int) -> int:
    """A unit's supervisor, to which all that the unit leaves comes back."""
    try:
        return int(_stat(pid)[1])
    except OSError:  # it has ended
        return 0


def _memory_mb(root: int) -> float:
    """The resident memory of all processes below one."""
    below: dict[int, list[tuple[int, int]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                stat = _stat(entry)
                below.setdefault(int(stat[1]), []).append((int(entry), int(stat[21])))
    pages, parents = 0, [root]
    while parents:
        for pid, resident in below.get(parents.pop(), ()):
            pages += resident
            parents.append(pid)
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main(folder: str, ends_with_runner: str) -> None:
    """Guard and worker."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guard = os.getpid()
    if os.fork() == 0:
        try:
            Worker(Path(folder), guard, bool(ends_with_runner)).serve()
        finally:
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
