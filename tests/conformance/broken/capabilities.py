"""Broken in what is declared, ignored and refused."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar

from fractal_backends_local import LocalBackend, LocalBackendConfig
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import (
    Cause,
    Options,
    Outcome,
    RunInfo,
    RunResult,
    Support,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnsupportedArgumentError,
)
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend
from tests.conformance.broken.tools import WithExecutor
from tests.conformance.correct.spool import EndingSpoolBackend, SpoolBackend, SpoolExecutor, SpoolOptions

_PR_SET_PDEATHSIG = 1


@caught_by("CAP-001", "what becomes of worker_init is not said")
class ArgumentNotDeclared(LocalBackend):
    arguments: ClassVar = {
        name: what for name, what in LocalBackend.arguments.items() if name != "worker_init"
    }


@caught_by("CAP-001", "it has an ability that nobody knows")
class UnknownCapability(LocalBackend):
    capabilities = LocalBackend.capabilities | {"gpu"}


@caught_by("CAP-001", "a limit is declared for which users cannot ask")
class LimitWithoutOption(LocalBackend):
    capabilities = LocalBackend.capabilities | {"time_limit"}


@caught_by("CAP-001", "initial lines are declared as a capability, and as ignored")
class DeclaredAndIgnored(LocalBackend):
    capabilities = LocalBackend.capabilities | {"worker_init"}


class _WithVariables(LocalExecutor):
    def __init__(self, run: RunInfo, env: dict[str, str]) -> None:
        super().__init__(run)
        self._env = env

    def submit(self, unit: Unit, options: Options) -> Any:
        return super().submit(replace(unit, env={**unit.env, **self._env}), options)


@caught_by("CAP-002", "an account that is ignored gets into the environment of units")
class IgnoredAccountLeaks(LocalBackend):
    async def process_workflow(self, *, slurm_account: str | None = None, **arguments: Any) -> RunResult:
        self._account = slurm_account
        return await super().process_workflow(**arguments)

    def open(self, run: RunInfo) -> UnitExecutor:
        return _WithVariables(run, {"BILLED_TO": self._account} if self._account else {})


@caught_by("CAP-002", "initial lines that are ignored are in the history")
class IgnoredLinesInTheHistory(LocalBackend):
    async def process_workflow(self, *, worker_init: str | None = None, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        if worker_init:
            result["history"][0]["worker_init"] = worker_init
        return result


_REFUSES_USERS = {**LocalBackend.arguments, "slurm_user": Support.REFUSED}


@caught_by("CAP-003", "an argument that is declared as refused is dropped")
class RefusedArgumentDropped(LocalBackend):
    arguments: ClassVar = _REFUSES_USERS

    async def process_workflow(self, *, slurm_user: str | None = None, **arguments: Any) -> RunResult:
        return await super().process_workflow(**arguments)


@caught_by("CAP-003", "an argument that is declared as refused is refused when the run is over")
class RefusedInTheEnd(LocalBackend):
    arguments: ClassVar = _REFUSES_USERS

    async def process_workflow(self, *, slurm_user: str | None = None, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        if slurm_user:
            raise UnsupportedArgumentError("slurm_user is not supported")
        return result


@caught_by("CAP-003", "the remote folder is refused also where it is the local one")
class RemoteFolderNeverAccepted(LocalBackend):
    async def process_workflow(self, *, workflow_dir_remote: Any = None, **arguments: Any) -> RunResult:
        if workflow_dir_remote is not None:
            raise UnsupportedArgumentError("workflow_dir_remote is not supported")
        return await super().process_workflow(**arguments)


@caught_by("CAP-003", "the error of an argument that is refused says nothing")
class RefusedWithoutReason(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except UnsupportedArgumentError:
            raise NotImplementedError from None


@caught_by("CAP-004", "options that it does not know are dropped")
class UndeclaredOptionsDropped(LocalBackend):
    def __init__(self, options: dict[str, Any] | None = None, **more: Any) -> None:
        known = LocalBackendConfig.model_fields
        super().__init__({k: v for k, v in (options or {}).items() if k in known}, **more)


class _WithATimeLimit(LocalBackendConfig):
    time_limit: str | None = None


@caught_by("CAP-004", "there is an option for a limit that does nothing")
class LimitForShow(LocalBackend):
    options_model = _WithATimeLimit


class _StartsAgain(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        return super().run([replace(unit, handle=None) for unit in units], options)


@caught_by("CAP-004", "units that were started before are started again")
class HandlesIgnored(WithExecutor):
    executor = _StartsAgain


class WithSpool(SpoolBackend):
    """The executor is another one, and told another thing about the run."""

    executor: ClassVar[type[SpoolExecutor]] = SpoolExecutor

    def seen(self, run: RunInfo) -> RunInfo:
        return run

    def open(self, run: RunInfo) -> UnitExecutor:
        return self.executor(self.seen(run), ends_with_runner=False)


@caught_by("CAP-005", "the remote folder is honoured in words only")
class RemoteFolderIgnored(WithSpool):
    def seen(self, run: RunInfo) -> RunInfo:
        return replace(run, workflow_dir_remote=run.workflow_dir_local)


class _FetchesNoLogs(SpoolExecutor):
    def _fetched(self, unit: Unit, outcome: Outcome) -> Outcome:
        return super()._fetched(unit, outcome) if outcome.cause is Cause.DONE else outcome


@caught_by("CAP-005", "what units that failed have left stays in the remote folder")
class LogsOfFailuresNotFetched(WithSpool):
    executor = _FetchesNoLogs


@caught_by("CAP-006", "units run as the user of the server", slurm_user="nobody")
class UserIgnored(WithSpool):
    def seen(self, run: RunInfo) -> RunInfo:
        return replace(run, slurm_user=None)


class _EffectiveUser(SpoolExecutor):
    def _prepared(self, unit: Unit) -> Unit:
        prepared = super()._prepared(unit)
        uid, gid, _, *command = prepared.task_command[1:]
        switch = ("setpriv", uid.replace("--reuid", "--euid"), gid, "--clear-groups")
        return replace(prepared, task_command=(*switch, *command))


@caught_by("CAP-006", "units could become the user of the server again", slurm_user="nobody")
class OnlyTheEffectiveUser(WithSpool):
    executor = _EffectiveUser


@caught_by("CAP-007", "the account is dropped", slurm_account="lab")
class AccountDropped(WithSpool):
    def seen(self, run: RunInfo) -> RunInfo:
        return replace(run, slurm_account=None)


class _NoMemoryLimit(SpoolOptions):
    @property
    def limits(self) -> dict[str, int | None]:
        return {**super().limits, "memory_mb": None}


@caught_by("CAP-008", "nobody looks at the memory of units")
class MemoryLimitNotKept(SpoolBackend):
    options_model = _NoMemoryLimit


class _OnlyKilled(SpoolExecutor):
    def _fetched(self, unit: Unit, outcome: Outcome) -> Outcome:
        if outcome.cause is Cause.OUT_OF_MEMORY:
            return Outcome(Cause.KILLED, signal=signal.SIGKILL)
        return super()._fetched(unit, outcome)


@caught_by("CAP-008", "a unit that took too much memory is told of as killed")
class OutOfMemoryIsKilled(WithSpool):
    executor = _OnlyKilled


class _TimeOptions(Options):
    time_limit: str | None = None


@caught_by("CAP-009", "only the process that was started is ended, not what it started")
class OnlyTheFirstProcessEnds(PlainBackend):
    options_model = _TimeOptions
    capabilities = frozenset({"time_limit"})

    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        process = super().start(unit, log)
        self.limit_to_time(unit, process, process.kill)
        return process

    def limit_to_time(self, unit: Unit, process: subprocess.Popen[bytes], end: Callable[[], None]) -> None:
        hours, minutes, seconds = map(int, self.options["time_limit"].split(":"))
        timer = threading.Timer(hours * 3600 + minutes * 60 + seconds, end)
        timer.daemon = True
        timer.start()

    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        return (
            Outcome(Cause.TIME_LIMIT) if returncode == -signal.SIGKILL else super().verdict(unit, returncode)
        )


@caught_by("CAP-009", "only units of images are limited")
class TimeLimitOfImages(OnlyTheFirstProcessEnds):
    def limit_to_time(self, unit: Unit, process: subprocess.Popen[bytes], end: Callable[[], None]) -> None:
        def end_all() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        if unit.component is not None:
            super().limit_to_time(unit, process, end_all)


class _OneLimitForAll(SpoolExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        assert isinstance(options, SpoolOptions)
        timer = threading.Timer(options.limits["seconds"] or 3600, self.cancel)
        timer.start()
        for event in super().run(units, options.model_copy(update={"time_limit": None})):
            is_over = event.outcome and event.outcome.cause is Cause.CANCELLED
            yield replace(event, outcome=Outcome(Cause.TIME_LIMIT)) if is_over else event
        timer.cancel()


@caught_by("CAP-009", "units that wait use up the time of their task")
class TimeLimitOfTheTask(WithSpool):
    executor = _OneLimitForAll


@caught_by("CAP-010", "units end with the runner although others are to adopt them")
class NothingToAdopt(WithSpool):
    def open(self, run: RunInfo) -> UnitExecutor:
        return SpoolExecutor(run, ends_with_runner=True)


class _StartsInsteadOfAdopting(SpoolExecutor):
    def _begin(self, unit: Unit, options: SpoolOptions) -> UnitEvent:
        return super()._begin(replace(unit, handle=None), options)


@caught_by("CAP-010", "units that are to be adopted are started again")
class StartedInsteadOfAdopted(WithSpool):
    executor = _StartsInsteadOfAdopting


class _AnyEndIsGood(SpoolExecutor):
    def _events(self, under_way: Any) -> Iterator[UnitEvent]:
        for event in super()._events(under_way):
            was_adopted = event.outcome and event.unit.handle is not None
            yield replace(event, outcome=Outcome.exited(0)) if was_adopted else event


@caught_by("CAP-010", "an adopted unit that is gone counts as done")
class GoneIsDone(WithSpool):
    executor = _AnyEndIsGood


@caught_by("CAP-011", "units go on without the runner")
class UnitsGoOn(EndingSpoolBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return SpoolExecutor(run, ends_with_runner=False)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@caught_by("CAP-011", "what units started goes on without the runner")
class ChildrenGoOn(PlainBackend):
    capabilities = frozenset({"ends_with_runner"})

    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "preexec_fn": _end_with_parent}
