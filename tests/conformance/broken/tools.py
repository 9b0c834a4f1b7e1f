"""Short ways to break the local backend."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fractal_backends_local import LocalBackend, LocalBackendConfig
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import Outcome, RunInfo, Unit, UnitExecutor

Really = Callable[[Unit], Outcome]


class WithEngine(LocalBackend):
    """Parts of the engine are replaced, for good: the process that runs such a backend runs no other."""

    changes: ClassVar[Mapping[str, Any]]
    """The replacements by what they replace, such as `run._judge`, in `fractal_backends.engine`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for path, replacement in self.changes.items():
            module, *names, last = path.split(".")
            place: Any = importlib.import_module(f"fractal_backends.engine.{module}")
            for name in names:
                place = getattr(place, name)
            setattr(place, last, replacement)


class WithExecutor(LocalBackend):
    """Its units are executed by another executor."""

    executor: ClassVar[type[LocalExecutor]]

    def open(self, run: RunInfo) -> UnitExecutor:
        return self.executor(run)


class WithUnits(LocalBackend):
    """Something is done around each of its units."""

    def execute(self, unit: Unit, really: Really) -> Outcome:
        """`really` executes a unit."""
        raise NotImplementedError

    def open(self, run: RunInfo) -> UnitExecutor:
        return _Units(run, self.execute)


class _Units(LocalExecutor):
    def __init__(self, run: RunInfo, around: Callable[[Unit, Really], Outcome]) -> None:
        super().__init__(run)
        self._around = around

    def _execute(self, unit: Unit, config: LocalBackendConfig) -> Outcome:
        really = super()._execute
        return self._around(unit, lambda given: really(given, config))
