"""A queue of its own, on one machine: the model of what the backend of a cluster does.

For each run there is a spool folder. The runner appends requests to one file in it; a daemon, which can
outlive the runner, executes them and appends what happens to another file. The handle of a unit is the path
of its spool and its label: all that another runner needs to adopt it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, ClassVar, Self, cast

from pydantic import Field, model_validator

from fractal_backends import (
    Backend,
    Cause,
    InvalidInputError,
    MemoryMB,
    Options,
    Outcome,
    RunInfo,
    StrictPositiveInt,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
    UnsupportedArgumentError,
)
from fractal_backends.interface import Support

from .spool_folder import POLL_S, Spool

_SMALLEST_S = 4


class SpoolOptions(Options):
    """What users may ask for."""

    concurrency_limit: StrictPositiveInt = 16
    """Units of a task that run at once."""
    memory_limit: MemoryMB | None = None
    """Memory of a unit, in MB or with a unit as in "4G"."""
    time_limit: Annotated[str, Field(pattern=r"^\d+:[0-5]\d:[0-5]\d$")] | None = None
    """How long a unit may run, as "HH:MM:SS"."""

    @property
    def limits(self) -> dict[str, int | None]:
        """The limits of each unit."""
        seconds = None
        if self.time_limit is not None:
            hours, minutes, rest = map(int, self.time_limit.split(":"))
            seconds = (hours * 60 + minutes) * 60 + rest
        return {"memory_mb": self.memory_limit, "seconds": seconds}


class CoarseSpoolOptions(SpoolOptions):
    """Short time limits are refused."""

    @model_validator(mode="after")
    def check_time_limit(self) -> Self:
        """Raises ValueError."""
        if (self.limits["seconds"] or _SMALLEST_S) < _SMALLEST_S:
            raise ValueError(f"time_limit must be {_SMALLEST_S} s or more")
        return self


class SpoolBackend(Backend):
    """Units outlive the runner, and can be adopted."""

    name = "spool"
    interface_version = 1
    options_model = SpoolOptions
    config_file_variable = "SPOOL_CONFIG_FILE"
    capabilities = frozenset({"concurrency_limit", "memory_limit", "time_limit", "readopt"})
    arguments: ClassVar[Mapping[str, Support]] = dict.fromkeys(Backend.arguments, Support.HONOURED)

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        return SpoolExecutor(run, ends_with_runner="ends_with_runner" in self.capabilities)


class EndingSpoolBackend(SpoolBackend):
    """Units end with the runner."""

    name = "ending-spool"
    capabilities = frozenset({"concurrency_limit", "memory_limit", "time_limit", "ends_with_runner"})


class CoarseSpoolBackend(SpoolBackend):
    """Its smallest time limit is 4 s, as that of others is a minute."""

    name = "coarse-spool"
    options_model = CoarseSpoolOptions


class SpoolExecutor(UnitExecutor):
    """Hands units to the daemon of the run's spool, and finds those that it is to adopt in other spools."""

    def __init__(self, run: RunInfo, *, ends_with_runner: bool) -> None:
        self._run = run
        self._user = _other_user(run.slurm_user)
        self._ends_with_runner = ends_with_runner
        self._cancelled = threading.Event()
        self._spools: dict[Path, Spool] = {}
        """Those in use, the run's own first."""

    def __enter__(self) -> Self:
        run = self._run
        self._make_folder(run.workflow_dir_remote)
        spool = Spool.make(run.workflow_dir_remote / f".spool-{run.id}")
        self._spools[spool.folder] = spool
        spool.start_daemon(self._ends_with_runner, run.workflow_dir_remote if self._user else None)
        return self

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        """See `UnitExecutor.run`."""
        options = cast(SpoolOptions, options)
        waiting = iter(units)
        under_way: dict[str, Unit] = {}
        while True:
            while len(under_way) < options.concurrency_limit and (unit := next(waiting, None)):
                event = self._begin(unit, options)
                if event.handle is not None:
                    under_way[event.handle] = unit
                yield event
            if not under_way:
                return
            events = list(self._events(under_way))
            for event in events:
                if event.state is UnitState.ENDED:
                    del under_way[event.handle or ""]
                yield event
            if not events:
                time.sleep(POLL_S)

    def _begin(self, unit: Unit, options: SpoolOptions) -> UnitEvent:
        """Hand a unit over, or find it where it was handed over before; no handle where that failed."""
        if self._cancelled.is_set():
            return UnitEvent(unit, UnitState.ENDED, Outcome(Cause.CANCELLED))
        try:
            if unit.handle is not None:
                folder = Path(unit.handle).parent
                if folder not in self._spools:
                    self._spools = {**self._spools, folder: Spool(folder)}
                return UnitEvent(unit, UnitState.QUEUED, handle=unit.handle, info="adopted")
            own = next(iter(self._spools.values()))
            own.add({"unit": asdict(self._prepared(unit)), "limits": options.limits})
        except OSError as error:
            cause = Cause.LAUNCH_FAILED if unit.handle is None else Cause.LOST
            return UnitEvent(unit, UnitState.ENDED, Outcome(cause, str(error)))
        return UnitEvent(unit, UnitState.QUEUED, handle=f"{own.folder}/{unit.label}")

    def _events(self, under_way: Mapping[str, Unit]) -> Iterator[UnitEvent]:
        """What happened to units since the last call; those of a daemon that is gone are lost."""
        for folder, spool in self._spools.items():
            left = {handle: unit for handle, unit in under_way.items() if Path(handle).parent == folder}
            is_alive = spool.is_alive()  # asked first: then what it told before its end is read
            for event in spool.new_events():
                handle = f"{folder}/{event['label']}"
                if handle not in left:
                    continue
                if event["outcome"] is None:
                    yield UnitEvent(left[handle], UnitState.STARTED, handle=handle)
                else:
                    unit = left.pop(handle)
                    outcome = Outcome(**{**event["outcome"], "cause": Cause(event["outcome"]["cause"])})
                    yield UnitEvent(unit, UnitState.ENDED, self._fetched(unit, outcome), handle=handle)
            if not is_alive:
                cause = Cause.CANCELLED if self._cancelled.is_set() else Cause.LOST
                for handle, unit in left.items():
                    outcome = Outcome(cause, f"The daemon of the spool is gone. {spool.last_words()}".strip())
                    yield UnitEvent(unit, UnitState.ENDED, outcome, handle=handle)

    def _prepared(self, unit: Unit) -> Unit:
        """As the daemon is to execute it, its files in the remote folder."""
        run = self._run
        placed = replace(unit, stem=self._remote(unit.stem))
        self._make_folder(Path(placed.stem).parent)
        if placed.stem != unit.stem:
            _copy(unit.args_file, placed.args_file)
            Path(placed.output_file).unlink(missing_ok=True)
        command, env = list(unit.task_command), dict(unit.env)
        if run.worker_init is not None:
            command = ["/bin/sh", "-c", f'{run.worker_init}\nexec "$@"', "sh", *command]
        if run.slurm_account is not None:
            env["SPOOL_ACCOUNT"] = run.slurm_account
        if self._user:
            uid, gid = self._user.pw_uid, self._user.pw_gid
            os.chown(placed.args_file, uid, gid)
            command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--", *command]
            env.update(HOME=self._user.pw_dir, USER=self._user.pw_name, LOGNAME=self._user.pw_name)
        return replace(placed, task_command=tuple(command), env=env)

    def _fetched(self, unit: Unit, outcome: Outcome) -> Outcome:
        """Bring a unit's files to the local folder; a success of which that fails is none."""
        remote = replace(unit, stem=self._remote(unit.stem))
        if remote.stem == unit.stem:
            return outcome
        for theirs, ours in ((remote.log_file, unit.log_file), (remote.output_file, unit.output_file)):
            try:
                _copy(theirs, ours)
            except FileNotFoundError:
                continue
            except OSError as error:
                cause = Cause.LOST if outcome.cause is Cause.DONE else outcome.cause
                return replace(outcome, cause=cause, info=f"{outcome.info} Cannot fetch {theirs}: {error}.")
        return outcome

    def _remote(self, path: str) -> str:
        local, remote = self._run.workflow_dir_local, self._run.workflow_dir_remote
        return path if local == remote else str(remote / Path(path).relative_to(local))

    def _make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._user:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`."""
        self._cancelled.set()
        spools = list(self._spools.values())
        for spool in spools:
            spool.revoke_permit()
        for spool in spools:
            spool.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()
        for spool in self._spools.values():
            spool.remove()


def _other_user(name: str | None) -> pwd.struct_passwd | None:
    """The user that units run as, if that is not the runner's."""
    if name is None:
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise InvalidInputError(f"slurm_user: this machine knows no user {name!r}") from None
    if user.pw_uid == os.getuid():
        return None
    if os.getuid() != 0:
        raise UnsupportedArgumentError(f"slurm_user: only root can run units as {name!r}")
    return user


def _copy(source: str, target: str) -> None:
    """Copy a regular file to one that is its owner's alone; whatever else is there is an error."""
    read = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(read).st_mode):
            raise OSError(f"{source} is not a regular file")
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(read, "rb", closefd=False) as file, open(write, "wb") as copy:
            shutil.copyfileobj(file, copy)
    finally:
        os.close(read)
