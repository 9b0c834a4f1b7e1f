"""Any `concurrent.futures.Executor` as a backend."""

from __future__ import annotations

import os
import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import islice
from types import TracebackType

from ..engine.backend import Backend
from ..engine.folder import write_new
from ..interface import Cause, Outcome, RunInfo, Unit, UnitEvent, UnitExecutor, UnitState
from ..options import Options
from .supervisor_process import TERM_GRACE_S
from .worker import Permit, execute_unit

_WINDOW = 1_000
_LIMIT = "concurrency_limit"
_NOT_AGAIN = "It was started before, as {!r}; this backend cannot adopt it, and does not start it again."
_TURN_S = 0.5
_GIVE_UP_S = 60.0
"""A unit that is told to end has ended sooner; where no answer came by then, its worker is gone."""
_ORPHAN_S = TERM_GRACE_S + 0.5
"""How long a unit may outlive the worker that it was lost with."""


class WindowExecutor(UnitExecutor):
    """Keeps a window of units submitted and reports their ends; how one is submitted is a subclass's matter.

    However many units there are, no more than the window's worth of futures exists at once.
    """

    poll_s: float | None = None
    """How often `poll` is called, in seconds; None: never."""
    adopts = False
    """Whether `submit` takes units with the handle of an earlier start, to adopt them."""

    def __init__(self, limit_option: str | None = None) -> None:
        """`limit_option`: the backend's option that says how many units run at once, if it has one."""
        self._limit_option = limit_option
        self._events: queue.SimpleQueue[UnitEvent] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    @abstractmethod
    def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
        """Hand one unit to the engine."""

    def window(self, options: Options) -> int:
        """How many units to have submitted at once."""
        limit = getattr(options, self._limit_option) if self._limit_option else None
        return _WINDOW if limit is None else limit

    def started(self, unit: Unit, handle: str | None = None) -> None:
        """To be called, from any thread, when a unit starts, where that can be known."""
        self._events.put(UnitEvent(unit, UnitState.STARTED, handle=handle))

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        """See `UnitExecutor.run`."""
        waiting = iter(units)
        submitted = 0
        for unit in islice(waiting, self.window(options)):
            self._submit(unit, options)
            submitted += 1
        polled = time.monotonic()
        while submitted:
            if self.poll_s is not None and time.monotonic() - polled >= self.poll_s:
                self.poll()
                polled = time.monotonic()
            try:
                event = self._events.get(timeout=self.poll_s)
            except queue.Empty:
                continue
            yield event
            if event.state is UnitState.ENDED:
                submitted -= 1
                following = next(waiting, None)
                if following is not None:
                    self._submit(following, options)
                    submitted += 1

    def poll(self) -> None:
        """Look for what the engine does not tell by itself."""

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`; subclasses end what runs."""
        self._cancelled.set()

    def _submit(self, unit: Unit, options: Options) -> None:
        if self._cancelled.is_set():
            self._events.put(UnitEvent(unit, UnitState.ENDED, Outcome(Cause.CANCELLED)))
            return
        if unit.handle is not None and not self.adopts:
            refused = Outcome(Cause.LAUNCH_FAILED, _NOT_AGAIN.format(unit.handle))
            self._events.put(UnitEvent(unit, UnitState.ENDED, refused))
            return
        self._events.put(UnitEvent(unit, UnitState.QUEUED))
        try:
            future = self.submit(unit, options)
        except Exception as error:  # a pool that is broken or shut down takes no more
            future = Future()
            future.set_result(Outcome(Cause.LAUNCH_FAILED, f"{type(error).__name__}: {error}"))
        future.add_done_callback(
            lambda done: self._events.put(UnitEvent(unit, UnitState.ENDED, self._outcome(done)))
        )

    def _outcome(self, future: Future[Outcome]) -> Outcome:
        try:
            return future.result()
        except CancelledError:
            if self._cancelled.is_set():
                return Outcome(Cause.CANCELLED)
            return Outcome(Cause.LOST, "The engine gave the unit up.")
        except Exception as error:
            return Outcome(Cause.LOST, f"{type(error).__name__}: {error}")


class FuturesExecutor(WindowExecutor):
    """Executes units in the workers of a pool, each worker with a supervisor of its own.

    The workers need this package, and the run's folder under the same path. What pools tell of a unit that
    is under way differs: some say that it waits, let it be cancelled while it goes on, or run it again when
    its worker dies. So the run's folder is what counts: a unit that has a log was started, and goes on for
    as long as the run's permit is there (see `worker`). That works for threads, processes and other machines.
    """

    poll_s = 1.0

    def __init__(
        self, pool: AbstractContextManager[Executor], run: RunInfo, limit_option: str | None = None
    ) -> None:
        super().__init__(limit_option)
        self._logger = run.logger
        self._env, self._umask = dict(os.environ), _umask()
        self._changed = threading.Condition()
        self._futures: dict[Future[Outcome], Unit | None] = {}
        """What is submitted and has not ended; without its unit once that is known to have started."""
        self._lost_some = False
        with ExitStack() as opened:
            self._permit = Permit(f"{run.workflow_dir_local}/.permit-{run.id}")
            opened.callback(self._permit.end)
            write_new(self._permit.path, b"\n")
            self._pool = opened.enter_context(pool)
            self._opened = opened.pop_all()

    def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
        """See `WindowExecutor.submit`."""
        sent = replace(unit, env={**self._env, **unit.env})
        # Not with the lock held: a pool that breaks calls `_forget` with locks of its own held.
        future = self._pool.submit(execute_unit, sent, self._permit.path, self._umask)
        with self._changed:
            self._futures[future] = unit
        future.add_done_callback(self._forget)
        if self._cancelled.is_set() and not _has_started(unit):
            future.cancel()
        return future

    def _forget(self, future: Future[Outcome]) -> None:
        with self._changed:
            self._futures.pop(future, None)
            self._lost_some |= self._outcome(future).cause is Cause.LOST
            self._changed.notify_all()

    def _submitted(self) -> dict[Future[Outcome], Unit | None]:
        with self._changed:
            return dict(self._futures)

    def poll(self) -> None:
        """Pools do not tell that a unit started, its log does."""
        for future, unit in self._submitted().items():
            if unit is not None and _has_started(unit):
                with self._changed:  # its end, which has to pass `_forget`, comes after its start
                    if self._futures.get(future) is not None:
                        self._futures[future] = None
                        self.started(unit)

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`."""
        super().cancel()
        self._permit.revoke()  # what has no log by now will not start, but end as soon as it has its turn
        gives_up_at = time.monotonic() + _GIVE_UP_S
        while left := self._submitted():
            self._wait_for_ends(_TURN_S)
            if self._submitted() == left:  # only now: dask logs an error for each that ends meanwhile
                for future, unit in left.items():
                    if time.monotonic() > gives_up_at or not _has_started(unit):
                        future.cancel()
        self._permit.wait_until_unused(_GIVE_UP_S)

    def _wait_for_ends(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._futures, timeout_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()
        try:
            self._opened.close()
        except Exception:  # what the run has done is not undone by that
            self._logger.exception("The pool could not be closed")
        if self._lost_some:
            time.sleep(_ORPHAN_S)
        del self._pool  # whoever keeps the run's error keeps this executor; some pools hold files until then


def _umask() -> int:
    """That of this process. To ask for it with `os.umask` is to set it, for other threads too."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        values = [line.split()[1] for line in file if line.startswith("Umask:")]
    return int(values[0], 8) if values else -1


def _has_started(unit: Unit | None) -> bool:
    return unit is None or os.path.exists(unit.log_file)


class FuturesBackend(Backend):
    """A backend on any `concurrent.futures.Executor`: give it a `name`, an `interface_version`, `open_pool`.

    Where it declares the capability `concurrency_limit`, no more units than that option says are submitted at
    once, whatever the pool could take.
    """

    @abstractmethod
    def open_pool(self, run: RunInfo) -> AbstractContextManager[Executor]:
        """A pool for one run, or a context manager that yields one; it is left at the end of the run."""

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        return FuturesExecutor(self.open_pool(run), run, self._limit_option())

    def _limit_option(self) -> str | None:
        if _LIMIT not in self.capabilities:
            return None
        return self.capability_options.get(_LIMIT, _LIMIT)
