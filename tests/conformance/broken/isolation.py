"""Broken where there is more than one run."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from fractal_backends_local import LocalBackend
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import (
    Cause,
    FuturesBackend,
    Options,
    RunInfo,
    RunResult,
    Unit,
    UnitEvent,
    UnitExecutor,
)
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend
from tests.conformance.broken.tools import WithExecutor


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
