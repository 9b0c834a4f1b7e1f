"""The standard interface of a backend, and the far smaller contract that most backends are made of.

Servers and command lines talk to `StandardBackend`. Authors write a `UnitExecutor`, two methods, and
`fractal_backends.Backend` makes the one out of the other.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from .options import Options, Source

    RunLogger = logging.LoggerAdapter[logging.Logger]
else:
    RunLogger = logging.LoggerAdapter

RUN_ID = "fractal_run"
"""The attribute of log records that says which run they belong to."""

INTERFACE_VERSION = 1
"""The version of this interface; a backend says which one it was written for."""


class RunResult(TypedDict):
    """What a run returns: JSON values."""

    history: list[dict[str, Any]]
    filters: dict[str, dict[str, Any]]
    images: list[dict[str, Any]]


@runtime_checkable
class StandardBackend(Protocol):
    """What a server awaits. Every backend accepts every argument."""

    async def process_workflow(
        self,
        *,
        workflow: Any,
        dataset: Any,
        workflow_dir_local: Path,
        workflow_dir_remote: Path | None = None,
        first_task_index: int | None = None,
        last_task_index: int | None = None,
        logger_name: str,
        user_cache_dir: str | None = None,
        slurm_user: str | None = None,
        slurm_account: str | None = None,
        worker_init: str | None = None,
    ) -> RunResult:
        """Run the tasks `first_task_index` to `last_task_index` (both included) of a workflow."""


class Support(StrEnum):
    """What a backend does with one of the arguments that not every backend can serve."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    REFUSED = "refused"


OPTIONAL_ARGUMENTS = ("workflow_dir_remote", "user_cache_dir", "slurm_user", "slurm_account", "worker_init")


@dataclass(frozen=True)
class RunInfo:
    """What a run is: where its files are and for whom it runs."""

    id: str
    workflow_dir_local: Path
    workflow_dir_remote: Path
    logger_name: str
    user_cache_dir: str | None = None
    slurm_user: str | None = None
    slurm_account: str | None = None
    worker_init: str | None = None

    @property
    def logger(self) -> RunLogger:
        """The logger named `logger_name`; what it says goes to the `workflow.log` of this run alone."""
        return RunLogger(logging.getLogger(self.logger_name), {RUN_ID: self.id})


@dataclass(frozen=True)
class TaskInfo:
    """A task of a run, as observers see it. `units` counts the ones planned so far."""

    order: int
    name: str
    type: str
    units: int = 0


@dataclass(frozen=True)
class TaskReport:
    """How a task went. Times in seconds, memory in MB (None: not measured)."""

    status: str
    units: int
    failed: int
    wall_s: float
    cpu_s: float | None
    peak_mb: float | None
    images_new: int
    images_updated: int
    images_removed: int


@dataclass(frozen=True, slots=True)
class Unit:
    """One execution of a task's command: plain values that can be written down, sent and compared.

    Its arguments are already in `args_file`. To execute it is to run `command` in the environment of
    the executor plus `env`, without a shell, with stdout and stderr both going to `log_file` (made by
    the executor, private to its owner). The task writes `output_file`; nobody else does.
    """

    order: int
    """The task's place in the workflow."""
    component: int | None
    """The unit's index inside its task; None for a non-parallel unit and for an init."""
    stem: str
    """Path of the unit's files, without their endings."""
    task_command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    handle: str | None = None
    """What an earlier start was given by the backend's engine: adopt it, do not start it again."""

    @property
    def args_file(self) -> str:
        """Where the unit's arguments are, as JSON."""
        return self.stem + ".args.json"

    @property
    def log_file(self) -> str:
        """Where the unit's stdout and stderr go."""
        return self.stem + ".log"

    @property
    def output_file(self) -> str:
        """Where the task may write its output."""
        return self.stem + ".metadiff.json"

    @property
    def command(self) -> list[str]:
        """The whole command, as an argument list."""
        return [*self.task_command, "--args-json", self.args_file, "--out-json", self.output_file]

    @property
    def label(self) -> str:
        """The unit's short name, unique in its run: `3` or `3_par_0000012`."""
        return self.stem.rpartition("/")[2]


@dataclass(frozen=True)
class TaskPart:
    """One part of a task, the non-parallel or the parallel one, as it is known before the run."""

    task: TaskInfo
    parallel: bool
    options: Options
    example: Unit
    """What its first unit will be. Its files do not exist."""
    units: int | None = None
    """How many units it will have; None where that depends on what runs before."""

    @property
    def name(self) -> str:
        """What messages call it."""
        part = "parallel" if self.parallel else "non-parallel"
        return f"task {self.task.order} ({self.task.name!r}), {part} part"


class Cause(StrEnum):
    """Why a unit ended as it did. Only `done` is a success."""

    DONE = "done"
    TASK_ERROR = "task error"
    INVALID_COMMAND = "invalid command"
    KILLED = "killed"
    OUT_OF_MEMORY = "out of memory"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    CANCELLED = "cancelled"
    LOST = "lost"
    LAUNCH_FAILED = "submission failed"
    INVALID_OUTPUT = "invalid output"

    @classmethod
    def of_returncode(cls, returncode: int) -> Cause:
        """Of a command that ended, by its return code: -9 is signal 9, as in `subprocess`."""
        if returncode < 0:
            return cls.KILLED
        return cls.TASK_ERROR if returncode else cls.DONE


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on a unit that ended.

    For a task that ended by itself `exit_code` is set, for one that was ended `signal`. `info` adds what
    is known beyond that, for a person to read.
    """

    cause: Cause
    info: str = ""
    exit_code: int | None = None
    signal: int | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    """User and system time of the unit and of its children."""
    peak_mb: float | None = None
    """The largest resident memory of any one process of the unit."""

    @classmethod
    def exited(cls, returncode: int) -> Outcome:
        """The verdict on a command that ended, by its return code: -9 is signal 9, as in `subprocess`."""
        cause = Cause.of_returncode(returncode)
        if returncode < 0:
            return cls(cause, signal=-returncode)
        return cls(cause, exit_code=returncode)


class UnitState(StrEnum):
    """What can happen to a unit."""

    QUEUED = "queued"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class UnitEvent:
    """Something happened to a unit; `time` in seconds since the epoch."""

    unit: Unit
    state: UnitState
    outcome: Outcome | None = None
    """Set when the unit ended, and only then."""
    handle: str | None = None
    """How the backend's engine calls this start of the unit, once it is known."""
    info: str = ""
    """For a queued unit, what it waits for."""
    time: float = field(default_factory=time.time)


class UnitExecutor(ABC):
    """Executes the units of one run. Two methods are all that a backend's author must write.

    An executor is opened for one run and left at its end, as a context manager; leaving it must leave
    nothing behind: no process, no thread, no open file.
    """

    @abstractmethod
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        """Start the units; yield what happens to each (queued, started, ended) as it happens.

        Called once for each part of a task, always from the same thread; units differ in their
        arguments only. Every unit gets exactly one `ended` event, and all are attempted whatever happens
        to the others. A unit is reported as ended only when its command has ended: no answer from the
        engine is no end. After `cancel`, the units that had not ended get the cause `cancelled`.

        A unit with a `handle` was started by a runner that is gone, and must not be started again: a backend
        that declares `readopt` adopts it, others raise.

        Only an engine that is beyond use as a whole raises; the engine's reason is the message. Units
        without an end then count as lost.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End everything; when it returns nothing that was started still runs.

        May be called from any thread, at any time, more than once. What had ended keeps its outcome.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


class BackendAttributes:
    """What a backend says about itself, in its class, for registry and command line to read."""

    name: ClassVar[str]
    interface_version: ClassVar[int]
    """The version of the interface that the backend was written for. No default: a plugin must not
    claim to speak whatever version it happens to find."""
    description: ClassVar[str] = ""
    options_model: ClassVar[type[Options]]
    config_file_variable: ClassVar[str | None] = None
    """The environment variable that holds the path of this backend's configuration file."""
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Optional abilities, by name, as the specification lists them. What is declared is tested. Those that an
    argument asks for are declared in `arguments`."""
    capability_options: ClassVar[Mapping[str, str]] = {}
    """The option by which users ask for a capability, where it is not named like the capability."""
    arguments: ClassVar[Mapping[str, Support]] = {
        "workflow_dir_remote": Support.REFUSED,
        "user_cache_dir": Support.HONOURED,
        "slurm_user": Support.IGNORED,
        "slurm_account": Support.IGNORED,
        "worker_init": Support.IGNORED,
    }
    """What becomes of each of the arguments that not every backend can serve."""

    @classmethod
    def option_sources(cls, file: Source | None, meta: Source, given: Source) -> list[Source]:
        """The sources of one task part's options, later ones winning; by default the three, in this order.

        Override it for a configuration file that is more than a list of options, or for options whose
        values of several sources are put together in a way of their own. `file` is None where there is no
        configuration file. What is wrong goes into the `problems` of a source: a run tells of all of them
        at once.
        """
        return [*([file] if file else []), meta, given]
