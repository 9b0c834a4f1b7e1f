"""Commands with deadlines, and daemons that are known by their pid files."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

COMMAND_S = 300.0


class LabError(Exception):
    """The lab is not as it should be."""


def run(
    *command: str,
    env: Mapping[str, str] | None = None,
    deadline_s: float = COMMAND_S,
    text: str | None = None,
) -> str:
    """What a command printed; it must succeed."""
    result = subprocess.run(
        command,
        check=False,
        input=text if text is not None else "",
        capture_output=True,
        text=True,
        env=env,
        timeout=deadline_s,
    )
    if result.returncode:
        said = f"{result.stdout}{result.stderr}".strip()
        raise LabError(f"{' '.join(command)}: exit code {result.returncode}: {said}")
    return result.stdout


def eventually(condition: Callable[[], object], deadline_s: float, else_say: str | Callable[[], str]) -> None:
    """Wait until a condition is true, or give up with a message, which may be asked for only then."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            said = else_say if isinstance(else_say, str) else else_say()
            raise LabError(f"{said} (waited {deadline_s:g} s)")
        time.sleep(0.02)


@dataclass(frozen=True)
class Daemon:
    """A program that goes to the background by itself and writes down its process id."""

    command: tuple[str, ...]
    pid_file: Path
    env: Mapping[str, str]

    @property
    def program(self) -> str:
        """Its name."""
        return self.command[0].rpartition("/")[2]

    @property
    def pid(self) -> int | None:
        """Its process, if it lives (a zombie does not)."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if self.program in command_line(pid) else None

    def start(self) -> None:
        """Start it, unless it is there."""
        if self.pid is not None:
            return
        self.pid_file.unlink(missing_ok=True)
        run(*self.command, env=self.env)
        eventually(lambda: self.pid, 30, f"{self.program} does not start")

    def kill(self) -> None:
        """End it without a warning."""
        pid = self.pid
        if pid is not None:
            end([pid], 0)

    def stop(self) -> None:
        """Let it end in order."""
        pid = self.pid
        if pid is not None:
            end([pid], 15)


def end(pids: Iterable[int], patience_s: float) -> None:
    """SIGTERM, and SIGKILL for those that are still there after a while."""
    left = list(pids)
    if patience_s:
        left = _signal(left, signal.SIGTERM, patience_s)
    left = _signal(left, signal.SIGKILL, 10.0)
    if left:
        raise LabError(f"processes that cannot be killed: {[command_line(pid) for pid in left]}")


def _signal(pids: list[int], number: signal.Signals, wait_s: float) -> list[int]:
    """Those that live on."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
    with suppress(LabError):
        eventually(lambda: not any(map(command_line, pids)), wait_s, "")
    return [pid for pid in pids if command_line(pid)]


def command_line(pid: int) -> str:
    """A process's command; empty for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def identity(pid: int) -> str:
    """Tells a process from a later one with the same id; empty for one that has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return f"{pid} {fields[19]}"
    return ""


def parent_of(pid: int) -> int:
    """Its parent's id; 0 for one that has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return 0


def end_family(pid: int, patience_s: float) -> None:
    """End a process and all below it. They are stopped first: none may start another one meanwhile."""
    found: list[int] = []
    while new := [member for member in _family(pid) if member not in found]:
        for member in new:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        found += new
    end(found, patience_s)


def _family(pid: int) -> list[int]:
    """A process, its children, their children, and so on."""
    everybody = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    parents = {child: parent_of(child) for child in everybody}
    found = [pid]
    for parent in found:  # which grows
        found += [child for child in everybody if parents[child] == parent]
    return found


def with_in_environment(text: str) -> dict[int, str]:
    """Living processes that have this in their environment, and their commands."""
    found, wanted = {}, f"\0{text}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                environment = b"\0" + (entry / "environ").read_bytes()
                if wanted in environment:
                    found[int(entry.name)] = command_line(int(entry.name))
    return found
