"""The controller's process: sockets, timers, and what the plan of faults asks for.

    python -I -S -c "..." FOLDER LOCK_FD [HOW_LONG_IT_WAS_DOWN]

It holds the lock on `FOLDER/controller.lock` as long as it lives. Clients connect to `FOLDER/controller`:
commands with one message, runs with a lease (the message `lease`), which they hold by staying connected.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import replace

from . import START, config as configuration, faults, processes
from .arguments import Refused
from .client import pack, unpack
from .commands import sacct, sbatch_command, scancel, scontrol, sinfo, squeue
from .controller import QUEUE_FULL_RETRY_S, Controller, QueueFull
from .jobs import Job
from .misbehaviour import Misbehaviour
from .node_side import NodeSide
from .sbatch_words import Caller
from .scheduling import Scheduler
from .timers import Timers

_SETTLE_S = 0.5
"""A new controller waits for its first client, or for the leases of the one before."""
_END_DEADLINE_S = 40.0
_FOLDERS = ("bin", "late", "scripts", "spool")
_FILES = ("config.json", "config.json.new", "journal", "log", "controller.lock")
"""What is a cluster's own in its folder. Whoever starts a controller takes the last one for its mark."""
_COMMANDS = {
    "squeue": squeue.run,
    "scontrol": scontrol.run,
    "sacct": sacct.run,
    "scancel": scancel.run,
    "sinfo": sinfo.run,
}


class Server:
    """See the module."""

    def __init__(self, folder: str, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self._log = os.open(f"{folder}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.config = configuration.parse(configuration.read(f"{folder}/config.json"))
        self.timers = Timers()
        self._poll = select.poll()
        self._clients: dict[int, socket.socket] = {}
        self._words: dict[int, bytes] = {}
        self._leases: set[int] = set()
        self.node_side = NodeSide(f"{folder}/spool", self._watch, self._unwatch)
        self.controller = Controller(folder, self.config, self.node_side, self.timers)
        self.controller.log = self.log
        self._scheduler = Scheduler(self.controller)
        self._misbehaviour = Misbehaviour(self)
        self.controller.on_start = self._misbehaviour.job_starts
        self.controller.on_end = self._misbehaviour.job_ended
        self._unused_since: float | None = time.time() + _SETTLE_S
        self._stop = False
        self._wakeup, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wakeup, select.POLLIN)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def log(self, line: str) -> None:
        """For people, if there is room for it."""
        text = f"{time.strftime('%H:%M:%S')}.{time.time() % 1 * 1000:03.0f} {line}\n"
        with contextlib.suppress(OSError):
            os.write(self._log, os.fsencode(text))

    def _on_term(self, *_: object) -> None:
        self._stop = True

    def _watch(self, end: socket.socket) -> None:
        self._poll.register(end, select.POLLIN)

    def _unwatch(self, end: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._poll.unregister(end)

    def serve(self, state: str) -> None:
        """Returns when nobody needs it any more. `state`: what an earlier controller left to this one."""
        processes.become_subreaper()
        self.node_side.find()
        self.controller.restore()
        if state:
            self._misbehaviour.resume(json.loads(state))
        self._listener = _listen(self.folder, self.config.is_shared)
        self._watch(self._listener)
        self.log(f"the controller {os.getpid()} is up; job ids from {self.controller.next_id}")
        busy = True
        while not self._stop:
            wait_s = 0.0 if busy else self.timers.wait_s(0.25)
            for fd, _ in self._poll.poll(wait_s * 1000):
                self._on_ready(fd)
            self.timers.run_due()
            busy = self._scheduler.run()
            self._look_whether_used()
        self._shut_down()

    def _on_ready(self, fd: int) -> None:
        if fd == self._wakeup:
            os.read(fd, 4096)
        elif fd == self._listener.fileno():
            end, _ = self._listener.accept()
            self._clients[end.fileno()] = end
            self._words[end.fileno()] = b""
            self._watch(end)
        elif fd in self._clients:
            self._on_client(fd)
        elif (link := self.node_side.link_of(fd)) is not None and self.node_side.is_gone(link):
            lost = self.node_side.result(link.key) is None
            self.controller.stepd_gone(link.key)
            if lost:
                self._end_orphans()

    def _end_orphans(self) -> None:
        """What a stepd that was killed left came to this process."""
        ours = {link.pid for link in self.node_side.links.values()}
        orphans = [pid for pid in processes.children(os.getpid()) if pid not in ours]
        processes.send([*orphans, *processes.below(orphans)], signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _on_client(self, fd: int) -> None:
        end = self._clients[fd]
        try:
            data = end.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._close(fd)
            return
        self._words[fd] += data
        if (fields := unpack(self._words[fd])) is None:
            return
        self._words[fd] = b""
        if fields[:1] == [b"lease"]:
            self._leases.add(fd)
            with contextlib.suppress(OSError):
                end.sendall(pack([b"ok"]))
            return
        if fields[:1] == [b"leave"]:
            self._leave(fd)
            return
        answer = self._answer_or_say_why(end, fields)
        with contextlib.suppress(OSError):
            end.sendall(pack(answer))

    def _leave(self, fd: int) -> None:
        """A run is over; the last one waits until this process is gone."""
        self._leases.discard(fd)
        if self._leases or not self.controller.is_idle:
            with contextlib.suppress(OSError):
                self._clients[fd].sendall(pack([b"stays"]))
        else:
            self._stop = True

    def _close(self, fd: int) -> None:
        self._leases.discard(fd)
        end = self._clients.pop(fd)
        self._words.pop(fd)
        self._unwatch(end)
        end.close()

    def _look_whether_used(self) -> None:
        if self._leases or not self.controller.is_idle:
            self._unused_since = None
        elif self._unused_since is None:
            self._unused_since = time.time()
        elif time.time() > self._unused_since + self.config.linger_s:
            self._stop = True

    # Commands

    def _answer_or_say_why(self, end: socket.socket, fields: list[bytes]) -> list[bytes]:
        """Whatever goes wrong with one command, the jobs of all others go on."""
        try:
            return self._answer(end, fields)
        except Exception as error:
            self.log(traceback.format_exc())
            what = f"error of the dummy cluster, told in {self.folder}/log: {error!r}\n"
            return [b"1", b"", fields[0] + b": " + os.fsencode(what) if fields else b"", b""]

    def _answer(self, end: socket.socket, fields: list[bytes]) -> list[bytes]:
        command = fields[0].decode()
        words_end = 4 + int(fields[2])
        words = [os.fsdecode(word) for word in fields[4:words_end]]
        env_start = words_end + int(fields[3])
        script = os.fsdecode(fields[words_end]) if env_start > words_end else None
        env = [os.fsdecode(item) for item in fields[env_start:]]
        caller = self._admitted(Caller(*_peer(end), os.fsdecode(fields[1]), env))
        if caller is None:
            return [b"1", b"", f"{command}: error: Access/permission denied\n".encode(), b""]
        if command == "sbatch" and script is None:
            try:
                name = sbatch_command.script_file(words)
            except Refused as refusal:
                return _refusal(refusal)
            if name is not None:
                return [b"script", os.fsencode(name), b"", b""]
        return self._misbehaviour.answer(
            command, lambda: self._execute(command, caller, words, script), words
        )

    def _admitted(self, caller: Caller) -> Caller | None:
        """As whom it is served; None: not at all. Only the cluster's owner may be taken for somebody else,
        and not root, who can become others."""
        owner = self.controller.owner
        if caller.uid not in (0, owner) and not self.config.is_shared:
            return None
        if caller.named == caller.user:
            return caller
        if caller.uid != owner or owner == 0:
            return None
        try:
            entry = pwd.getpwnam(caller.named)
        except KeyError:
            return None
        return replace(caller, uid=entry.pw_uid, gid=entry.pw_gid)

    def _execute(self, command: str, caller: Caller, words: list[str], script: str | None) -> list[bytes]:
        self.log(f"{caller.user}: {command} {' '.join(words)}")
        try:
            if command == "sbatch":
                out, err = sbatch_command.run(self.controller, caller, words, script)
            elif command == "dummyctl":
                out, err = self._control(caller, words), ""
            else:
                out, err = _COMMANDS[command](self.controller, caller, words)
        except Refused as refusal:
            self.log(f"  refused: {refusal.message.strip()}")
            return _refusal(refusal)
        except OSError as error:  # a full disk
            self.log(f"  failed: {error}")
            err = f"{command}: error: I/O error writing script/environment to file ({error.strerror})\n"
            return [b"1", b"", os.fsencode(err), b""]
        except QueueFull:
            err = "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"
            self.log("  the queue is full")
            return [b"1", b"", err.encode(), b"%f" % QUEUE_FULL_RETRY_S]
        return [b"0", os.fsencode(out), os.fsencode(err), b""]

    def _control(self, caller: Caller, words: list[str]) -> str:
        """`dummyctl fault '{...}'`, `dummyctl stop`. Raises Refused."""
        if caller.uid not in (0, self.controller.owner):
            raise Refused("dummyctl: not the owner\n")
        if words[:1] == ["stop"]:
            self._stop = True
        elif words[:1] == ["fault"] and len(words) == 2:
            try:
                (fault,) = faults.plan({"plan": [json.loads(words[1])]})
            except json.JSONDecodeError as error:
                raise Refused(f"dummyctl: {words[1]!r} is not JSON: {error}\n") from None
            except ValueError as error:
                raise Refused(f"dummyctl: {error}\n") from None
            if not self._misbehaviour.now(fault):
                raise Refused("dummyctl: no job runs that it could befall\n")
        else:
            raise Refused("dummyctl stop | fault JSON\n")
        return ""

    # Ends

    def restart(self, forget_s: float, down_s: float) -> None:
        """As if it were killed and started again; what happened in the last seconds is forgotten."""
        self.log(f"the controller restarts and forgets the last {forget_s:g} s")
        if forget_s:
            self.controller.journal.write(forget_since=time.time() - forget_s)
        with contextlib.suppress(OSError):
            os.unlink(f"{self.folder}/controller")
        os.set_inheritable(self._lock, True)
        state = json.dumps(self._misbehaviour.state())
        above = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        start = [sys.executable, "-I", "-S", "-c", START, above]
        argv = [*start, self.folder, str(self._lock), str(down_s), state]
        os.execv(sys.executable, argv)  # noqa: S606

    def _shut_down(self) -> None:
        """End all that runs, and leave no file behind, or only those that people read."""
        for fd in (self._wakeup, self._listener.fileno(), *self._clients):
            self._poll.unregister(fd)  # nobody reads them any more, and poll would return at once
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self.folder}/controller")
        self.log("the controller ends")
        for key in self.node_side.links:
            self.node_side.tell(key, do="terminate", why="")
        deadline = time.monotonic() + self.config.kill_wait_s + _END_DEADLINE_S
        while self.node_side.links and time.monotonic() < deadline:
            for fd, _ in self._poll.poll(100):
                if (link := self.node_side.link_of(fd)) is not None and self.node_side.is_gone(link):
                    self.controller.stepd_gone(link.key)
        self._end_orphans()
        self._misbehaviour.deliver_all()
        for name in _FOLDERS:
            shutil.rmtree(f"{self.folder}/{name}", ignore_errors=True)
        if not os.path.exists(f"{self.folder}/keep"):
            for name in _FILES:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.folder}/{name}")
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)

    def job_of_fault(self, job: Job | None) -> Job | None:
        """The job that a fault befalls: the one that it came with, or the first that runs."""
        if job is not None:
            return job
        running = (job for job in self.controller.jobs.values() if job.state == "RUNNING")
        return next(running, None)


def _refusal(refusal: Refused) -> list[bytes]:
    return [b"%d" % refusal.code, os.fsencode(refusal.out), os.fsencode(refusal.message), b""]


def _peer(end: socket.socket) -> tuple[int, int]:
    _, uid, gid = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid, gid


def _listen(folder: str, shared: bool) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    fd = os.open(folder, os.O_PATH)
    with contextlib.suppress(OSError):
        os.unlink(f"{folder}/controller")
    try:
        old = os.umask(0o111 if shared else 0o177)
        listener.bind(f"/proc/self/fd/{fd}/controller")
        os.umask(old)
    finally:
        os.close(fd)
    listener.listen(128)
    return listener


def main(folder: str, lock: str, down_s: str = "0", state: str = "") -> None:
    """See the module."""
    os.set_inheritable(int(lock), False)
    time.sleep(float(down_s))
    server = Server(folder, int(lock))
    try:
        server.serve(state)
    except BaseException:
        server.log(traceback.format_exc())
    os._exit(0)  # which closes the leases last
