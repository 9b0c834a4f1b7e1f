"""The backend `local`: units as processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import ClassVar, cast

from fractal_backends import (
    Backend,
    Options,
    Outcome,
    RunInfo,
    Supervisor,
    Unit,
    UnitEvent,
    UnitExecutor,
    WindowExecutor,
)

from .config import LocalBackendConfig
from .machine import this_machine
from .pool import FractalThreadPoolExecutor


class LocalBackend(Backend):
    """Runs units on this machine, as many at once as its cores and memory allow."""

    name = "local"
    interface_version = 1
    description = "This machine, as many units at once as its cores and memory allow"
    options_model = LocalBackendConfig
    config_file_variable = "FRACTAL_LOCAL_CONFIG_FILE"
    capabilities = frozenset({"concurrency_limit", "ends_with_runner"})
    capability_options: ClassVar[Mapping[str, str]] = {"concurrency_limit": "parallel_tasks_per_job"}

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        return LocalExecutor(run)


class LocalExecutor(WindowExecutor):
    """Threads that wait for the units' processes."""

    def __init__(self, run: RunInfo) -> None:
        super().__init__()
        self._logger = run.logger
        self._machine = this_machine()
        self._pool = FractalThreadPoolExecutor()
        self._supervisor = Supervisor()

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        """See `UnitExecutor.run`."""
        config = cast(LocalBackendConfig, options)
        if config.parallel_tasks_per_job is None and self._machine.exceeded_by(
            config.cpus_per_task, config.mem or 0
        ):
            self._logger.warning(
                "Each unit of task %d asks for %d cores and %d MB; this machine has %d cores and %d MB."
                " Such units run one at a time.",
                *(units[0].order, config.cpus_per_task, config.mem or 0),
                *(self._machine.cores, self._machine.memory_mb),
            )
        return super().run(units, options)

    def window(self, options: Options) -> int:
        """Enough for every thread to find its next unit waiting."""
        return 2 * cast(LocalBackendConfig, options).ceiling + 8

    def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
        """See `WindowExecutor.submit`."""
        config = cast(LocalBackendConfig, options)
        return self._pool.submit(self._execute, unit, config, local_backend_config=config)

    def _execute(self, unit: Unit, config: LocalBackendConfig) -> Outcome:
        with self._machine.share(
            config.cpus_per_task,
            config.mem or 0,
            wait=config.parallel_tasks_per_job is None,
            given_up=self._cancelled.is_set,
        ):
            return self._supervisor.execute(unit, lambda pid: self.started(unit, str(pid)))

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`."""
        super().cancel()
        self._machine.wake()
        self._supervisor.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()
        self._pool.shutdown()
