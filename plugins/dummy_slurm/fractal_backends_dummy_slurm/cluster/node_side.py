"""The controller's links to the stepds of jobs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import stepd
from .client import connect, pack


@dataclass
class Link:
    """To one stepd. `key` is the name of its folder."""

    key: str
    end: socket.socket
    pid: int | None
    """None: the controller that started it was killed before it had noted it."""

    def tell(self, **word: Any) -> None:
        """It may be gone."""
        with contextlib.suppress(OSError):
            self.end.sendall(json.dumps(word).encode() + b"\n")


class NodeSide:
    """Starts stepds, finds those that are there, and takes in what they tell.

    `watch` and `unwatch` are called with sockets that become readable when a stepd is gone.
    """

    def __init__(
        self, folder: str, watch: Callable[[socket.socket], None], unwatch: Callable[[socket.socket], None]
    ) -> None:
        self._folder = folder
        self._watch = watch
        self._unwatch = unwatch
        self.links: dict[str, Link] = {}
        os.makedirs(folder, mode=0o755, exist_ok=True)

    def path(self, key: str) -> str:
        """Of a stepd's folder."""
        return os.path.join(self._folder, key)

    def start(self, key: str, order: dict[str, Any]) -> None:
        """Fork the stepd of a job."""
        folder = self.path(key)
        os.mkdir(folder, 0o755)
        listener = _listen(folder)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            stepd.run({**order, "folder": folder}, theirs, listener)
        theirs.close()
        listener.close()
        with open(self._pid_file(key), "w", encoding="utf-8") as file:
            file.write(str(pid))
        self._add(Link(key, ours, pid))

    def find(self) -> None:
        """Connect to the stepds that an earlier controller started."""
        for key in os.listdir(self._folder):
            with contextlib.suppress(OSError):
                end = connect(os.path.join(self.path(key), "stepd"))
                end.sendall(pack([])[:1])
                self._add(Link(key, end, self._pid(key)))

    def _pid(self, key: str) -> int | None:
        with contextlib.suppress(OSError, ValueError), open(self._pid_file(key), encoding="utf-8") as file:
            return int(file.read())
        return None

    def _pid_file(self, key: str) -> str:
        return os.path.join(self.path(key), "pid")

    def _add(self, link: Link) -> None:
        self.links[link.key] = link
        self._watch(link.end)

    def link_of(self, fd: int) -> Link | None:
        """The one with this socket."""
        return next((link for link in self.links.values() if link.end.fileno() == fd), None)

    def is_gone(self, link: Link) -> bool:
        """Take in what a readable socket has."""
        try:
            return not link.end.recv(1 << 12)
        except OSError:
            return True

    def result(self, key: str) -> dict[str, Any] | None:
        """What a stepd that is gone left."""
        try:
            with open(os.path.join(self.path(key), "result"), encoding="utf-8") as file:
                result: dict[str, Any] = json.load(file)
                return result
        except (OSError, ValueError):
            return None

    def remove(self, key: str) -> None:
        """Forget a stepd that is gone."""
        link = self.links.pop(key, None)
        if link is not None:
            self._unwatch(link.end)
            link.end.close()
            if link.pid is not None:
                with contextlib.suppress(ChildProcessError):  # of an earlier controller
                    os.waitpid(link.pid, 0)
        shutil.rmtree(self.path(key), ignore_errors=True)

    def tell(self, key: str, **word: Any) -> None:
        """If it is there."""
        if (link := self.links.get(key)) is not None:
            link.tell(**word)


def _listen(folder: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    fd = os.open(folder, os.O_PATH)
    try:
        listener.bind(f"/proc/self/fd/{fd}/stepd")
    finally:
        os.close(fd)
    os.chmod(os.path.join(folder, "stepd"), 0o666)  # noqa: S103 - for srun, of the job's user
    listener.listen(64)
    return listener
