"""This machine's cores and memory, shared by all runs in the process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Condition, Lock

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_FIRST = Lock()


class Machine:
    """Weighs what units ask for against what there is. Who came first is served first."""

    def __init__(self, cores: int, memory_mb: int) -> None:
        self.cores = cores
        self.memory_mb = memory_mb
        self._changed = Condition()
        self._waiting: deque[object] = deque()
        self._running = 0
        self._cores_used = 0
        self._memory_used = 0

    def exceeded_by(self, cores: int, memory_mb: int) -> bool:
        """Whether one unit asks for more than there is. It may run all the same, when nothing else does."""
        return cores > self.cores or memory_mb > self.memory_mb

    @contextmanager
    def share(
        self, cores: int, memory_mb: int, *, wait: bool, given_up: Callable[[], bool]
    ) -> Iterator[None]:
        """Hold cores and memory (MB); wait until they are free, or until `given_up` (see `wake`)."""
        ticket = object()
        with self._changed:
            if wait:
                self._waiting.append(ticket)
                self._changed.wait_for(
                    lambda: given_up() or (self._waiting[0] is ticket and self._fits(cores, memory_mb))
                )
                self._waiting.remove(ticket)
                self._changed.notify_all()  # the next in line may fit as well
            self._take(1, cores, memory_mb)
        try:
            yield
        finally:
            with self._changed:
                self._take(-1, -cores, -memory_mb)
                if self._waiting:
                    self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look at `given_up` again."""
        with self._changed:
            self._changed.notify_all()

    def _fits(self, cores: int, memory_mb: int) -> bool:
        return self._running == 0 or (
            self._cores_used + cores <= self.cores and self._memory_used + memory_mb <= self.memory_mb
        )

    def _take(self, units: int, cores: int, memory_mb: int) -> None:
        self._running += units
        self._cores_used += cores
        self._memory_used += memory_mb


def this_machine() -> Machine:
    """The machine that this process runs on, as far as it may use it (affinity, a container's limit)."""
    with _FIRST:  # runs that begin at once must not get a machine each
        return _measured()


@cache
def _measured() -> Machine:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            memory = min(memory, int(Path(path).read_text()))
    return Machine(len(os.sched_getaffinity(0)), memory >> 20)
