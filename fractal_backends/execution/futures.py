"""Any `concurrent.futures.Executor` as a backend."""

from __future__ import annotations

import queue
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, wait
from itertools import islice
from pathlib import Path
from types import TracebackType

from ..engine.backend import Backend
from ..interface import Cause, Outcome, RunInfo, Unit, UnitEvent, UnitExecutor, UnitState
from ..options import Options
from .supervisor import Supervisor

_STOP_POLL_S = 0.2


class WindowExecutor(UnitExecutor):
    """Keeps a window of units submitted and reports their ends; how one is submitted is a subclass's matter.

    However many units there are, no more than the window's worth of futures exists at once.
    """

    poll_s: float | None = None
    """How long to wait for an event before `poll` is called, in seconds; None: as long as it takes."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[UnitEvent] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    @abstractmethod
    def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
        """Hand one unit to the engine."""

    def window(self, options: Options) -> int:
        """How many units to have submitted at once."""
        return 1_000

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
        while submitted:
            try:
                event = self._events.get(timeout=self.poll_s)
            except queue.Empty:
                self.poll()
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
        self._events.put(UnitEvent(unit, UnitState.QUEUED))
        try:
            future = self.submit(unit, options)
        except Exception as error:  # a pool that is broken or shut down takes no more
            future = Future()
            future.set_result(Outcome(Cause.LAUNCH_FAILED, f"{type(error).__name__}: {error}"))
        future.add_done_callback(lambda done: self._events.put(_ended(unit, done)))


def _ended(unit: Unit, future: Future[Outcome]) -> UnitEvent:
    try:
        outcome = future.result()
    except CancelledError:
        outcome = Outcome(Cause.CANCELLED)
    except Exception as error:
        outcome = Outcome(Cause.LOST, f"{type(error).__name__}: {error}")
    return UnitEvent(unit, UnitState.ENDED, outcome)


class FuturesExecutor(WindowExecutor):
    """Executes units in the workers of a pool, each of them under a supervisor of its own.

    The workers need this package, and the run's folder under the same path. That a run is cancelled they
    learn from a file in that folder, so that it works for threads, processes and other machines alike.
    """

    poll_s = 1.0

    def __init__(self, pool: Executor, run: RunInfo) -> None:
        super().__init__()
        self._pool = pool
        self._stop_file = run.workflow_dir_local / f".stop-{run.id}"
        self._lock = threading.Lock()
        self._futures: dict[Future[Outcome], Unit | None] = {}
        """What is submitted and has not ended; without its unit once that is known to have started."""

    def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
        """See `WindowExecutor.submit`."""
        # Not with the lock held: a pool that breaks calls `_forget` with locks of its own held.
        future = self._pool.submit(execute_unit, unit, str(self._stop_file))
        with self._lock:
            self._futures[future] = unit
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[Outcome]) -> None:
        with self._lock:
            self._futures.pop(future, None)

    def poll(self) -> None:
        """A pool tells that a unit started only when it is asked."""
        with self._lock:  # so that a unit's end, which has to pass `_forget`, comes after its start
            for future, unit in self._futures.items():
                if unit is not None and future.running():
                    self._futures[future] = None
                    self.started(unit)

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`."""
        super().cancel()
        self._stop_file.touch(mode=0o600)  # first, so that what is submitted meanwhile finds it
        with self._lock:
            futures = list(self._futures)
        for future in futures:
            future.cancel()
        wait(futures)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()
        self._pool.shutdown()
        self._stop_file.unlink(missing_ok=True)


def execute_unit(unit: Unit, stop_file: str) -> Outcome:
    """Run one unit to its end; end it when the stop file appears. What a pool's worker is asked to do."""
    path = Path(stop_file)
    if path.exists():
        return Outcome(Cause.CANCELLED)
    ended = threading.Event()
    with Supervisor() as supervisor:

        def watch() -> None:
            while not ended.wait(_STOP_POLL_S):
                if path.exists():
                    supervisor.stop()
                    return

        watcher = threading.Thread(target=watch, name="fractal-watch")
        watcher.start()
        try:
            return supervisor.execute(unit)
        finally:
            ended.set()
            watcher.join()


class FuturesBackend(Backend):
    """A backend on any `concurrent.futures.Executor`: give it a `name`, an `interface_version` and this."""

    @abstractmethod
    def open_pool(self, run: RunInfo) -> Executor:
        """A pool for one run; it is shut down at the end of the run."""

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        return FuturesExecutor(self.open_pool(run), run)
