"""What broken backends are made of: backends that are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar
from unittest import mock

from fractal_backends_local import LocalBackend, LocalBackendConfig
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import Outcome, RunInfo, RunResult, Unit, UnitExecutor

Really = Callable[[Unit], Outcome]


class PatchedBackend(LocalBackend):
    """`local`, with pieces of this package replaced while a run is under way."""

    patches: ClassVar[Mapping[str, Any]]

    async def process_workflow(self, **arguments: Any) -> RunResult:
        with ExitStack() as stack:
            for target, new in self.patches.items():
                stack.enter_context(mock.patch(f"fractal_backends.{target}", new))
            return await super().process_workflow(**arguments)


class WithExecutor(LocalBackend):
    """`local`, but its units are executed in another way."""

    executor: ClassVar[Callable[[RunInfo], UnitExecutor]]

    def open(self, run: RunInfo) -> UnitExecutor:
        return type(self).executor(run)


class AroundUnits(LocalBackend):
    """`local`, but something happens around each of its units."""

    def execute(self, unit: Unit, really: Really) -> Outcome:
        raise NotImplementedError

    def open(self, run: RunInfo) -> UnitExecutor:
        return _Around(run, self.execute)


class _Around(LocalExecutor):
    def __init__(self, run: RunInfo, around: Callable[[Unit, Really], Outcome]) -> None:
        super().__init__(run)
        self._around = around

    def _execute(self, unit: Unit, config: LocalBackendConfig) -> Outcome:
        really = super()._execute
        return self._around(unit, lambda unit: really(unit, config))
