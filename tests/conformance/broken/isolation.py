"""Broken where there is more than one run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from fractal_backends_local import LocalBackend, LocalBackendConfig
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import (
    Cause,
    FuturesBackend,
    Options,
    Outcome,
    RunInfo,
    RunResult,
    Support,
    Unit,
    UnitEvent,
    UnitExecutor,
)
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend
from tests.conformance.broken.tools import WithExecutor
from tests.conformance.correct.spool import SpoolBackend, SpoolExecutor


@caught_by("ISO-001", "the folder of the run is an attribute of the backend object")
class FolderOnTheObject(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        self._folder = Path(arguments["workflow_dir_local"])
        result = await super().process_workflow(**arguments)
        result["filters"] = json.loads((self._folder / "filters.json").read_text())
        return result


@caught_by("ISO-001", "a backend object does one run at a time")
class OneRunAtOnce(LocalBackend):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._turn = asyncio.Lock()

    async def process_workflow(self, **arguments: Any) -> RunResult:
        async with self._turn:
            return await super().process_workflow(**arguments)


@caught_by("ISO-002", "the process does one run at a time")
class OneRunInTheProcess(LocalBackend):
    _turn: ClassVar = asyncio.Lock()

    async def process_workflow(self, **arguments: Any) -> RunResult:
        async with self._turn:
            return await super().process_workflow(**arguments)


@caught_by("ISO-002", "options of all backend objects are in one dict")
class OptionsOfTheClass(LocalBackend):
    _options: ClassVar[dict[str, Any]] = {}

    def __init__(self, options: Mapping[str, Any] | None = None, observers: Iterable[object] = ()) -> None:
        super().__init__(None, observers)
        self._options.update(options or {})
        self.options = self._options


class _OneForAll(LocalExecutor):
    executors: ClassVar[set[_OneForAll]] = set()

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        self.executors.add(self)

    def __exit__(self, *error: Any) -> None:
        self.executors.discard(self)
        super().__exit__(*error)

    @classmethod
    def cancel_all(cls) -> None:
        for executor in list(cls.executors):
            executor.cancel()


class _AllFail(_OneForAll):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        for event in super().run(units, options):
            if event.outcome and event.outcome.cause is not Cause.DONE:
                self.cancel_all()
            yield event


@caught_by("ISO-003", "a unit that fails ends all runs of the process")
class OneFailureEndsAll(WithExecutor):
    executor = _AllFail


@caught_by("ISO-003", "a run that fails takes the pool of the others with it")
class PoolOfAllShutDown(FuturesBackend):
    interface_version = 1
    _pool: ClassVar = ThreadPoolExecutor(8)

    def open_pool(self, run: RunInfo) -> Any:
        return nullcontext(self._pool)

    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except Exception:
            type(self)._pool.shutdown(wait=False, cancel_futures=True)
            raise


@caught_by("ISO-004", "the signal to end is one for all runs")
class OneCancelForAll(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _OneForAll(run)

    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except asyncio.CancelledError:
            await asyncio.to_thread(_OneForAll.cancel_all)
            raise


class _SinglesTogether(LocalExecutor):
    """Units of non-parallel tasks and inits are ended together, whichever run they are of."""

    running: ClassVar[set[_SinglesTogether]] = set()
    when: ClassVar[frozenset[Cause]]
    """The causes of an end that is the end of all."""

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        if units[0].component is None:
            self.running.add(self)
        try:
            for event in super().run(units, options):
                yield event
                if event.unit.component is None and event.outcome and event.outcome.cause in self.when:
                    for other in [*self.running]:
                        other.cancel()
        finally:
            self.running.discard(self)


class _CancelledTogether(_SinglesTogether):
    when = frozenset({Cause.CANCELLED})


@caught_by("ISO-004", "inits and units of non-parallel tasks are cancelled by a name that runs share")
class SinglesCancelledTogether(WithExecutor):
    executor = _CancelledTogether


class _FailTogether(_SinglesTogether):
    when = frozenset({Cause.TASK_ERROR, Cause.KILLED})


@caught_by("ISO-003", "an init that fails ends those of other runs, which have the same name")
class SinglesFailTogether(WithExecutor):
    executor = _FailTogether


@caught_by("ISO-005", "a backend object that was cancelled once stays so")
class CancelledForEver(LocalBackend):
    _is_cancelled = False

    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except asyncio.CancelledError:
            self._is_cancelled = True
            raise

    def open(self, run: RunInfo) -> UnitExecutor:
        executor = super().open(run)
        if self._is_cancelled:
            executor.cancel()
        return executor


@caught_by("ISO-005", "the pool is the backend object's, and ends with its first run")
class PoolOfTheObject(FuturesBackend):
    interface_version = 1

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._pool = ThreadPoolExecutor(4)

    def open_pool(self, run: RunInfo) -> ThreadPoolExecutor:
        return self._pool


@caught_by("ISO-006", "filters that are empty are the same object in all results")
class FiltersShared(LocalBackend):
    _none: ClassVar[dict[str, dict[str, Any]]] = {"attributes": {}, "types": {}}

    async def process_workflow(self, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        if not any(result["filters"].values()):
            result["filters"] = self._none
        return result


@caught_by("ISO-006", "images that a backend object knows are not read again")
class ImagesKept(LocalBackend):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._known: dict[str, Any] = {}

    async def process_workflow(self, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        result["images"] = [self._known.setdefault(image["zarr_url"], image) for image in result["images"]]
        return result


@caught_by("ISO-007", "logs have the names of units, in one folder for all runs")
class LogsInOneFolder(PlainBackend):
    def open_log(self, unit: Unit) -> BinaryIO:
        shared = Path(tempfile.gettempdir()) / f"{unit.label}.log"
        log = shared.open("wb")
        Path(unit.log_file).symlink_to(shared)
        return log


class _FromTheObject(PlainBackend):
    """What the last run was given is in attributes of the backend object."""

    last: dict[str, str]

    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return super().how(replace(unit, env={**unit.env, **self.last}), log)


@caught_by("ISO-008", "the cache folder is an attribute of the backend object")
class CacheDirOnTheObject(_FromTheObject):
    def open(self, run: RunInfo) -> UnitExecutor:
        self.last = {"FRACTAL_CACHE_DIR": run.user_cache_dir} if run.user_cache_dir else {}
        return super().open(run)


@caught_by("ISO-008", "what the initial lines export is kept in the class")
class InitLinesOfTheClass(_FromTheObject):
    arguments: ClassVar = {**PlainBackend.arguments, "worker_init": Support.HONOURED}

    def open(self, run: RunInfo) -> UnitExecutor:
        lines = (run.worker_init or "").splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines)
        type(self).last = {name: value for name, _, value in pairs}
        return super().open(run)


class _KeepsAccount(SpoolExecutor):
    kept: ClassVar[str | None] = None

    def _prepared(self, unit: Unit) -> Unit:
        type(self).kept = self._run.slurm_account or self.kept
        self._run = replace(self._run, slurm_account=self.kept)
        return super()._prepared(unit)


@caught_by("ISO-008", "the account of one run is that of all which name none", slurm_account="lab")
class AccountKept(SpoolBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _KeepsAccount(run, ends_with_runner=False)


@caught_by("ISO-008", "there is one remote folder for all runs that are under way")
class RemoteFolderOfTheObject(SpoolBackend):
    _remote: Path | None = None

    def open(self, run: RunInfo) -> UnitExecutor:
        if run.workflow_dir_remote == run.workflow_dir_local:
            return super().open(run)
        self._remote = self._remote or run.workflow_dir_remote
        return super().open(replace(run, workflow_dir_remote=self._remote / run.workflow_dir_local.name))


class _Slots(PlainBackend):
    """Four slots, which belong to the backend object."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._slots = threading.Semaphore(4)

    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        while not self._slots.acquire(timeout=0.1):
            if not Path(unit.args_file).parent.exists():
                raise OSError("the run is gone")
        return super().start(unit, log)


@caught_by("ISO-009", "the slot of a unit that fails is not given back")
class SlotLostByAFailure(_Slots):
    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        if returncode == 0:
            self._slots.release()
        return super().verdict(unit, returncode)


@caught_by("ISO-009", "the slot of a unit that is cancelled is not given back")
class SlotLostByACancel(_Slots):
    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        self._slots.release()
        return super().verdict(unit, returncode)


class _CountsDown(LocalExecutor):
    lost: ClassVar = 0

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        assert isinstance(options, LocalBackendConfig)
        ceiling = max(1, options.ceiling - self.lost // 4)
        yield from super().run(units, options.model_copy(update={"parallel_tasks_per_job": ceiling}))

    def _execute(self, unit: Unit, config: LocalBackendConfig) -> Outcome:
        outcome = super()._execute(unit, config)
        type(self).lost += outcome.cause is Cause.KILLED
        return outcome


@caught_by("ISO-009", "four units that are killed cost a slot")
class SlotsLostByKills(WithExecutor):
    executor = _CountsDown
