"""Observers: objects that are told how a run goes. They are pluggy plugins.

Write a class with any of the methods below (each with any of the arguments), mark them with `hookimpl`
and give an instance to the backend. They are called in the run's own thread, one at a time, in the order
of events. An observer that raises is logged and harms neither the run nor the other observers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pluggy

from .interface import RunInfo, TaskInfo, TaskReport, UnitEvent

PROJECT = "fractal_backends"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ObserverHooks:
    """What an observer may implement."""

    @hookspec
    def run_started(self, run: RunInfo) -> None:
        """The input is valid and the run's folder is ready."""

    @hookspec
    def task_started(self, run: RunInfo, task: TaskInfo) -> None:
        """A task begins; how many units it has is not known yet."""

    @hookspec
    def task_changed(self, run: RunInfo, task: TaskInfo) -> None:
        """`task.units` grew: a part of the task was planned."""

    @hookspec
    def unit_changed(self, run: RunInfo, task: TaskInfo, event: UnitEvent) -> None:
        """A unit was queued, was started or ended."""

    @hookspec
    def task_ended(self, run: RunInfo, task: TaskInfo, report: TaskReport) -> None:
        """A task ended, well or not, and its files are written."""

    @hookspec
    def run_ended(self, run: RunInfo, error: BaseException | None) -> None:
        """The run ended; `error` is what its caller gets, None if all went well."""


class Observers:
    """The observers of one run."""

    def __init__(
        self, observers: Iterable[object], logger: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        """Raises pluggy.PluginValidationError for an observer whose arguments do not fit."""
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(ObserverHooks)
        for observer in observers:
            self._manager.register(observer)
        self._any = bool(self._manager.get_plugins())
        self._logger = logger

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every observer, in the order in which they were given."""
        if not self._any:  # most servers' runs of many units
            return
        # One by one, not through the hook caller: it would stop at the first that raises.
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception:
                name = type(implementation.plugin).__name__
                self._logger.exception("Observer %s failed in %s", name, hook)
