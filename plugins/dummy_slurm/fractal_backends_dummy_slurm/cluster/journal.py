"""What the controller must not forget, a line of JSON at a time. It is also the truth that tests look at.

Entries: `{"t": ..., "submission": {...}}`, `{"t": ..., "job": {...}}`, `{"t": ..., "gone": id}`,
`{"t": ..., "node": {...}}`, `{"t": ..., "fault": ..., "befell": ...}`, `{"t": ..., "stray": spool}` when the
processes of a job that is forgotten are ended; `{"t": ..., "forget_since": t}` undoes all that came at or
after that time.
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any


class Journal:
    """A file that only grows."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, **entry: Any) -> dict[str, Any]:
        """Returns it with its time. Raises OSError; it is written wholly, or not at all."""
        entry = {"t": time.time(), **entry}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if (written := os.write(self._file, line)) < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        return entry

    def replay(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What is remembered, and all that ever was."""
        self._cut_off_what_is_no_line()
        everything = read(self._path)
        remembered: list[dict[str, Any]] = []
        for entry in everything:
            since = entry.get("forget_since")
            if since is not None:
                remembered = [item for item in remembered if item["t"] < since]
            else:
                remembered.append(entry)
        return remembered, everything

    def _cut_off_what_is_no_line(self) -> None:
        """What a controller was writing when it was killed; the next entry would be glued to it."""
        with open(self._path, "rb") as file:
            os.ftruncate(self._file, file.read().rfind(b"\n") + 1)


def read(path: str) -> list[dict[str, Any]]:
    """All entries. A last line that was cut short is none."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
