"""The node's side of one job: a process that starts it, watches it, and ends all that descends from it.

It is forked by the controller, and outlives it. What happened to the job is in the file `result` in its
folder before it ends. It listens on `stepd` in the same folder: to `srun`, and to a controller that was
restarted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, NoReturn

from . import processes
from .launch import Failed, Launch, launch_batch
from .memory import MemoryGuard
from .steps import Step, StepRequests

_POLL_S = 0.02
_END_DEADLINE_S = 30.0
OOM_SIGNAL = 125


class Stepd:
    """See the module."""

    def __init__(self, order: dict[str, Any], link: socket.socket, listener: socket.socket) -> None:
        self.order = order
        self._link: socket.socket | None = link
        self._listener = listener
        self._words = b""
        self._launch: Launch | None = None
        self._batch: int | None = None
        self._status: int | None = None
        self._kill_at: float | None = None
        self._kill_steps: dict[str, float] = {}
        self._dead_node = False
        self._memory = MemoryGuard(order)
        self._steps = StepRequests(order)
        self._wakeup, write = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._poll = select.poll()
        for fd in (self._wakeup, link.fileno(), listener.fileno()):
            self._poll.register(fd, select.POLLIN)

    def serve(self) -> None:
        """Returns when the job is over, and nothing of it is left."""
        try:
            self._launch = launch_batch(self.order)
        except Failed as failure:
            self._write_result({"code": 0, "signal": failure.number})
            return
        self._batch = self._launch.pid
        self._memory.roots["batch"] = self._batch
        while self._status is None:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                self._on_ready(fd)
            self._reap()
            self._look_at_memory()
            self._keep_deadlines()
        self._end_all()
        self._write_result(self._result(self._status))

    def _timeout_ms(self) -> float:
        if self._kill_at is not None or self._kill_steps:
            return _POLL_S * 1000
        longest_s = self._memory.interval_s if self._memory.is_needed else 60.0
        return 1000 * max(0.0, min(longest_s, self._steps.give_up_at - time.monotonic()))

    def _on_ready(self, fd: int) -> None:
        if fd == self._wakeup:
            os.read(fd, 4096)
        elif self._link is not None and fd == self._link.fileno():
            self._on_controller()
        elif fd == self._listener.fileno():
            self._accept()
        elif (step := self._steps.of(fd)) is not None:  # srun is gone
            self._poll.unregister(fd)
            self._steps.drop(step)
            if step.pid is not None:
                self._terminate_step(step)

    def _accept(self) -> None:
        end, _ = self._listener.accept()
        first, fds = _first_of(end)
        if not first:  # an srun that was killed just now
            end.close()
            return
        if not fds:  # a controller that was restarted
            if self._link is not None:
                self._poll.unregister(self._link)
                self._link.close()
            self._link = end
            self._poll.register(end, select.POLLIN)
            return
        step = self._steps.add(end, first, fds)
        if step is not None:
            self._poll.register(end, select.POLLIN)
        self._start_steps()

    def _start_steps(self) -> None:
        for step in self._steps.start_those_that_fit():
            assert step.pid is not None
            self._memory.roots[step.name] = step.pid
            self._memory.limits[step.name] = step.memory_mb

    def _on_controller(self) -> None:
        assert self._link is not None
        try:
            data = self._link.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(self._link)
            self._link.close()
            self._link = None
        *lines, self._words = (self._words + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, word: dict[str, Any]) -> None:
        match word["do"]:
            case "terminate":
                self.terminate(word["why"])
            case "signal":
                processes.send(self._all(), word["number"])
            case "oom":
                running = next((step.name for step in self._steps.steps if step.pid is not None), "batch")
                self._over_limit(running, by_plan=True)
            case "die":  # the node's power is cut
                self._dead_node = True
                self._kill_at = 0.0

    def say(self, line: str) -> None:
        """In the job's stderr, as slurmstepd does."""
        if self._launch is not None:
            self._launch.say(line)

    def terminate(self, why: str, number: int = signal.SIGTERM) -> None:
        """A signal for all, SIGKILL for what is left after a while."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S")
        self.say(f"*** JOB {self.order['id']} ON {self.order['node']} CANCELLED AT {when}{why} ***")
        self._steps.cancel_waiting()
        everybody = self._all()
        processes.send(everybody, signal.SIGCONT)
        processes.send(everybody, number)
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self.order["kill_wait_s"]

    def _terminate_step(self, step: Step) -> None:
        pids = [step.pid, *processes.below([step.pid])] if step.pid else []
        processes.send(pids, signal.SIGCONT)
        processes.send(pids, signal.SIGTERM)
        self._kill_steps[step.name] = time.monotonic() + self.order["kill_wait_s"]

    def _all(self) -> list[int]:
        return processes.below([os.getpid()])

    def _keep_deadlines(self) -> None:
        for step in self._steps.late():
            if step.end is not None:
                self._poll.unregister(step.end)
            self._steps.give_up(step)
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            processes.send(self._all(), signal.SIGKILL)
        for name, due in list(self._kill_steps.items()):
            root = self._memory.roots.get(name)
            if root is None:
                del self._kill_steps[name]
            elif now >= due:
                processes.send([root, *processes.below([root])], signal.SIGKILL)

    def _look_at_memory(self) -> None:
        for name in self._memory.exceeded():
            self._over_limit(name)

    def _over_limit(self, name: str, *, by_plan: bool = False) -> None:
        """Either the biggest process ends, or the step (the job, if it is the batch step's limit)."""
        step_id = f"{self.order['id']}.{name}"
        step = self._steps.named(name)
        if self.order["memory_kill"] == "poll":
            size, limit = self._memory.size(name), self._memory.limits[name] << 20
            if by_plan:
                size = limit + (1 << 20)
            words = f"StepId={step_id} exceeded memory limit ({size} > {limit}), being killed"
            for text in (words, "Exceeded job memory limit"):
                self.say(text) if step is None else step.say(text)
            if step is None:
                self.terminate("", signal.SIGKILL)
            elif step.pid is not None:
                step.cancelled = True
                processes.send([step.pid, *processes.below([step.pid])], signal.SIGKILL)
            return
        if (biggest := self._memory.biggest(name)) is not None:
            self._memory.oom_kills[name] = self._memory.oom_kills.get(name, 0) + 1
            processes.send([biggest], signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._batch:
                self._status = status
                self._memory.roots.pop("batch", None)
            elif (step := self._steps.running(pid)) is not None:
                self._end_step(step, status)

    def _end_step(self, step: Step, status: int) -> None:
        assert step.pid is not None
        self._memory.roots.pop(step.name, None)
        left = [*processes.below([step.pid]), *self._memory.orphans(step.name)]
        processes.send(left, signal.SIGKILL)
        if step.end is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._poll.unregister(step.end)
        self._steps.ended(step, status, self._memory.oom_kills.get(step.name, 0))
        self._start_steps()

    def _end_all(self) -> None:
        deadline = time.monotonic() + _END_DEADLINE_S
        while time.monotonic() < deadline:
            processes.send(self._all(), signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            time.sleep(_POLL_S / 4)
        self._steps.close()

    def _result(self, status: int) -> dict[str, Any]:
        kills = self._memory.oom_kills.get("batch", 0)
        if kills:
            self.say(_oom_words(f"{self.order['id']}.batch", kills))
            return {"code": 0, "signal": OOM_SIGNAL}
        code = os.waitstatus_to_exitcode(status)
        return {"code": max(code, 0), "signal": max(-code, 0)}

    def _write_result(self, result: dict[str, Any]) -> None:
        if self._dead_node:
            return
        path = os.path.join(self.order["folder"], "result")
        with contextlib.suppress(OSError):
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump(result, file)
            os.rename(path + ".new", path)


def _first_of(end: socket.socket) -> tuple[bytes, list[int]]:
    """The first byte of a message, and the files of an srun, which are for its step alone."""
    try:
        first, fds, _, _ = socket.recv_fds(end, 1, 3)
    except OSError:
        return b"", []
    for fd in fds:
        os.set_inheritable(fd, False)
    return first, fds


def _oom_words(step_id: str, kills: int) -> str:
    return (
        f"Detected {kills} oom-kill event(s) in StepId={step_id}."
        " Some of your processes may have been killed by the cgroup out-of-memory handler."
    )


def run(order: dict[str, Any], link: socket.socket, listener: socket.socket) -> NoReturn:
    """In a process that was forked from the controller."""
    try:
        os.setsid()
        os.chdir("/")
        keep = {0, 1, 2, link.fileno(), listener.fileno()}
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(entry))
        processes.become_subreaper()
        Stepd(order, link, listener).serve()
    finally:
        os._exit(0)
