"""The supervisor: a small process that starts units, measures them and ends all that descends from them.

Started by `supervisor.Supervisor`, on the standard library alone. Why a process of its own:

- It is its descendants' "child subreaper" (prctl(2)): whatever a unit starts stays below it, daemons
  included, and can be found and ended.
- It sees its control socket close when the runner dies, however that happens, and then ends everything.
  Should it be killed itself, its parent, the guard, which does nothing but wait, ends all that it leaves.
- A child's peak memory as wait4(2) reports it is never below that of the process which started it
  (the kernel carries the high-water mark over exec); a runner may have gigabytes, this process has few MB.

Protocol: on the control socket the runner sends channels, one for each thread that executes units, and at
the end `STOP`; it closes when nothing is left. On a channel, in marshalled tuples behind their length, the
runner sends `(argv, env, log_file)` and gets `("started", pid)`, then `("ended", wait status, wall s, cpu s,
peak KB, stopped)`; or `("failed", what, errno)` or `("refused",)` in place of both.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes a fifth of the start-up time
    from typing import Any

STOP = b"stop"
TERM_GRACE_S = 2.0
"""How long a unit has between SIGTERM and SIGKILL."""
KILL_DEADLINE_S = 30.0
"""Processes in uninterruptible sleep outlive SIGKILL; waiting for them has an end."""
GROUP_DEADLINE_S = 5.0
_POLL_S = 0.02
_ANNOUNCE_S = 0.01
_LENGTH = struct.Struct("=I")
_CHUNK = 1 << 16
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def descendants(roots: set[int]) -> set[int]:
    """The living processes (no zombies) below the given ones, the given ones left out."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                state, parent = file.read().rpartition(b") ")[2].split(None, 2)[:2]
        except (OSError, ValueError):
            continue
        pid = int(entry)
        children.setdefault(int(parent), []).append(pid)
        if state in (b"Z", b"X"):
            zombies.add(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found - roots - zombies


def send_signal(pids: set[int], number: int) -> None:
    """Signal processes that may have ended in the meantime."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Channel:
    """One end of a channel: whole messages, however the socket cuts them."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = b""

    def send(self, *messages: tuple[Any, ...]) -> None:
        """Raises OSError where nobody is there to take them."""
        data = b""
        for message in messages:
            packed = marshal.dumps(message)
            data += _LENGTH.pack(len(packed)) + packed
        self._socket.sendall(data)

    def receive(self) -> tuple[Any, ...]:
        """Waits for a message. Raises ConnectionError where none will come any more."""
        data = self._received
        while len(data) < _LENGTH.size or len(data) < (end := _LENGTH.size + _LENGTH.unpack_from(data)[0]):
            more = self._socket.recv(_CHUNK)
            if not more:
                raise ConnectionResetError
            data += more
        self._received = data[end:]
        message: tuple[Any, ...] = marshal.loads(data[_LENGTH.size : end])  # noqa: S302 - our own process
        return message

    def close(self) -> None:
        self._socket.close()


class _Unit:
    __slots__ = ("channel", "deadline", "replies", "start")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.start = time.monotonic()
        self.replies: list[tuple[Any, ...]] = []
        self.deadline = 0.0


class SupervisorProcess:
    def __init__(self, control: socket.socket) -> None:
        control.set_inheritable(False)
        self._control = control
        self._channels: dict[int, Channel] = {}
        self._units: dict[int, _Unit] = {}
        self._unannounced: dict[int, _Unit] = {}
        """Units that started just now: told of a little later, so that a short one takes one message."""
        self._draining: dict[int, _Unit] = {}
        """Units whose command ended while others of its process group are still ending."""
        self._asked_to_stop = False
        self._stop_at: float | None = None
        self._null = os.open(os.devnull, os.O_RDONLY)
        self._base_env = dict(os.environb)
        self._wakeup, write = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._poll = select.poll()
        self._poll.register(self._wakeup, select.POLLIN)
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Returns when it was told to stop, or the runner is gone, and no descendant is left."""
        while True:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                if fd == self._wakeup:
                    os.read(self._wakeup, 4096)
                elif fd in self._channels:
                    self._on_request(fd)
                else:
                    self._on_control()
            if self._asked_to_stop:
                self._stop()
            left = self._reap()
            self._drain()
            self._announce()
            if self._stop_at is not None and (not left or self._is_over(self._stop_at)):
                return

    def _announce(self) -> None:
        due = time.monotonic() - _ANNOUNCE_S
        for pid, unit in list(self._unannounced.items()):
            if unit.start <= due:
                del self._unannounced[pid]
                _answer(unit.channel, ("started", pid))

    def _timeout_ms(self) -> float | None:
        if self._unannounced:
            return _ANNOUNCE_S * 1000
        if self._draining or (self._stop_at is not None and time.monotonic() > self._stop_at):
            return _POLL_S * 1000
        if self._stop_at is not None:
            return max(1.0, (self._stop_at - time.monotonic()) * 1000)
        return None

    def _on_control(self) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._control, 16, 1)
        except ConnectionError:
            message, fds = b"", []
        if fds:
            os.set_inheritable(fds[0], False)
            self._channels[fds[0]] = Channel(socket.socket(fileno=fds[0]))
            self._poll.register(fds[0], select.POLLIN)
        if not message:
            self._poll.unregister(self._control)
        if not message or STOP in message:  # what is sent right behind it may come with it
            self._asked_to_stop = True

    def _ask_to_stop(self, *_: object) -> None:
        self._asked_to_stop = True

    def _on_request(self, fd: int) -> None:
        channel = self._channels[fd]
        try:
            request = channel.receive()
        except ConnectionError:
            self._poll.unregister(fd)
            self._channels.pop(fd).close()
            return
        if self._stop_at is not None:
            _answer(channel, ("refused",))
        else:
            self._start(channel, *request)

    def _start(self, channel: Channel, argv: list[bytes], env: dict[bytes, bytes], log: bytes) -> None:
        what = "log"
        try:
            log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                what = "command"
                unit = _Unit(channel)
                pid = os.posix_spawnp(
                    argv[0],
                    argv,
                    {**self._base_env, **env} if env else self._base_env,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, self._null, 0),
                        (os.POSIX_SPAWN_DUP2, log_fd, 1),
                        (os.POSIX_SPAWN_DUP2, log_fd, 2),
                    ],
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=_SIGNALS,
                )
            finally:
                os.close(log_fd)
        except (OSError, ValueError) as error:
            _answer(channel, ("failed", what, getattr(error, "errno", None) or 0))
            return
        self._units[pid] = unit
        self._unannounced[pid] = unit

    def _reap(self) -> bool:
        """Take in all that ended. Returns whether any child is left."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if ended is None:
                return True
            pid = ended.si_pid
            unit = self._units.pop(pid, None)
            if unit is not None:
                if self._unannounced.pop(pid, None):
                    unit.replies.append(("started", pid))
                # Not reaped yet, so its process group cannot be somebody else's.
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            if unit is not None:
                now = time.monotonic()
                cpu = usage.ru_utime + usage.ru_stime
                stopped = self._stop_at is not None
                unit.replies.append(("ended", status, now - unit.start, cpu, usage.ru_maxrss, stopped))
                unit.deadline = now + GROUP_DEADLINE_S
                self._draining[pid] = unit

    def _drain(self) -> None:
        for pid, unit in list(self._draining.items()):
            if not _group_is_alive(pid) or time.monotonic() > unit.deadline:
                del self._draining[pid]
                _answer(unit.channel, *unit.replies)

    def _stop(self) -> None:
        if self._stop_at is not None:
            return
        self._reap()  # what has ended by now was not stopped
        self._stop_at = time.monotonic() + TERM_GRACE_S
        below = descendants({os.getpid()})
        send_signal(below, signal.SIGTERM)
        send_signal(below, signal.SIGCONT)

    def _is_over(self, stop_at: float) -> bool:
        """After the grace period: kill what is left. Whether to stop waiting for it."""
        now = time.monotonic()
        if now < stop_at:
            return False
        send_signal(descendants({os.getpid()}), signal.SIGKILL)
        return now > stop_at + KILL_DEADLINE_S


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answer(channel: Channel, *messages: tuple[Any, ...]) -> None:
    with contextlib.suppress(OSError):  # a runner that is gone; the control socket tells
        channel.send(*messages)


def _guard(supervisor: int) -> None:
    """Wait for the supervisor, and end what it left, if anything."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ended = False
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.wait()[0] == supervisor or ended
            if ended:
                send_signal(descendants({os.getpid()}), signal.SIGKILL)


def main(control_fd: int) -> None:
    import ctypes  # only here: it takes a third of the start-up time

    def become_subreaper() -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whatever the runner ignores or blocks
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    become_subreaper()
    control = socket.socket(fileno=control_fd)
    supervisor = os.fork()
    if supervisor:
        control.close()
        _guard(supervisor)
    else:
        become_subreaper()  # not inherited
        SupervisorProcess(control).serve()
    os._exit(0)  # there is nothing to tidy up, and it is quicker
