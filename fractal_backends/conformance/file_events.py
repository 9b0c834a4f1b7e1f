"""What happens to the files of a folder, as the system tells it (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_NON_BLOCKING = os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {0x2: "changed", 0x40: "moved away", 0x80: "moved here", 0x100: "created", 0x200: "deleted"}
_EVENT = struct.Struct("iIII")
_CHUNK = 1 << 20


class FileEvents:
    """All that happens in one folder while this is entered. Raises OSError where the system does not tell."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_NON_BLOCKING)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self._fd, os.fsencode(self._folder), sum(_KINDS)) < 0:
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def of(self, names: set[str]) -> list[tuple[str, str]]:
        """What happened so far to files of these names, in order: the name, and what."""
        found = []
        try:
            while data := os.read(self._fd, _CHUNK):
                found += _parsed(data)
        except BlockingIOError:
            pass
        return [(name, what) for name, what in found if name in names]


def _parsed(data: bytes) -> list[tuple[str, str]]:
    found = []
    place = 0
    while place < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, place)
        place += _EVENT.size
        name = os.fsdecode(data[place : place + length].rstrip(b"\0"))
        place += length
        found += [(name, what) for bit, what in _KINDS.items() if mask & bit]
    return found
