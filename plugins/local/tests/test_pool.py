"""The thread pool whose callers may set a ceiling of their own."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures.thread import ThreadPoolExecutor as BasePool
from typing import Any

import pytest
from fractal_backends_local import FractalThreadPoolExecutor, LocalBackendConfig

from conftest import DEADLINE_S, eventually


def _ceiling(number: int) -> LocalBackendConfig:
    return LocalBackendConfig(parallel_tasks_per_job=number)


class Gate:
    """Holds calls until it is opened, and counts how many are in it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.inside: set[Any] = set()
        self.most = 0
        self.seen: list[Any] = []

    def __call__(self, name: Any = None) -> Any:
        with self._lock:
            self.inside.add(name)
            self.seen.append(name)
            self.most = max(self.most, len(self.inside))
        assert self._open.wait(DEADLINE_S)
        with self._lock:
            self.inside.discard(name)
        return name

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def pool(gate: Gate) -> Iterator[FractalThreadPoolExecutor]:
    with FractalThreadPoolExecutor() as pool:
        yield pool
        gate.open()


def _results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(DEADLINE_S) for future in futures]


def test_it_is_a_thread_pool_executor() -> None:
    assert issubclass(FractalThreadPoolExecutor, BasePool)
    assert BasePool is ThreadPoolExecutor


# map


@pytest.mark.parametrize("ceiling", [1, 2, 7, 1000])
def test_map_returns_results_in_the_order_of_its_input(pool: FractalThreadPoolExecutor, ceiling: int) -> None:
    later = threading.Event()

    def call(number: int, word: str) -> str:
        if number == 0 and ceiling > 1:
            assert later.wait(DEADLINE_S)  # the first is the last to end
        if number == 99:
            later.set()
        return f"{number}{word}"

    results = pool.map(call, range(100), ["x"] * 100, local_backend_config=_ceiling(ceiling))
    assert list(results) == [f"{number}x" for number in range(100)]


@pytest.mark.parametrize("columns", [[[1, 2], [1]], [[], [1]], [[1], [1], []]])
def test_map_refuses_iterables_of_different_lengths(
    pool: FractalThreadPoolExecutor, columns: list[list[int]]
) -> None:
    calls: list[tuple[int, ...]] = []
    with pytest.raises(ValueError, match=r"^Iterables have different lengths\.$"):
        pool.map(lambda *items: calls.append(items), *columns)
    assert calls == []


def test_map_takes_iterators_and_nothing(pool: FractalThreadPoolExecutor) -> None:
    assert list(pool.map(abs, (number for number in (-1, -2)))) == [1, 2]
    assert list(pool.map(abs, [])) == []
    assert list(pool.map(max, iter([1, 5]), iter([3, 4]))) == [3, 5]


def test_map_starts_at_once_and_gives_results_as_they_come(
    pool: FractalThreadPoolExecutor, gate: Gate
) -> None:
    results = pool.map(lambda name: gate(name) if name else name, [0, 1], local_backend_config=_ceiling(2))
    assert eventually(lambda: gate.inside == {1})
    assert next(results) == 0
    gate.open()
    assert next(results) == 1


def test_map_raises_the_first_exception_in_order_and_drops_what_waits(
    pool: FractalThreadPoolExecutor, gate: Gate
) -> None:
    called = []

    def call(number: int) -> int:
        called.append(number)
        if number == 1:
            raise KeyError("one")
        return int(gate(number)) if number == 2 else number

    results = pool.map(call, range(1000), local_backend_config=_ceiling(1))
    assert next(results) == 0
    with pytest.raises(KeyError, match="one"):
        next(results)
    assert eventually(lambda: gate.inside == {2})
    gate.open()
    pool.shutdown()
    assert called == [0, 1, 2]


def test_map_has_a_timeout(pool: FractalThreadPoolExecutor, gate: Gate) -> None:
    results = pool.map(gate, ["slow"], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)


# The ceiling


@pytest.mark.parametrize("ceiling", [1, 2, 3, len(os.sched_getaffinity(0)) * 4 + 1])
@pytest.mark.parametrize("method", ["submit", "map"])
def test_the_ceiling_is_reached_and_never_exceeded(
    pool: FractalThreadPoolExecutor, gate: Gate, ceiling: int, method: str
) -> None:
    config, calls = _ceiling(ceiling), ceiling * 3 + 1
    if method == "map":
        results = pool.map(gate, range(calls), local_backend_config=config)
    else:
        futures = [pool.submit(gate, number, local_backend_config=config) for number in range(calls)]
        results = (future.result(DEADLINE_S) for future in futures)
    assert eventually(lambda: len(gate.inside) == ceiling)
    gate.open()
    assert list(results) == list(range(calls))
    assert gate.most == ceiling


def test_without_a_ceiling_the_machines_cores_are_it(pool: FractalThreadPoolExecutor, gate: Gate) -> None:
    cores = len(os.sched_getaffinity(0))
    assert LocalBackendConfig().ceiling == cores
    futures = [pool.submit(gate, number) for number in range(cores * 3)]
    default = LocalBackendConfig()
    futures += [pool.submit(gate, cores * 3 + n, local_backend_config=default) for n in range(3)]
    assert eventually(lambda: len(gate.inside) == cores)
    gate.open()
    _results(futures)
    assert gate.most == cores


def test_equal_configurations_share_a_ceiling(pool: FractalThreadPoolExecutor, gate: Gate) -> None:
    futures = [
        pool.submit(gate, number, local_backend_config=LocalBackendConfig(parallel_tasks_per_job=3, mem="1G"))
        for number in range(4)
    ]
    futures += [
        pool.submit(gate, number, local_backend_config=LocalBackendConfig(parallel_tasks_per_job=3, mem=1024))
        for number in range(4, 8)
    ]
    config = LocalBackendConfig(mem=1024, parallel_tasks_per_job=3)
    results = pool.map(gate, range(8, 12), local_backend_config=config)
    assert eventually(lambda: len(gate.inside) == 3)
    gate.open()
    _results(futures)
    assert list(results) == list(range(8, 12))
    assert gate.most == 3


def test_different_configurations_have_ceilings_of_their_own(
    pool: FractalThreadPoolExecutor, gate: Gate
) -> None:
    futures = [pool.submit(gate, ("a", n), local_backend_config=_ceiling(2)) for n in range(5)]
    futures += [pool.submit(gate, ("b", n), local_backend_config=_ceiling(3)) for n in range(5)]
    assert eventually(lambda: len(gate.inside) == 5)
    assert sorted(kind for kind, _ in gate.inside) == ["a", "a", "b", "b", "b"]
    gate.open()
    _results(futures)


@pytest.mark.parametrize("method", ["submit", "map"])
def test_a_slow_call_keeps_no_free_slot_idle(
    pool: FractalThreadPoolExecutor, gate: Gate, method: str
) -> None:
    """Two slots, one of them held: all the others go through the free one meanwhile."""
    ended: list[int] = []

    def call(number: int) -> int:
        if number == 0:
            gate(number)
        ended.append(number)
        return number

    if method == "map":
        results = pool.map(call, range(50), local_backend_config=_ceiling(2))
    else:
        futures = [pool.submit(call, number, local_backend_config=_ceiling(2)) for number in range(50)]
        results = (future.result(DEADLINE_S) for future in futures)
    assert eventually(lambda: len(ended) == 49)
    assert gate.inside == {0}
    gate.open()
    assert list(results) == list(range(50))


def test_calls_with_one_configuration_start_in_order(pool: FractalThreadPoolExecutor, gate: Gate) -> None:
    gate.open()
    _results([pool.submit(gate, number, local_backend_config=_ceiling(1)) for number in range(200)])
    assert gate.seen == list(range(200))


def test_a_slot_is_free_again_after_an_exception(pool: FractalThreadPoolExecutor) -> None:
    def fail() -> None:
        raise SystemExit("a call may raise anything")

    config = _ceiling(1)
    for _ in range(5):
        failed = pool.submit(fail, local_backend_config=config)
        with pytest.raises(SystemExit, match="anything"):
            failed.result(DEADLINE_S)
    assert pool.submit(abs, -1, local_backend_config=config).result(DEADLINE_S) == 1


def test_calls_may_submit_calls(pool: FractalThreadPoolExecutor) -> None:
    def outer(depth: int) -> Future[Any]:
        if depth == 0:
            return pool.submit(abs, -7, local_backend_config=_ceiling(1))
        return pool.submit(outer, depth - 1, local_backend_config=_ceiling(1))

    future: Any = outer(20)
    while isinstance(future, Future):
        future = future.result(DEADLINE_S)
    assert future == 7


def test_many_threads_may_submit_at_once(pool: FractalThreadPoolExecutor) -> None:
    start = threading.Barrier(8)
    lock, inside, most = threading.Lock(), 0, 0

    def call(number: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        return number

    def submit(block: int) -> list[int]:
        start.wait(DEADLINE_S)
        numbers = range(block * 200, block * 200 + 200)
        return _results([pool.submit(call, n, local_backend_config=_ceiling(3)) for n in numbers])

    with ThreadPoolExecutor(8) as threads:
        blocks = list(threads.map(submit, range(8)))
    assert [number for block in blocks for number in block] == list(range(1600))
    assert most <= 3


# submit


def test_submit_hands_over_all_arguments(pool: FractalThreadPoolExecutor) -> None:
    def call(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    future = pool.submit(call, 1, "two", local_backend_config=_ceiling(2), fn=3, self=4)
    assert future.result(DEADLINE_S) == ((1, "two"), {"fn": 3, "self": 4})


def test_an_exception_is_the_futures(pool: FractalThreadPoolExecutor) -> None:
    error = ValueError("no")

    def fail() -> None:
        raise error

    assert pool.submit(fail).exception(DEADLINE_S) is error


def test_a_call_that_waits_can_be_cancelled(pool: FractalThreadPoolExecutor, gate: Gate) -> None:
    first, second, third = (pool.submit(gate, n, local_backend_config=_ceiling(1)) for n in range(3))
    assert eventually(lambda: gate.inside == {0})
    assert second.cancel()
    assert not first.cancel()
    gate.open()
    assert (first.result(DEADLINE_S), third.result(DEADLINE_S)) == (0, 2)
    assert gate.seen == [0, 2]
    assert wait([second], DEADLINE_S).done == {second}


# shutdown


@pytest.mark.parametrize("method", ["submit", "map"])
def test_nothing_can_be_scheduled_after_shutdown(method: str) -> None:
    pool = FractalThreadPoolExecutor()
    assert pool.submit(abs, -1).result(DEADLINE_S) == 1
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1) if method == "submit" else pool.map(abs, [1])
    pool.shutdown()


def test_shutdown_waits_for_all_calls(gate: Gate) -> None:
    pool = FractalThreadPoolExecutor()
    futures = [pool.submit(gate, number, local_backend_config=_ceiling(2)) for number in range(5)]
    assert eventually(lambda: len(gate.inside) == 2)
    closing = threading.Thread(target=pool.shutdown)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    gate.open()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert [future.result(0) for future in futures] == list(range(5))


def test_shutdown_need_not_wait_and_loses_no_call(gate: Gate) -> None:
    pool = FractalThreadPoolExecutor()
    futures = [pool.submit(gate, number, local_backend_config=_ceiling(2)) for number in range(5)]
    pool.shutdown(wait=False)
    assert not futures[0].done()
    gate.open()
    assert _results(futures) == list(range(5))


@pytest.mark.parametrize("wait_for_them", [True, False])
def test_shutdown_can_cancel_what_waits(gate: Gate, wait_for_them: bool) -> None:
    pool = FractalThreadPoolExecutor()
    configs = [_ceiling(2), _ceiling(3)]
    futures = [[pool.submit(gate, (c, n), local_backend_config=configs[c]) for n in range(9)] for c in (0, 1)]
    assert eventually(lambda: len(gate.inside) == 5)
    closing = threading.Thread(target=pool.shutdown, args=(wait_for_them,), kwargs={"cancel_futures": True})
    closing.start()
    waiting = [*futures[0][2:], *futures[1][3:]]
    assert len(wait(waiting, DEADLINE_S).done) == len(waiting)
    assert all(future.cancelled() for future in waiting)
    closing.join(0.05 if wait_for_them else DEADLINE_S)
    assert closing.is_alive() == wait_for_them
    gate.open()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    running = [*futures[0][:2], *futures[1][:3]]
    assert [future.result(DEADLINE_S) for future in running] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert len(gate.seen) == 5


def test_shutdown_copes_with_calls_that_were_cancelled_before(gate: Gate) -> None:
    pool = FractalThreadPoolExecutor()
    futures = [pool.submit(gate, number, local_backend_config=_ceiling(1)) for number in range(4)]
    assert eventually(lambda: gate.inside == {0})
    assert futures[2].cancel()
    gate.open()
    pool.shutdown(cancel_futures=True)
    assert futures[2].cancelled()
    assert all(future.done() for future in futures)


def test_no_threads_are_left() -> None:
    before = set(threading.enumerate())
    with FractalThreadPoolExecutor() as pool:
        barrier = threading.Barrier(20)
        list(pool.map(lambda _: barrier.wait(DEADLINE_S), range(20), local_backend_config=_ceiling(20)))
        assert len(set(threading.enumerate()) - before) == 20
    assert set(threading.enumerate()) == before


def test_no_more_threads_than_calls() -> None:
    before = set(threading.enumerate())
    with FractalThreadPoolExecutor() as pool:
        for number in range(50):
            assert pool.submit(abs, -number, local_backend_config=_ceiling(500)).result(DEADLINE_S) == number
        assert len(set(threading.enumerate()) - before) <= 2


def test_a_call_that_submit_refused_never_runs(
    pool: FractalThreadPoolExecutor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that gives no more threads: what is refused is not done, what is accepted is."""
    start, started = threading.Thread.start, itertools.count()

    def start_few(thread: threading.Thread) -> None:
        if next(started) >= 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    accepted, refused = [], []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_few)
        for number in range(6):
            try:
                accepted.append(pool.submit(gate, number, local_backend_config=_ceiling(4)))
            except RuntimeError:
                refused.append(number)
    gate.open()
    assert _results(accepted) == [number for number in range(6) if number not in refused]
    pool.shutdown()
    assert sorted(gate.seen) == [number for number in range(6) if number not in refused]
