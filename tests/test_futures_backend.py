"""Pools of `concurrent.futures` as backends."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, InvalidStateError, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import resource_tracker
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
    RunResult,
    TaskExecutionError,
    Unit,
    UnitEvent,
    UnitState,
    hookimpl,
)


class ProcessesBackend(FuturesBackend):
    name = "processes"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> Executor:
        return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


class ThreadsBackend(FuturesBackend):
    name = "threads"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> Executor:
        return ThreadPoolExecutor(2)


@pytest.fixture(scope="module", autouse=True)
def resource_tracker_process() -> None:
    """Processes that are spawned come with one of these, which stays as long as the interpreter does."""
    resource_tracker.ensure_running()


@pytest.fixture(params=[ProcessesBackend, ThreadsBackend])
def backend(request: pytest.FixtureRequest) -> type[FuturesBackend]:
    kind: type[FuturesBackend] = request.param
    return kind


class Outcomes:
    """An observer that keeps how units ended."""

    def __init__(self) -> None:
        self.by_unit: dict[str, Outcome] = {}

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        if event.outcome is not None:
            assert event.unit.label not in self.by_unit
            self.by_unit[event.unit.label] = event.outcome

    @property
    def causes(self) -> list[Cause]:
        return [self.by_unit[label].cause for label in sorted(self.by_unit)]


class Lab:
    """Makes tasks out of Python code and runs them on any number of images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_folder = folder / "run"
        self.observer = Outcomes()

    def command(self, source: str) -> str:
        head = (
            "import json, os, sys, time\nfrom pathlib import Path\n"
            f"args, folder = json.load(open(sys.argv[2])), Path({str(self.folder)!r})\n"
            "name = args.get('zarr_url', '').rpartition('/')[2]\n"
        )
        script = self.folder / f"task{len(list(self.folder.glob('task*.py')))}.py"
        script.write_text(head + textwrap.dedent(source))
        return f"{sys.executable} -S -E {script}"

    def task(self, source: str, **more: Any) -> dict[str, Any]:
        task = {"name": "Each", "type": "parallel", "command_parallel": self.command(source), **more}
        return {"task": task}

    async def start(self, backend: FuturesBackend, tasks: list[Mapping[str, Any]], images: int) -> RunResult:
        backend.observers.append(self.observer)
        return await backend.process_workflow(
            workflow={"task_list": tasks},
            dataset={"zarr_dir": "/data", "images": [{"zarr_url": f"/data/{n}"} for n in range(images)]},
            workflow_dir_local=self.run_folder,
            logger_name="futures",
        )

    def run(self, backend: FuturesBackend, *tasks: Mapping[str, Any], images: int = 0) -> RunResult:
        return asyncio.run(self.start(backend, list(tasks), images))

    def pids(self) -> dict[str, tuple[int, int]]:
        """The process of each unit that runs `STAY`, and that process's parent."""
        found = {}
        for file in self.folder.glob("pid *"):
            pid, parent = file.read_text().split()
            found[file.name[4:]] = (int(pid), int(parent))
        return found

    def at_work(self, number: int) -> bool:
        return eventually(lambda: len(self.pids()) == number)

    def in_thread(self, backend: FuturesBackend, *tasks: Mapping[str, Any], images: int) -> Future[RunResult]:
        future: Future[RunResult] = Future()

        def work() -> None:
            try:
                future.set_result(self.run(backend, *tasks, images=images))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work).start()
        return future


STAY = """
    (folder / f"new {name}").write_text(f"{os.getpid()} {os.getppid()}")
    (folder / f"new {name}").rename(folder / f"pid {name}")
    end = time.monotonic() + 60
    while time.monotonic() < end and not (folder / "end").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "lab").mkdir()
    yield Lab(tmp_path / "lab")
    (tmp_path / "lab" / "end").touch()


def _own_child_above(pid: int) -> int:
    """The process that this one started and that the given one descends from."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return pid if parent == os.getpid() else _own_child_above(parent)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_a_workflow_runs(lab: Lab, backend: type[FuturesBackend]) -> None:
    init = """
        items = [{"zarr_url": url, "init_args": {"factor": n}} for n, url in enumerate(args["zarr_urls"])]
        json.dump({"parallelization_list": items}, open(sys.argv[4], "w"))
    """
    compute = """
        new = {"zarr_url": args["zarr_url"] + "-new", "origin": args["zarr_url"],
               "attributes": {"factor": args["init_args"]["factor"]}}
        json.dump({"image_list_updates": [new]}, open(sys.argv[4], "w"))
    """
    both = {
        "name": "Both",
        "type": "compound",
        "command_non_parallel": lab.command(init),
        "command_parallel": lab.command(compute),
        "output_types": {"new": True},
    }
    result = lab.run(backend(), lab.task("print('seen', name)"), {"task": both}, images=3)
    assert result["images"][3:] == [
        {
            "zarr_url": f"/data/{n}-new",
            "origin": f"/data/{n}",
            "attributes": {"factor": n},
            "types": {"new": True},
        }
        for n in range(3)
    ]
    assert [entry["status"] for entry in result["history"]] == ["done", "done"]
    assert (lab.run_folder / "0_each" / "0_par_0000001.log").read_text() == "seen 1\n"
    assert lab.observer.causes == [Cause.DONE] * 7
    for outcome in lab.observer.by_unit.values():
        assert outcome.exit_code == 0
        assert outcome.wall_s is not None
        assert 0 < outcome.wall_s < 60
        assert outcome.peak_mb is not None
        assert 1 < outcome.peak_mb < 100


def test_a_unit_that_fails_does_not_stop_the_others(lab: Lab, backend: type[FuturesBackend]) -> None:
    source = """
        print("unit", name)
        json.dump({"image_list_updates": [{"zarr_url": args["zarr_url"], "types": {"ok": True}}]},
                  open(sys.argv[4], "w"))
        sys.exit(3 if name == "1" else 0)
    """
    with pytest.raises(TaskExecutionError, match=r"(?s)exit code 3.*unit 1\n.*1 of 4 units failed") as caught:
        lab.run(backend(), lab.task(source), images=4)
    assert (caught.value.workflow_task_order, caught.value.task_name) == (0, "Each")
    assert lab.observer.causes == [Cause.DONE, Cause.TASK_ERROR, Cause.DONE, Cause.DONE]
    images = json.loads((lab.run_folder / "images.json").read_text())
    assert [image["types"] for image in images] == [{"ok": True}, {}, {"ok": True}, {"ok": True}]


def test_a_command_that_is_none(lab: Lab, backend: type[FuturesBackend]) -> None:
    with pytest.raises(TaskExecutionError, match='Command "no-such-command" is not valid'):
        lab.run(
            backend(),
            {"task": {"name": "No", "type": "parallel", "command_parallel": "no-such-command"}},
            images=2,
        )
    assert lab.observer.causes == [Cause.INVALID_COMMAND] * 2


def test_units_that_run_are_seen_to_run(lab: Lab, backend: type[FuturesBackend]) -> None:
    started: list[str] = []

    class Starts:
        @hookimpl
        def unit_changed(self, event: UnitEvent) -> None:
            if event.state is UnitState.STARTED:
                started.append(event.unit.label)

    async def look_at_work() -> None:
        run = asyncio.ensure_future(lab.start(backend(observers=[Starts()]), [lab.task(STAY)], 2))
        assert await asyncio.to_thread(eventually, lambda: len(started) == 2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(look_at_work())
    assert sorted(started) == ["0_par_0000000", "0_par_0000001"]


def test_cancelling_leaves_nothing(lab: Lab, backend: type[FuturesBackend]) -> None:
    async def cancel_at_work() -> None:
        run = asyncio.ensure_future(lab.start(backend(), [lab.task(STAY)], 5))
        assert await asyncio.to_thread(lab.at_work, 2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(cancel_at_work())
    assert not any(_alive(pid) for pair in lab.pids().values() for pid in pair)
    assert lab.observer.causes == [Cause.CANCELLED] * 5
    assert len(lab.pids()) == 2, "units were started after the cancellation"
    assert not list(lab.run_folder.glob(".*")), "a file of the machinery is left"


def test_what_had_ended_before_a_cancellation_is_kept(lab: Lab, backend: type[FuturesBackend]) -> None:
    source = """
    if name == "0":
        update = {"zarr_url": args["zarr_url"], "types": {"ok": True}}
        json.dump({"image_list_updates": [update]}, open(sys.argv[4], "w"))
        sys.exit()
    """

    async def cancel_at_work() -> None:
        run = asyncio.ensure_future(lab.start(backend(), [lab.task(source + STAY)], 3))
        assert await asyncio.to_thread(lab.at_work, 2)
        assert await asyncio.to_thread(eventually, lambda: len(lab.observer.by_unit) == 1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(cancel_at_work())
    assert lab.observer.causes == [Cause.DONE, Cause.CANCELLED, Cause.CANCELLED]
    images = json.loads((lab.run_folder / "images.json").read_text())
    assert [image["types"] for image in images] == [{"ok": True}, {}, {}]


def test_units_of_a_killed_worker_are_lost(lab: Lab) -> None:
    run = lab.in_thread(ProcessesBackend(), lab.task(STAY), images=5)
    assert lab.at_work(2)
    os.kill(_own_child_above(lab.pids()["0"][0]), signal.SIGKILL)
    with pytest.raises(JobExecutionError, match=r"lost\. BrokenProcessPool(?s:.*)5 of 5 units failed"):
        run.result(DEADLINE_S)
    assert set(lab.observer.causes) <= {Cause.LOST, Cause.LAUNCH_FAILED}
    assert eventually(lambda: not any(_alive(pid) for pair in lab.pids().values() for pid in pair))
    assert len(lab.pids()) == 2
    assert not list(lab.run_folder.glob(".*"))


def test_a_unit_whose_supervisor_is_killed_is_lost_alone(lab: Lab, backend: type[FuturesBackend]) -> None:
    source = STAY.replace("60", "60 if name == '0' else 0")
    run = lab.in_thread(backend(), lab.task(source), images=4)
    assert eventually(lambda: len(lab.observer.by_unit) == 3 and "0" in lab.pids())
    pid, supervisor = lab.pids()["0"]
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(JobExecutionError, match=r"lost\.(?s:.*)1 of 4 units failed"):
        run.result(DEADLINE_S)
    assert lab.observer.causes == [Cause.LOST, Cause.DONE, Cause.DONE, Cause.DONE]
    assert not _alive(pid), "the unit outlives the verdict"


def test_a_unit_that_is_killed_says_by_which_signal(lab: Lab, backend: type[FuturesBackend]) -> None:
    with pytest.raises(JobExecutionError, match=r"Task failed with returncode=-9 \(SIGKILL"):
        lab.run(backend(), lab.task("os.kill(os.getpid(), 9)"), images=1)


# Engines that misbehave


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
        assert not _alive(int((tmp_path / "pid").read_text()))
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
