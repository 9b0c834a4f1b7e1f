"""A thread pool whose callers may set a ceiling of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .config import LocalBackendConfig

T = TypeVar("T")

_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_UNLIMITED_THREADS = 1 << 20
"""Threads are made on demand: the ceilings below are what limits them."""


class _Lane:
    """The calls with one configuration, in order, and how many threads are at work on them."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.waiting: deque[_Call] = deque()
        self.threads: set[object] = set()


class FractalThreadPoolExecutor(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` whose `submit` and `map` take a `local_backend_config`.

    Of the calls with equal configurations at most `parallel_tasks_per_job` run at once (where it is not set,
    as many as the machine has cores). A thread that is done takes the next call at once: a slow call never
    keeps a free slot idle.
    """

    def __init__(self, thread_name_prefix: str = "fractal-unit") -> None:
        super().__init__(_UNLIMITED_THREADS, thread_name_prefix)
        self._lanes_lock = threading.Lock()
        self._lanes: dict[LocalBackendConfig, _Lane] = {}
        self._closed = False

    def submit(  # type: ignore[override]  # a ParamSpec cannot take one more keyword
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        local_backend_config: LocalBackendConfig | None = None,
        **kwargs: Any,
    ) -> Future[T]:
        """Schedule a call. Raises RuntimeError after `shutdown`."""
        config = local_backend_config or LocalBackendConfig()
        future: Future[T] = Future()
        with self._lanes_lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            lane = self._lanes.get(config)
            if lane is None:
                lane = self._lanes[config] = _Lane(config.ceiling)
            lane.waiting.append((future, fn, args, kwargs))
            if len(lane.threads) < lane.ceiling:
                self._add_thread(lane)
        return future

    def _add_thread(self, lane: _Lane) -> None:
        ticket = object()
        lane.threads.add(ticket)
        try:
            super().submit(self._work, lane, ticket)
        except RuntimeError:  # the system gives no more threads; those that are there go on
            lane.threads.remove(ticket)
            if not lane.threads:
                lane.waiting.pop()
                raise

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        local_backend_config: LocalBackendConfig | None = None,
        **_: Any,
    ) -> Iterator[T]:
        """Schedule a call for each of the items; the results come in the items' order.

        Raises ValueError for iterables of different lengths. `timeout` (seconds) is for each result;
        `chunksize` has no effect, as in every thread pool.
        """
        columns = [list(iterable) for iterable in iterables]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("Iterables have different lengths.")
        futures = [
            self.submit(fn, *items, local_backend_config=local_backend_config)
            for items in zip(*columns, strict=True)
        ]
        return _results(futures, timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        with self._lanes_lock:
            self._closed = True
            waiting = [call for lane in self._lanes.values() for call in lane.waiting]
            if cancel_futures:
                for lane in self._lanes.values():
                    lane.waiting.clear()
        if cancel_futures:
            for future, *_ in waiting:
                future.cancel()
                future.set_running_or_notify_cancel()
        super().shutdown(wait=wait)

    def _work(self, lane: _Lane, ticket: object) -> None:
        """A thread's work on a lane, until nothing waits there."""
        while True:
            with self._lanes_lock:
                if ticket not in lane.threads:
                    return
                if not lane.waiting:
                    lane.threads.remove(ticket)
                    return
                call = lane.waiting.popleft()
            _perform(*call)
            del call  # keeps nothing alive while the next call runs


def _perform(
    future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _results(futures: list[Future[T]], timeout: float | None) -> Iterator[T]:
    futures.reverse()
    try:
        while futures:
            yield futures.pop().result(timeout)
    finally:
        for future in futures:
            future.cancel()
