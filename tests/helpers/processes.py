"""Processes: runs in a process of their own, and whether something is alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conftest import eventually
from tests.helpers.workflows import Json

ROOT = Path(__file__).parents[2]


@contextmanager
def started_apart(request: Json) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own (see `runner_program`); it is killed at the end."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(request, file)
        file.flush()
        with subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.runner_program", file.name],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def run_apart(request: Json) -> tuple[int, str]:
    """A run in a process of its own: its exit code, and its error's type and message."""
    with started_apart(request) as process:
        _, stderr = process.communicate(timeout=30)
        return process.returncode, stderr


def pid_in(path: Path) -> int:
    """The process id in a file, once it is there."""
    assert eventually(path.exists), f"nobody wrote {path}"
    return int(path.read_text())


def ended(path: Path) -> bool:
    """Whether the process whose id is in a file has ended. If not, it is killed now."""
    pid = pid_in(path)
    alive = is_alive(pid)
    if alive:
        os.kill(pid, signal.SIGKILL)
    return not alive


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state not in "ZX"


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def guards() -> list[int]:
    """The guards of this process's supervisor processes."""
    return [pid for pid in children_of(os.getpid()) if "supervisor_process" in _command_line(pid)]


def supervisors() -> list[int]:
    """The supervisor processes of this process; each is the child of its guard."""
    return [pid for guard in guards() for pid in children_of(guard)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
