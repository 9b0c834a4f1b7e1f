"""What the suite asks the system: who is alive, and what a process holds."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def eventually(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Whether a condition comes true within so many seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def is_held(lock: Path) -> bool:
    """Whether a process that took this lock (see `task_program.alive`), or a descendant of it, is alive."""
    with lock.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def holders(path: Path) -> list[str]:
    """The processes of this machine that have a file open, for a person to read."""
    target, found = str(path.resolve()), []
    for pid in sorted(parents()):
        with contextlib.suppress(OSError):
            if target in descriptors(pid).values():
                found.append(f"process {pid}: {command_line(pid)}")
    return found


def held_by_others(paths: set[str]) -> set[str]:
    """Those of the files that are open or mapped in processes which do not descend from this one."""
    found: set[str] = set()
    ours = {os.getpid(), *descendants(os.getpid())}
    for pid in parents().keys() - ours:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
            found |= paths & {line.split(maxsplit=5)[-1] for line in maps}
            found |= paths & set(descriptors(pid).values())
    return found


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents die, so that they can be found."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def parents() -> dict[int, int]:
    """The parent of each process that is alive."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b") ")[2].split()
                if stat[0] not in (b"Z", b"X"):
                    found[int(entry)] = int(stat[1])
    return found


def zombies(parent: int) -> list[int]:
    """Children of a process that have ended, and that it has not waited for."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                state, its_parent = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b") ")[2].split()[:2]
                if state == b"Z" and int(its_parent) == parent:
                    found.append(int(entry))
    return found


def descendants(pid: int) -> set[int]:
    """All living processes below one."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def ancestors(pid: int) -> list[int]:
    """The parent of a process, its parent, and so on."""
    known, found = parents(), []
    while (pid := known.get(pid, 0)) > 1:
        found.append(pid)
    return found


def started_at(pid: int) -> int:
    """When a process started, in clock ticks since boot. Raises OSError if there is none."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19])


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, as by SIGSTOP. Raises OSError if there is none."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"T"


def ticks_now() -> int:
    """The present moment, as `started_at` tells it."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def command_line(pid: int) -> str:
    """How a process was called, for a person to read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def machine() -> str:
    """Names the machine, as units do (see `task_program.machine`)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def threads(pid: int) -> set[str]:
    """The ids of a process's threads."""
    return set(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int) -> dict[str, str]:
    """What a process has open."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def end_all(pids: set[int], deadline_s: float = 5) -> None:
    """Kill processes, and collect those among them that are children of this one."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not (pids & parents().keys()), deadline_s)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
