"""A run beside others: in an event loop that stays free, cancelled, and two at once."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_local import LocalBackend

from conftest import DEADLINE_S
from fractal_backends import RunInfo, RunResult, TaskPart, get_backend
from tests.helpers.processes import children_of, ended, is_alive, pid_in
from tests.helpers.workflows import (
    Json,
    dataset,
    image,
    names,
    non_parallel,
    parallel,
    process,
    run,
    saved,
    statuses,
    step,
    updates,
    url,
)

# A run that cannot be cancelled cannot be ended by an error in it either: only by ending this process.
pytestmark = pytest.mark.timeout(60, method="thread")

KINDS = ["child", "session", "double_fork", "no_environment"]


async def _become(condition: Callable[[], bool]) -> None:
    """Wait for a condition without keeping the event loop busy."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def _cancel_when(
    ready: Callable[[], bool], awaitable: Coroutine[Any, Any, RunResult], times: int = 1
) -> None:
    """Start a run, cancel it (several times, if asked to) as soon as something is the case, and await it."""

    async def act() -> None:
        task = asyncio.ensure_future(awaitable)
        await _become(lambda: task.done() or ready())
        assert not task.done(), "it ended too soon"
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(act())


async def _longest_pause(task: asyncio.Future[Any]) -> float:
    """For how long, until a run has ended, the event loop did nothing else."""
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    return longest


def test_the_event_loop_stays_free_while_units_run(tmp_path: Path) -> None:
    """What a unit waits for comes from the event loop that its run is awaited in."""
    started, go = tmp_path / "started", tmp_path / "go"

    async def act() -> RunResult:
        task = non_parallel([["touch", str(started)], ["wait", str(go)]])
        running = asyncio.ensure_future(process(tmp_path / "run", [task]))
        await _become(started.exists)
        go.touch()
        return await running

    assert statuses(asyncio.run(act())) == ["done"]


def test_the_event_loop_stays_free_while_a_large_dataset_is_read_and_saved(tmp_path: Path) -> None:
    images = [image(f"{number}", {"t": True}, well="B03") for number in range(40_000)]

    async def act() -> tuple[float, float]:
        start = time.perf_counter()
        task = asyncio.ensure_future(process(tmp_path / "run", [non_parallel()], images))
        pause = await _longest_pause(task)
        await task
        return pause, time.perf_counter() - start

    pause, whole = asyncio.run(act())
    assert pause < whole / 3


def test_the_event_loop_stays_free_while_a_run_is_cancelled(tmp_path: Path) -> None:
    """A unit that does not go when it is asked to has some time before it is killed."""

    async def act() -> tuple[float, float]:
        do = [["ignore_term"], ["pid", str(tmp_path / "pid")], ["hang"]]
        task = asyncio.ensure_future(process(tmp_path / "run", [non_parallel(do)]))
        await _become((tmp_path / "pid").exists)
        start = time.perf_counter()
        task.cancel()
        pause = await _longest_pause(task)
        assert task.cancelled()
        return pause, time.perf_counter() - start

    pause, whole = asyncio.run(act())
    assert pause < whole / 3
    assert ended(tmp_path / "pid")


def test_waiting_costs_no_cpu(tmp_path: Path) -> None:
    """Neither in the runner nor in what it starts."""

    def cpu() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    def cost(name: str, seconds: float) -> float:
        before = cpu()
        task = parallel(task={"command_parallel": f"sh {script} {seconds}"}, **two)
        run(tmp_path / name, [task], "ab")
        return cpu() - before

    two: Json = {"meta_parallel": {"parallel_tasks_per_job": 2}}
    script = tmp_path / "sleep.sh"
    script.write_text('exec sleep "$1"\n')
    cost("warm up", 0)
    assert cost("long", 1.5) < cost("short", 0) + 0.1


def test_a_cancelled_run_ends_at_once_and_says_so_in_its_files(tmp_path: Path) -> None:
    do = {"b": [["pid", str(tmp_path / "pid")], ["hang"]], "*": [updates({"zarr_url": "new"})]}
    tasks = [non_parallel([updates({"zarr_url": "first"})]), parallel(do), non_parallel()]
    folder = tmp_path / "run"
    _cancel_when((tmp_path / "pid").exists, process(folder, tasks, "abc"))
    assert ended(tmp_path / "pid")
    state = saved(folder)
    assert statuses(state) == ["done", "failed"]
    assert not (folder / "2_task").exists()
    assert "Run ends: cancelled" in (folder / "workflow.log").read_text()


def test_a_run_that_is_cancelled_while_it_is_checked_begins_nothing(tmp_path: Path) -> None:
    asked, go = threading.Event(), threading.Event()

    class Asking(LocalBackend):
        def problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
            asked.set()
            go.wait(DEADLINE_S)
            return []

    async def act() -> None:
        task = asyncio.ensure_future(process(tmp_path / "run", [non_parallel()], backend=Asking()))
        await _become(asked.is_set)
        task.cancel()
        await asyncio.sleep(0.05)  # its thread is told meanwhile
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(act())
    assert not (tmp_path / "run").exists()


def test_results_of_units_that_had_ended_are_kept_when_a_run_is_cancelled(tmp_path: Path) -> None:
    do: Json = {
        "a": [updates({"zarr_url": "from a", "origin": "a"})],
        "b": [updates({"zarr_url": "from b"})],
        "c": [["touch", str(tmp_path / "ready")], ["hang"]],
    }
    task = parallel(do, task={"output_types": {"t": True}}, meta_parallel={"parallel_tasks_per_job": 1})
    _cancel_when((tmp_path / "ready").exists, process(tmp_path / "run", [task], "abcd"))
    state = saved(tmp_path / "run")
    made = [image("from a", {"t": True}, origin="a"), image("from b", {"t": True})]
    assert state["images"] == [*map(image, "abcd"), *made]
    assert state["filters"]["types"] == {}
    assert not (tmp_path / "run" / "0_task" / "0_par_0000003.log").exists()


def test_images_of_units_that_had_ended_count_as_updated_when_a_run_is_cancelled(tmp_path: Path) -> None:
    do = {"b": [["touch", str(tmp_path / "ready")], ["hang"]], "*": []}
    task = parallel(do, task={"output_types": {"t": True}}, meta_parallel={"parallel_tasks_per_job": 1})
    _cancel_when((tmp_path / "ready").exists, process(tmp_path / "run", [task], "abc"))
    assert saved(tmp_path / "run")["images"] == [image("a", {"t": True}), image("b"), image("c")]


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_cancel_nothing_that_descends_from_a_unit_is_alive(tmp_path: Path, kind: str) -> None:
    do = [[kind, str(tmp_path / "daemon")], ["pid", str(tmp_path / "unit")], ["hang"]]
    _cancel_when((tmp_path / "unit").exists, process(tmp_path / "run", [non_parallel(do)]))
    assert ended(tmp_path / "unit")
    assert ended(tmp_path / "daemon")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_after_a_cancel_nothing_that_outlived_an_earlier_unit_is_alive(tmp_path: Path, kind: str) -> None:
    earlier = non_parallel([[kind, str(tmp_path / "daemon")]])
    failed = parallel({"a": [[kind, str(tmp_path / "sibling")], ["exit_with", 1]], "*": [["hang"]]})
    ready = (tmp_path / "sibling").exists
    _cancel_when(ready, process(tmp_path / "run", [earlier, failed], "ab"))
    assert ended(tmp_path / "daemon")
    assert ended(tmp_path / "sibling")


def test_units_that_ignore_the_request_to_end_are_ended_all_the_same(tmp_path: Path) -> None:
    do: list[list[Any]] = [["stubborn", str(tmp_path / "daemon")], ["ignore_term"]]
    task = non_parallel([*do, ["pid", str(tmp_path / "unit")], ["hang"]])
    start = time.monotonic()
    _cancel_when((tmp_path / "unit").exists, process(tmp_path / "run", [task]), times=5)
    assert time.monotonic() - start < DEADLINE_S
    assert ended(tmp_path / "unit")
    assert ended(tmp_path / "daemon")


def test_a_run_can_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """Often in its first moments, when its threads have most to say to one another, and later."""

    async def act(delay: float, folder: Path) -> None:
        task = asyncio.ensure_future(process(folder, [at_once, non_parallel()], "abcdefgh"))
        await asyncio.sleep(delay)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert set(children_of(os.getpid())) <= before
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fractal")]

    before = set(children_of(os.getpid()))
    at_once = parallel(task={"command_parallel": "true"}, meta_parallel={"parallel_tasks_per_job": 8})
    for number, delay in enumerate([*(n / 2 for n in range(40)), *range(20, 120, 15)]):
        asyncio.run(act(delay / 1000, tmp_path / f"{number}"))


def test_a_run_that_is_cancelled_before_it_starts_starts_nothing(tmp_path: Path) -> None:
    _cancel_when(lambda: True, process(tmp_path / "run", [non_parallel([["touch", str(tmp_path / "ran")]])]))
    assert not (tmp_path / "ran").exists()


def test_a_timeout_ends_a_run(tmp_path: Path) -> None:
    async def act() -> None:
        async with asyncio.timeout(0.3):
            await process(tmp_path / "run", [non_parallel([["pid", str(tmp_path / "pid")], ["hang"]])])

    with pytest.raises(TimeoutError):
        asyncio.run(act())
    assert ended(tmp_path / "pid")


def test_cancelling_one_run_leaves_another_with_the_same_backend_alone(tmp_path: Path) -> None:
    backend = get_backend("local")
    go, pid = tmp_path / "go", tmp_path / "pid"

    async def act() -> RunResult:
        waits = non_parallel(
            [["touch", str(tmp_path / "waits")], ["wait", str(go)], updates({"zarr_url": "x"})]
        )
        hangs = non_parallel([["pid", str(pid)], ["hang"]])
        other = asyncio.ensure_future(process(tmp_path / "other", [waits, non_parallel()], backend=backend))
        task = asyncio.ensure_future(process(tmp_path / "run", [hangs], backend=backend))
        await _become(lambda: pid.exists() and (tmp_path / "waits").exists())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_alive(pid_in(pid))
        go.touch()
        return await other

    result = asyncio.run(act())
    assert statuses(result) == ["done", "done"]
    assert result["images"] == [image("x")]


LOGGERS = [("same", "same"), ("one logger", "another logger"), ("below.x", "below")]


def _two_at_once(folder: Path, loggers: tuple[str, str]) -> list[RunResult]:
    """Two runs that wait for one another, with one backend object; each makes an image and sets filters."""
    backend = get_backend("local")

    def workflow(own: str, other: str, **fields: Any) -> list[Json]:
        meet: list[list[Any]] = [["touch", str(folder / own)], ["wait", str(folder / other)]]
        make = updates({"zarr_url": f"made by {own}"}, filters={"attributes": {own: None}})
        first = non_parallel([*meet, make], task={"name": f"{own} makes", "output_types": {own: True}})
        return [first, parallel(task={"name": f"{own} ends"}, **fields)]

    async def act() -> list[RunResult]:
        # One of them asks for more than this machine has, which the backend itself says in the log.
        greedy = {"meta_parallel": {"cpus_per_task": 100_000}}
        runs = [
            process(
                folder / "1", workflow("one", "two", **greedy), "a", backend=backend, logger_name=loggers[0]
            ),
            process(folder / "2", workflow("two", "one"), "b", backend=backend, logger_name=loggers[1]),
        ]
        return await asyncio.gather(*runs)

    return asyncio.run(act())


@pytest.mark.parametrize("loggers", LOGGERS)
def test_two_runs_at_once_with_one_backend_do_not_mix(tmp_path: Path, loggers: tuple[str, str]) -> None:
    first, second = _two_at_once(tmp_path, loggers)
    assert first["images"] == [image("a"), image("made by one", {"one": True})]
    assert second["images"] == [image("b"), image("made by two", {"two": True})]
    assert first["filters"] == {"types": {"one": True}, "attributes": {"one": None}}
    assert second["filters"] == {"types": {"two": True}, "attributes": {"two": None}}
    assert (saved(tmp_path / "1"), saved(tmp_path / "2")) == (first, second)


@pytest.mark.parametrize("loggers", LOGGERS)
def test_two_runs_at_once_do_not_mix_their_logs(tmp_path: Path, loggers: tuple[str, str]) -> None:
    _two_at_once(tmp_path, loggers)
    one, two = ((tmp_path / name / "workflow.log").read_text() for name in "12")
    for own, text in (("one", one), ("two", two)):
        assert text.count("Run starts") == text.count("Run ends: done") == 1
        assert f"'{own} makes'" in text and f"'{own} ends'" in text
    assert "'two" not in one and "'one" not in two
    assert "asks for 100000 cores" in one
    assert "asks for 100000 cores" not in two


def test_after_a_run_its_logger_is_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("as it was")
    before = (list(logger.handlers), logger.level, list(logger.filters), logger.propagate)
    run(tmp_path / "run", [non_parallel()], logger_name="as it was")
    assert (list(logger.handlers), logger.level, list(logger.filters), logger.propagate) == before


def test_a_servers_own_handler_writes_the_log_once(tmp_path: Path) -> None:
    """A server attaches a handler for `workflow.log` in the run's folder, and then awaits the run."""
    (tmp_path / "run").mkdir()
    logger = logging.getLogger("a server's")
    handler = logging.FileHandler(tmp_path / "run" / "workflow.log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        run(tmp_path / "run", [non_parallel()], logger_name="a server's")
        logger.info("the server's own words")
    finally:
        logger.removeHandler(handler)
        handler.close()
    log = (tmp_path / "run" / "workflow.log").read_text()
    assert log.count("Run starts") == log.count("Run ends") == log.count("own words") == 1


def test_runs_share_the_machines_cores_and_all_end(tmp_path: Path) -> None:
    backend = get_backend("local")

    async def act() -> list[RunResult]:
        runs = [process(tmp_path / f"{number}", [parallel()], "abc", backend=backend) for number in range(6)]
        return await asyncio.gather(*runs)

    assert [statuses(result) for result in asyncio.run(act())] == [["done"]] * 6


def test_a_slow_unit_keeps_no_free_slot_idle(tmp_path: Path) -> None:
    """The first unit ends only when all the others have ended: all of them go through the other slot."""
    others = "bcdefgh"
    waits = [["wait", str(tmp_path / name)] for name in others]
    do: Json = {"a": waits, **{name: [["touch", str(tmp_path / name)]] for name in others}}
    task = parallel(do, meta_parallel={"parallel_tasks_per_job": 2})
    assert statuses(run(tmp_path / "run", [task], "a" + others)) == ["done"]


def test_a_large_run_is_answered_with_all_its_images(tmp_path: Path) -> None:
    count = 5_000
    made = [{"zarr_url": f"{number}"} for number in range(count)]
    tasks = [step("converter_non_parallel", [updates(*made)]), non_parallel()]
    result = asyncio.run(process(tmp_path / "run", [], workflow={"task_list": tasks}, dataset=dataset()))
    assert names(result["images"]) == [item["zarr_url"] for item in made]
    assert url("0") == result["images"][0]["zarr_url"]
