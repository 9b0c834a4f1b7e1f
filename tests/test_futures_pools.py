"""Backends on pools of `concurrent.futures` that misbehave."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE_S, eventually
from fractal_backends import (
    Cause,
    FuturesBackend,
    FuturesExecutor,
    JobExecutionError,
    Options,
    Outcome,
    RunInfo,
    Unit,
    UnitState,
)
from tests.helpers.futures_lab import Lab
from tests.helpers.processes import is_alive


class CustomBackend(FuturesBackend):
    """A backend on a pool that the test makes."""

    name = "custom"
    interface_version = 1

    def __init__(self, make_pool: Callable[[], AbstractContextManager[Executor]]) -> None:
        super().__init__()
        self._make_pool = make_pool

    def open_pool(self, run: RunInfo) -> AbstractContextManager[Executor]:
        return self._make_pool()


def test_a_pool_that_takes_nothing_fails_all_units(lab: Lab) -> None:
    def closed_pool() -> Executor:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        return pool

    with pytest.raises(JobExecutionError, match=r"submission failed\. RuntimeError(?s:.*)3 of 3 units"):
        lab.run(CustomBackend(closed_pool), lab.task("pass"), images=3)
    assert lab.observer.causes == [Cause.LAUNCH_FAILED] * 3


def test_a_pool_that_cannot_be_opened_is_a_job_error(lab: Lab) -> None:
    def no_pool() -> Executor:
        raise OSError("the cluster is away")

    with pytest.raises(JobExecutionError, match="the cluster is away"):
        lab.run(CustomBackend(no_pool), lab.task("pass"), images=1)


def test_a_pool_may_come_out_of_a_context_manager(lab: Lab) -> None:
    seen: list[str] = []

    @contextmanager
    def connection() -> Iterator[Executor]:
        seen.append("opened")
        with ThreadPoolExecutor(2) as pool:
            yield pool
        seen.append(f"closed with {len(lab.observer.causes)} ended")

    lab.run(CustomBackend(connection), lab.task("pass"), images=2)
    assert seen == ["opened", "closed with 2 ended"]


def test_a_pool_that_cannot_be_closed_does_no_harm_to_the_run(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def connection() -> Iterator[Executor]:
        with ThreadPoolExecutor(2) as pool:
            yield pool
        raise OSError("the cluster has gone")

    lab.run(CustomBackend(connection), lab.task("pass"), images=1)
    assert lab.observer.causes == [Cause.DONE]
    assert "OSError: the cluster has gone" in caplog.text
    assert not list(lab.run_folder.glob(".*"))


class ForgetfulPool(Executor):
    """An engine that never tells that something runs, and lets it be cancelled while it goes on."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            result = fn(*args, **kwargs)
            with suppress(InvalidStateError):
                future.set_result(result)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for thread in self.threads:
            thread.join()


def test_a_cancellation_waits_for_units_that_the_pool_forgets(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    unit = Unit(0, 0, str(tmp_path / "0_par_0000000"), (sys.executable, "-S", "-E", "-c", code))
    pool = ForgetfulPool()
    with FuturesExecutor(pool, RunInfo("id", tmp_path, tmp_path, "futures")) as executor:
        events = executor.run([unit], Options())
        assert [next(events).state, next(events).state] == [UnitState.QUEUED, UnitState.STARTED]
        assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        executor.cancel()
        assert not is_alive(int((tmp_path / "pid").read_text()))
        outcome = next(events).outcome
    assert outcome is not None
    assert outcome.cause is Cause.CANCELLED


class InsistentPool(ThreadPoolExecutor):
    """An engine that runs once more what it believes to be lost."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(lambda: [fn(*args, **kwargs) for _ in range(2)][-1])


def test_a_unit_that_the_pool_runs_again_is_lost_and_does_not_run_again(lab: Lab) -> None:
    source = "(folder / 'ran').open('a').write(name)"
    with pytest.raises(JobExecutionError, match=r"lost\. The worker that had started the unit is gone"):
        lab.run(CustomBackend(lambda: InsistentPool(1)), lab.task(source), images=1)
    assert (lab.folder / "ran").read_text() == "0"


class WearyPool(Executor):
    """An engine that cancels what it is asked to do."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        return future


def test_a_unit_that_the_pool_cancels_is_lost(lab: Lab) -> None:
    with pytest.raises(JobExecutionError, match=r"lost\. The engine gave the unit up"):
        lab.run(CustomBackend(WearyPool), lab.task("pass"), images=1)
    assert lab.observer.causes == [Cause.LOST]


class PretendPool(Executor):
    """An engine that says it ran what it never saw, and counts what it holds at once."""

    def __init__(self) -> None:
        self.held: list[Future[Any]] = []
        self.most = 0
        self.total = 0
        self.shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.held.append(Future())
        self.most = max(self.most, len(self.held))
        self.total += 1
        return self.held[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut_down = True

    def work(self, ended: threading.Event) -> None:
        while not ended.wait(0.001):
            for future in [self.held.pop() for _ in range(min(100, len(self.held)))]:
                future.set_result(Outcome(Cause.DONE, exit_code=0))


@pytest.fixture
def pretend_pool() -> Iterator[PretendPool]:
    pool, ended = PretendPool(), threading.Event()
    thread = threading.Thread(target=pool.work, args=(ended,))
    thread.start()
    yield pool
    ended.set()
    thread.join()


def test_no_more_than_a_window_of_units_is_submitted_at_once(lab: Lab, pretend_pool: PretendPool) -> None:
    lab.run(CustomBackend(lambda: pretend_pool), lab.task("pass"), images=2_500)
    assert pretend_pool.total == 2_500
    assert 100 <= pretend_pool.most <= 1_000
    assert pretend_pool.shut_down
    assert lab.observer.causes == [Cause.DONE] * 2_500


def test_a_unit_submitted_while_the_run_is_cancelled_does_not_run(tmp_path: Path) -> None:
    """The cancellation comes between the last look at it and the submission."""

    class Unlucky(FuturesExecutor):
        def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
            cancelling = threading.Thread(target=self.cancel)
            cancelling.start()
            cancelling.join(DEADLINE_S)
            return super().submit(unit, options)

    command = (sys.executable, "-S", "-E", "-c", f"open({str(tmp_path / 'ran')!r}, 'w')")
    unit = Unit(0, 0, str(tmp_path / "0_par_0000000"), command)
    with Unlucky(ThreadPoolExecutor(1), RunInfo("id", tmp_path, tmp_path, "futures")) as executor:
        events = list(executor.run([unit], Options()))
    assert events[-1].outcome is not None
    assert events[-1].outcome.cause is Cause.CANCELLED
    assert not (tmp_path / "ran").exists()
