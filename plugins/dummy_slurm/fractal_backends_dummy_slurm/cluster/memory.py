"""Memory of a job's steps, looked at now and then."""

from __future__ import annotations

import os
import time
from typing import Any

from . import processes


class MemoryGuard:
    """Which steps have more than they may. A process without a parent stays with the step it was seen in."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._kind: str = order["memory_kill"]
        self._job_limit = order["memory_mb"] << 20
        self.limits: dict[str, int] = {"batch": order["memory_mb"]}
        """In MB."""
        self.roots: dict[str, int] = {}
        self.oom_kills: dict[str, int] = {}
        self.interval_s: float = order["memory_interval_s"]
        self._next = 0.0
        self._owner: dict[int, str] = {}

    @property
    def is_needed(self) -> bool:
        """Whether anybody has to look."""
        return self._kind != "none" and self._job_limit > 0

    def exceeded(self) -> list[str]:
        """Steps above their limits; in a cgroup the job's limit counts for all of them together."""
        now = time.monotonic()
        if not self.is_needed or now < self._next:
            return []
        self._next = now + self.interval_s
        sizes = {name: sum(map(processes.resident, pids)) for name, pids in self._members().items()}
        over = [name for name, size in sizes.items() if 0 < self.limits.get(name, 0) << 20 < size]
        if not over and self._kind == "cgroup" and sum(sizes.values()) > self._job_limit:
            over = [max(sizes, key=lambda name: sizes[name])]
        return over

    def size(self, name: str) -> int:
        """Bytes of a step's processes."""
        return sum(processes.resident(pid) for pid in self._members().get(name, ()))

    def biggest(self, name: str) -> int | None:
        """The process of a step with the most memory."""
        pids = self._members().get(name, [])
        return max(pids, key=processes.resident, default=None)

    def orphans(self, name: str) -> list[int]:
        """Processes of a step whose parents ended."""
        return [pid for pid in processes.children(os.getpid()) if self._owner.get(pid) == name]

    def _members(self) -> dict[str, list[int]]:
        """The processes of each step."""
        members: dict[str, list[int]] = {}
        roots = {pid: name for name, pid in self.roots.items()}
        for pid in processes.children(os.getpid()):
            name = roots.get(pid) or self._owner.get(pid, "batch")
            members.setdefault(name, []).extend([pid, *processes.below([pid])])
        self._owner = {pid: name for name, pids in members.items() for pid in pids}
        return members
