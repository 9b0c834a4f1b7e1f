"""What srun asks a job's stepd for."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from . import times
from .arguments import Grammar, Refused
from .client import pack, unpack
from .launch import start, umask_of

GRAMMAR = Grammar(
    "srun",
    "nodes ntasks cpus-per-task mem mem-per-cpu job-name cpu-bind mpi kill-on-bad-exit wait time chdir input"
    " output error export immediate",
    "exact exclusive overlap quiet unbuffered label verbose",
    "N=nodes n=ntasks c=cpus-per-task J=job-name Q=quiet u=unbuffered l=label v=verbose t=time D=chdir",
)
_KILLED = 128


@dataclass
class Step:
    """A step: waits, then runs."""

    name: str
    end: socket.socket | None
    """To its srun; None when that is gone."""
    fds: list[int]
    argv: list[str]
    env: list[str]
    cwd: str
    cpus: int
    memory_mb: int
    node: str
    pid: int | None = None
    has_waited: bool = False
    give_up_at: float = math.inf
    """When its srun waits no longer, on the monotonic clock."""
    cancelled: bool = False

    def say(self, line: str) -> None:
        """In srun's stderr, as slurmstepd does."""
        self._write(f"slurmstepd-{self.node}: error: {line}\n")

    def srun_says(self, line: str) -> None:
        """In srun's stderr."""
        self._write(f"srun: {line}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self.fds[2], os.fsencode(text))

    def answer(self, code: int) -> None:
        """The end of its srun."""
        if self.end is not None:
            with contextlib.suppress(OSError):
                self.end.sendall(pack([b"%d" % code, b"", b"", b""]))
            self.end.close()
            self.end = None
        for fd in self.fds:
            os.close(fd)
        self.fds = []


@dataclass
class StepRequests:
    """The steps of a job, in the order in which they came. Each has its own cpus and memory."""

    order: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    count: int = 0

    def add(self, end: socket.socket, first: bytes, fds: list[int]) -> Step | None:
        """A new one; None if it was refused."""
        data = first
        while (fields := unpack(data)) is None:
            more = end.recv(1 << 16)
            if not more:
                end.close()
                for fd in fds:
                    os.close(fd)
                return None
            data += more
        step = Step(str(self.count), end, fds, [], [], "", 1, 0, self.order["node"])
        try:
            self._read(step, fields)
        except Refused as refusal:
            with contextlib.suppress(OSError):
                os.write(fds[2], os.fsencode(refusal.message))
            step.answer(refusal.code)
            return None
        except ValueError as error:
            step.srun_says(f"error: Invalid numeric specification: {error}")
            step.answer(1)
            return None
        self.count += 1
        self.steps.append(step)
        return step

    def _read(self, step: Step, fields: list[bytes]) -> None:
        words = 4 + int(fields[2])
        options, step.argv = GRAMMAR.parse(
            [os.fsdecode(word) for word in fields[4:words]], stop_at_operand=True
        )
        step.env = [os.fsdecode(item) for item in fields[words + int(fields[3]) :]]
        if options.get("input") == "none":
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, step.fds[0], inheritable=False)
            os.close(null)
        if "immediate" in options:
            step.give_up_at = time.monotonic() + float(options["immediate"])
        step.cwd = options.get("chdir") or os.fsdecode(fields[1])
        if not step.argv:
            raise Refused("srun: fatal: No command given to execute.\n")
        job = f"srun: error: Unable to create step for job {self.order['id']}: "
        step.cpus = int(options.get("cpus-per-task", "1")) * int(options.get("ntasks", "1"))
        if step.cpus > self.order["cpus"]:
            raise Refused(job + "More processors requested than permitted\n")
        if "exact" not in options and "overlap" not in options:
            step.cpus = self.order["cpus"]
        step.memory_mb = self.order["memory_mb"]
        if "mem" in options:
            step.memory_mb = times.memory_mb(options["mem"]) or step.memory_mb
        elif "mem-per-cpu" in options:
            step.memory_mb = times.memory_mb(options["mem-per-cpu"]) * step.cpus
        if step.memory_mb > self.order["memory_mb"]:
            raise Refused(job + "Memory required by task is not available\n")

    def start_those_that_fit(self) -> list[Step]:
        """Returns those that were started now."""
        started = []
        for step in [step for step in self.steps if step.pid is None]:
            running = [other for other in self.steps if other.pid is not None]
            cpus = sum(other.cpus for other in running)
            memory = sum(other.memory_mb for other in running)
            if cpus + step.cpus > self.order["cpus"] or memory + step.memory_mb > self.order["memory_mb"]:
                if not step.has_waited and step.give_up_at == math.inf:
                    self._tell_to_wait(step)
                step.has_waited = True
                continue
            if step.has_waited:
                if step.give_up_at < math.inf:  # which srun tells only then
                    self._tell_to_wait(step)
                step.srun_says(f"Step created for job {self.order['id']}")
            files = (step.fds[0], step.fds[1], step.fds[2])
            env, umask = self._env(step), umask_of(step.env)
            step.pid = start(self.order, step.argv, env, files, step.cwd, umask)
            started.append(step)
        return started

    def _tell_to_wait(self, step: Step) -> None:
        busy = "step creation temporarily disabled, retrying (Requested nodes are busy)"
        step.srun_says(f"Job {self.order['id']} {busy}")

    def _env(self, step: Step) -> list[str]:
        node = self.order["node"]
        ours = {
            "SLURM_STEP_ID": step.name,
            "SLURM_STEPID": step.name,
            "SLURM_STEP_NODELIST": node,
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_CPUS_ON_NODE": str(step.cpus),
            "SLURM_CPUS_PER_TASK": str(step.cpus),
            "SLURM_MEM_PER_NODE": str(step.memory_mb),
            "SLURM_JOB_NAME": os.path.basename(step.argv[0]),
        }
        return [*step.env, *(f"{name}={value}" for name, value in ours.items())]

    def of(self, fd: int) -> Step | None:
        """The step whose srun is at the other end."""
        return next((step for step in self.steps if step.end is not None and step.end.fileno() == fd), None)

    def named(self, name: str) -> Step | None:
        """A step that waits or runs."""
        return next((step for step in self.steps if step.name == name), None)

    def running(self, pid: int) -> Step | None:
        """The step whose program has this process id."""
        return next((step for step in self.steps if step.pid == pid), None)

    def drop(self, step: Step) -> None:
        """Its srun is gone."""
        if step.end is not None:
            step.end.close()
            step.end = None
        if step.pid is None:
            self.steps.remove(step)
            step.answer(1)

    @property
    def give_up_at(self) -> float:
        """When the first of those that wait does so no longer."""
        return min((step.give_up_at for step in self.steps if step.pid is None), default=math.inf)

    def late(self) -> list[Step]:
        """Those that have waited too long."""
        now = time.monotonic()
        return [step for step in self.steps if step.pid is None and step.give_up_at <= now]

    def give_up(self, step: Step) -> None:
        """It starts no more."""
        self.steps.remove(step)
        step.srun_says(f"error: Unable to create step for job {self.order['id']}: Requested nodes are busy")
        step.answer(1)

    def cancel_waiting(self) -> None:
        """None starts any more."""
        for step in [step for step in self.steps if step.pid is None]:
            self.steps.remove(step)
            step.srun_says(
                f"error: Unable to create step for job {self.order['id']}: Job/step already completing"
            )
            step.answer(1)

    def ended(self, step: Step, status: int, oom_kills: int) -> None:
        """Tell its srun."""
        self.steps.remove(step)
        code = os.waitstatus_to_exitcode(status)
        where = f"error: {step.node}: task 0: "
        if oom_kills:
            step.srun_says(where + "Out Of Memory")
            step.say(
                f"Detected {oom_kills} oom-kill event(s) in StepId={self.order['id']}.{step.name}."
                " Some of your processes may have been killed by the cgroup out-of-memory handler."
            )
            code = 1
        elif code > 0:
            step.srun_says(f"{where}Exited with exit code {code}")
        elif code < 0:
            step.srun_says(where + (signal.strsignal(-code) or f"signal {-code}"))
            if not step.cancelled:
                step.srun_says(f"Force Terminated StepId={self.order['id']}.{step.name}")
        step.answer(code if code >= 0 else _KILLED - code)

    def close(self) -> None:
        """The job is over."""
        for step in self.steps:
            step.answer(1)
