"""Broken in what a unit finds when it starts."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar

from fractal_backends import RunInfo, RunResult, Support, Unit, UnitExecutor
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import ALL_SIGNALS, PlainBackend

_WITH_INIT_LINES = {**PlainBackend.arguments, "worker_init": Support.HONOURED}


@caught_by("ENV-001", "the compute units of a compound task are not told of the cache folder")
class CacheDirForgotten(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return super().how(unit if unit.component is None else replace(unit, env={}), log)


@caught_by("ENV-002", "initial lines are taken apart instead of given to a shell")
class InitLinesTakenApart(PlainBackend):
    arguments: ClassVar = _WITH_INIT_LINES

    def open(self, run: RunInfo) -> UnitExecutor:
        lines = (run.worker_init or "").splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines if line.startswith("export "))
        self._exported = {name: value.strip("'\"") for name, _, value in pairs}
        return super().open(run)

    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return super().how(replace(unit, env={**unit.env, **self._exported}), log)


@caught_by("ENV-002", "initial lines are executed once, in the environment of the server")
class InitLinesInTheServer(PlainBackend):
    arguments: ClassVar = _WITH_INIT_LINES

    async def process_workflow(self, *, worker_init: str | None = None, **arguments: Any) -> RunResult:
        if worker_init:
            script = f"{worker_init}\nenv --null"
            shown = subprocess.run(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
            for entry in shown.stdout.split("\0")[:-1]:
                name, _, value = entry.partition("=")
                os.environ[name] = value
        return await super().process_workflow(**arguments)


@caught_by("ENV-003", "units start in a scratch folder that is removed too early")
class ScratchFolderRemoved(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryDirectory() as scratch:
            return subprocess.Popen(unit.command, cwd=scratch, **self.how(unit, log))


@caught_by("ENV-004", "a unit's own variables take the place of the runner's")
class EnvironmentReplaced(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "env": {"PATH": os.environ["PATH"], **unit.env}}


@caught_by("ENV-004", "the environment goes through text with a variable in each line")
class EnvironmentInLines(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        how = super().how(unit, log)
        text = "\n".join(f"{name}={value}" for name, value in how["env"].items())
        return {**how, "env": dict(line.split("=", 1) for line in text.splitlines() if "=" in line)}


@caught_by("ENV-004", "variables are taken for settings, whose names are in capitals")
class SmallNamesLost(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        how = super().how(unit, log)
        return {**how, "env": {name: value for name, value in how["env"].items() if name.isupper()}}


@caught_by("ENV-004", "units have the PATH of a new login")
class PathOfALogin(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        how = super().how(unit, log)
        return {**how, "env": {**how["env"], "PATH": "/usr/local/bin:/usr/bin:/bin"}}


@caught_by("ENV-004", "units have the home of the user database")
class HomeOfTheUser(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        how = super().how(unit, log)
        return {**how, "env": {**how["env"], "HOME": pwd.getpwuid(os.getuid()).pw_dir}}


@caught_by("ENV-005", "units share the standard input of the server")
class StandardInputShared(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "stdin": None}


@caught_by("ENV-006", "units inherit the descriptor of their log, and those of others")
class LogDescriptorInherited(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        os.set_inheritable(log.fileno(), True)
        return {**super().how(unit, log), "close_fds": False}


@caught_by("ENV-006", "units inherit a pipe by which the runner waits for their end")
class PipeInherited(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        read, write = os.pipe()
        process = subprocess.Popen(unit.command, pass_fds=[write], **self.how(unit, log))
        os.close(write)
        os.read(read, 1)
        os.close(read)
        return process


@caught_by("ENV-007", "units ignore SIGPIPE, as Python does")
class SigpipeIgnored(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "restore_signals": False, "preexec_fn": _all_but(signal.SIGPIPE)}


def _all_but(*kept: int) -> Callable[[], None]:
    """Resets all signals but these."""

    def reset() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in ALL_SIGNALS - {*kept}:
            signal.signal(number, signal.SIG_DFL)

    return reset


@caught_by("ENV-007", "units ignore SIGINT where the server does")
class SigintIgnored(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "preexec_fn": _all_but(signal.SIGINT)}


@caught_by("ENV-007", "units ignore SIGHUP where the server was started with nohup")
class SighupIgnored(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "preexec_fn": _all_but(signal.SIGHUP)}


def _ignore_children() -> None:
    _all_but()()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@caught_by("ENV-007", "units ignore SIGCHLD, so that they need not be waited for")
class SigchldIgnored(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "preexec_fn": _ignore_children}


def _unblock_most() -> None:
    _all_but()()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})


@caught_by("ENV-007", "signals that the engine waits for are blocked in units")
class EnginesSignalsBlocked(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "preexec_fn": _unblock_most}


@caught_by("ENV-008", "units are in the process group of the server")
class GroupOfTheServer(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "process_group": None}


@caught_by("ENV-008", "all units are in one process group")
class OneGroupForAll(PlainBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        self._leader: int | None = None
        return super().open(run)

    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "process_group": self._leader or 0}

    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        process = super().start(unit, log)
        self._leader = self._leader or process.pid
        return process


@caught_by("ENV-009", "a launch script sets a umask, so that what tasks write is for nobody else")
class UmaskOfTheLauncher(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "umask": 0o077}


@caught_by("ENV-009", "compute units are started by a daemon, which has a umask of its own")
class UmaskOfADaemon(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "umask": -1 if unit.component is None else 0o022}
