"""The backend `dummy_slurm`: the slurm backend, on a scheduler of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from fractal_backends_slurm import Scheduler, SlurmBackend, SlurmOptions, as_user
from pydantic import Field

from fractal_backends import Options, RunInfo, TaskPart, Unit, UnitEvent, UnitExecutor

from .cluster.config import ConfigError
from .cluster.sbatch_words import USER_VARIABLE
from .lease import DummySlurmError, Lease, configuration, default_folder, has_recorded_users


class DummySlurmOptions(SlurmOptions):
    """As for SLURM, but everything is near by."""

    poll_interval: float = Field(0.5, gt=0, le=3_600)
    """Seconds between two questions to the scheduler at least."""
    receipt_deadline: float = Field(10.0, gt=0, le=86_400)
    """Seconds that an ended job's receipts may take to show up."""


class DummySlurmBackend(SlurmBackend):
    """Runs units as job arrays of a pretend cluster on this machine."""

    name = "dummy_slurm"
    interface_version = 1
    options_model = DummySlurmOptions
    description = "A pretend SLURM cluster on this machine, for trying things out and for tests"

    def problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `Backend.problems`."""
        try:
            configuration()
        except ConfigError as error:
            yield from str(error).splitlines()
        else:
            yield from super().problems(run, parts)

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        settings = configuration()
        lease = Lease(default_folder(), settings)
        if settings and lease.settings() != settings:
            run.logger.warning(
                "The dummy cluster in %s was started with other settings; it keeps them while it is there",
                lease.folder,
            )
        try:
            return _LeasedExecutor(super().open(run), lease)
        except BaseException:
            lease.release()
            raise

    def explain(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `Backend.explain`."""
        with Lease(default_folder(), configuration()):
            yield from super().explain(run, parts)

    def site_problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `SlurmBackend.site_problems`."""
        try:
            with Lease(default_folder(), configuration()):
                yield from super().site_problems(run, parts)
        except DummySlurmError as error:
            yield str(error)

    def scheduler(self, run: RunInfo) -> Scheduler:
        """See `SlurmBackend.scheduler`."""
        folder = default_folder()
        how = _as_recorded if has_recorded_users(folder) else as_user
        return Scheduler(folder / "bin", as_user=how)


def _as_recorded(user: str | None) -> list[str]:
    """See `AsUser`: the command stays the runner's own, and the cluster takes it for the user's."""
    return ["env", f"{USER_VARIABLE}={user}"] if user is not None else []


class _LeasedExecutor(UnitExecutor):
    """An executor whose cluster is there as long as it is."""

    def __init__(self, executor: UnitExecutor, lease: Lease) -> None:
        self._executor = executor
        self._lease = lease

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        """See `UnitExecutor.run`."""
        return self._executor.run(units, options)

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`."""
        self._executor.cancel()

    def __enter__(self) -> Self:
        try:
            self._executor.__enter__()
        except BaseException:
            self._lease.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._executor.__exit__(kind, error, traceback)
        finally:
            self._lease.release()
