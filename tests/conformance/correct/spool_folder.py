"""A spool's folder (see `spool`).

- `requests` and `events` only grow, a line of JSON at a time.
- The daemon holds a lock on `events` while it, or anything that it started, is alive.
- Units may go on while `permit` is not empty. Runners that live hold a lock on it.
- `words` has what the daemon writes to stdout and stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from .spool_daemon import new_lines

POLL_S = 0.01
_DAEMON = Path(__file__).with_name("spool_daemon.py")


class Spool:
    """The folder, its locks, and the daemon where it was started here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemon: subprocess.Popen[bytes] | None = None
        with contextlib.ExitStack() as opened:
            self._requests = opened.enter_context((folder / "requests").open("ab", buffering=0))
            self._events = opened.enter_context((folder / "events").open("rb"))
            self._permit = opened.enter_context((folder / "permit").open("r+b"))
            fcntl.flock(self._permit, fcntl.LOCK_SH)
            self._opened = opened.pop_all()

    @classmethod
    def make(cls, folder: Path) -> Self:
        """A new one."""
        folder.mkdir(mode=0o700)
        for name, content in (("requests", ""), ("events", ""), ("permit", "units may go on\n")):
            (folder / name).write_text(content)
        return cls(folder)

    def start_daemon(self, ends_with_runner: bool, working_folder: Path | None) -> None:
        """Start the daemon, which inherits the lock on the events."""
        with (self.folder / "events").open("rb") as events, (self.folder / "words").open("wb") as words:
            fcntl.flock(events, fcntl.LOCK_EX)
            self._daemon = subprocess.Popen(
                [sys.executable, str(_DAEMON), str(self.folder), "yes" if ends_with_runner else ""],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                pass_fds=[events.fileno()],
                cwd=working_folder,
                start_new_session=True,
            )

    def add(self, request: Any) -> None:
        """A request for the daemon."""
        self._requests.write(json.dumps(request).encode() + b"\n")

    def new_events(self) -> Iterator[Any]:
        """What the daemon told since the last call."""
        return new_lines(self._events)

    def is_alive(self) -> bool:
        """Whether the daemon, or anything that it started, is alive."""
        try:
            fcntl.flock(self._events, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._events, fcntl.LOCK_UN)
        return False

    def last_words(self) -> str:
        """The last line that the daemon wrote to stdout or stderr."""
        return (self.folder / "words").read_text(errors="replace").strip().rpartition("\n")[2]

    def revoke_permit(self) -> None:
        """Let the daemon end everything. Works where the disk is full or the folder read-only."""
        self._permit.truncate(0)

    def wait(self) -> None:
        """Until the daemon has ended, and all that it started."""
        while self.is_alive():
            time.sleep(POLL_S)
        if self._daemon:
            self._daemon.wait()

    def remove(self) -> None:
        """Close and remove it."""
        self._opened.close()
        shutil.rmtree(self.folder, ignore_errors=True)
