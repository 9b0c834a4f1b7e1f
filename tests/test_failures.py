"""Units that fail, are killed, or leave something behind; a supervisor and a runner that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from fractal_backends import JobExecutionError, RunResult, TaskExecutionError
from tests.helpers.processes import children_of, ended, guards, is_alive, pid_in, started_apart, supervisors
from tests.helpers.workflows import (
    Json,
    Steps,
    compound,
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
)

LIFE_S = 60
"""After so long the processes of the tests end by themselves (see `task_program`)."""
CEILING: Json = {"meta_parallel": {"parallel_tasks_per_job": 4}}


def _while_running(
    folder: Path, tasks: list[Json], images: str, act: Callable[[], None]
) -> RunResult | BaseException:
    """Run a workflow, do something in another thread meanwhile, and return what becomes of the run."""

    async def both() -> list[Any]:
        runs = process(folder, tasks, images), asyncio.to_thread(act)
        return list(await asyncio.gather(*runs, return_exceptions=True))

    start = time.monotonic()
    result, acted = asyncio.run(both())
    assert time.monotonic() - start < LIFE_S / 2, "it waited until everything ended by itself"
    if isinstance(acted, BaseException):
        raise acted
    outcome: RunResult | BaseException = result
    return outcome


def _hanging(folder: Path, *who: str, **others: Steps) -> dict[str, Steps]:
    """Steps for images whose units write their pids and wait until they are killed."""
    hang = {name: [["ignore_term"], ["pid", str(folder / f"{name}.pid")], ["hang"]] for name in who}
    return {**hang, "*": [["touch", str(folder / "another ran")]], **others}


def test_every_unit_is_attempted_and_successes_are_saved(tmp_path: Path) -> None:
    do: Mapping[str, Steps] = {
        "b": [["exit_with", 3]],
        "d": [["kill_self", 9]],
        "f": [["raw", "?"]],
        "*": [updates({"zarr_url": "new"})],
    }
    with pytest.raises(TaskExecutionError) as caught:
        run(tmp_path / "run", [parallel(do), non_parallel()], "abcdefg")
    message = str(caught.value)
    assert "0_par_0000001" in message.splitlines()[0] and "exit code 3" in message.splitlines()[0]
    assert "3 of 7 units failed: 0_par_0000001, 0_par_0000003, 0_par_0000005" in message
    state = saved(tmp_path / "run")
    assert names(state["images"]) == [*"abcdefg", "new"]
    assert statuses(state) == ["failed"]
    assert len(list((tmp_path / "run" / "0_task").glob("*.log"))) == 7


def test_the_first_failure_in_unit_order_is_raised_whichever_came_first(tmp_path: Path) -> None:
    later = str(tmp_path / "later failed")
    do: Json = {"a": [["wait", later], ["kill_self", 15]], "b": [["touch", later], ["exit_with", 1]]}
    with pytest.raises(JobExecutionError, match=r"^Task failed with returncode=-15 \(SIGTERM") as caught:
        run(tmp_path / "run", [parallel(do, **CEILING)], "ab")
    assert "2 of 2 units failed: 0_par_0000000, 0_par_0000001" in str(caught.value)


def test_very_many_units_that_fail_are_all_attempted_and_named_in_a_short_message(tmp_path: Path) -> None:
    count = 130
    images = [f"{number}" for number in range(count)]
    with pytest.raises(TaskExecutionError) as caught:
        run(tmp_path / "run", [parallel(task={"command_parallel": "false"})], images)
    message = str(caught.value)
    assert f"{count} of {count} units failed" in message
    assert "0_par_0000000" in message and f"0_par_{count - 1:07d}" in message
    assert len(message) < 2_000
    assert len(list((tmp_path / "run" / "0_task").glob("*.log"))) == count


def test_of_a_compound_task_with_a_failed_unit_the_successes_are_saved(tmp_path: Path) -> None:
    do: Json = {"b": [["exit_with", 1]], "*": [updates({"zarr_url": "new"})]}
    with pytest.raises(TaskExecutionError, match=r"0_par_0000001 ended with exit code 1"):
        run(tmp_path / "run", [compound(["a", "b", "c"], do)], "a")
    assert saved(tmp_path / "run")["images"] == [image("a"), image("new")]


@pytest.mark.parametrize("end", [["exit_with", 1], ["kill_self", 9], ["raw", "?"]])
def test_a_compound_task_whose_init_fails_starts_no_compute_unit(tmp_path: Path, end: list[Any]) -> None:
    task = compound(["a"], init=[end], task={"output_types": {"t": True}})
    with pytest.raises((TaskExecutionError, JobExecutionError), match="1 of 1 units failed: 0\n"):
        run(tmp_path / "run", [task], "a")
    assert saved(tmp_path / "run")["images"] == [image("a")]
    assert not list((tmp_path / "run" / "0_task").glob("*_par_*"))


@pytest.mark.parametrize(
    "bad",
    [
        parallel([["exit_with", 1]]),
        parallel(type_filters={"x": True}),
        parallel(task={"command_parallel": "a | b"}),
        parallel([updates({"zarr_url": "/outside"})]),
    ],
    ids=["unit", "filters", "command", "merge"],
)
def test_the_history_says_done_or_failed_and_the_failed_task_is_its_last_entry(
    tmp_path: Path, bad: Json
) -> None:
    tasks = [parallel(id=1), non_parallel(id=2), {**bad, "id": 3}, parallel(id=4)]
    with pytest.raises((TaskExecutionError, JobExecutionError)):
        run(tmp_path / "run", tasks, "a")
    history = saved(tmp_path / "run")["history"]
    ran = [(entry["workflowtask"]["id"], entry["status"]) for entry in history]
    assert ran == [(1, "done"), (2, "done"), (3, "failed")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_unit_that_is_killed_from_outside_is_a_job_error(tmp_path: Path, number: signal.Signals) -> None:
    do = {"b": [["pid", str(tmp_path / "b.pid")], ["hang"]], "*": [updates({"zarr_url": "new"})]}
    act = lambda: os.kill(pid_in(tmp_path / "b.pid"), number)  # noqa: E731
    error = _while_running(tmp_path / "run", [parallel(do)], "abc", act)
    assert isinstance(error, JobExecutionError)
    assert str(error).startswith(f"Task failed with returncode=-{int(number)} ({number.name}")
    assert "1 of 3 units failed: 0_par_0000001" in str(error)
    assert names(saved(tmp_path / "run")["images"]) == ["a", "b", "c", "new"]


def test_output_of_a_unit_that_was_killed_while_it_wrote_does_not_count(tmp_path: Path) -> None:
    do = [["pid", str(tmp_path / "pid")], ["write_until_killed", str(tmp_path / "writes")]]

    def act() -> None:
        assert eventually((tmp_path / "writes").exists)
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)

    error = _while_running(tmp_path / "run", [non_parallel(do)], "a", act)
    assert isinstance(error, JobExecutionError) and str(error).startswith("Task failed with returncode=-9")
    assert saved(tmp_path / "run")["images"] == [image("a")]


@pytest.mark.parametrize("how", ["child", "session", "double_fork", "no_environment", "stubborn"])
def test_after_a_run_nothing_that_descends_from_a_unit_is_alive(tmp_path: Path, how: str) -> None:
    run(tmp_path / "run", [non_parallel([[how, str(tmp_path / "pid")]])])
    assert ended(tmp_path / "pid")


@pytest.mark.parametrize("end", [["exit_with", 0], ["exit_with", 1], ["kill_self", 9]])
def test_what_a_unit_leaves_in_its_process_group_is_ended_when_the_unit_ends(
    tmp_path: Path, end: list[Any]
) -> None:
    """The second unit looks; it starts when the first has ended."""
    pid = str(tmp_path / "pid")
    do = {"a": [["child", pid], end], "b": [["must_have_ended", pid], updates({"zarr_url": "fine"})]}
    try:
        result = run(tmp_path / "run", [parallel(do, meta_parallel={"parallel_tasks_per_job": 1})], "ab")
    except (TaskExecutionError, JobExecutionError) as error:
        assert "1 of 2 units failed: 0_par_0000000" in str(error)
        result = saved(tmp_path / "run")
    assert names(result["images"]) == ["a", "b", "fine"]


def test_a_unit_that_is_done_while_its_child_runs_on_is_done(tmp_path: Path) -> None:
    """Nobody waits for a child that holds the log open."""
    result = run(tmp_path / "run", [non_parallel([["child", str(tmp_path / "pid")]])])
    assert statuses(result) == ["done"]


def _kill_supervisor(folder: Path, *who: str) -> None:
    """Kill the supervisor process once the named units run."""
    for name in who:
        pid_in(folder / f"{name}.pid")
    (supervisor,) = supervisors()
    os.kill(supervisor, signal.SIGKILL)


def test_when_the_supervisor_is_killed_its_units_are_lost_and_others_still_attempted(tmp_path: Path) -> None:
    do = _hanging(tmp_path, "a", "b", c=[updates({"zarr_url": "from c"})])
    task = parallel(do, meta_parallel={"parallel_tasks_per_job": 2})
    error = _while_running(tmp_path / "run", [task], "abcd", lambda: _kill_supervisor(tmp_path, "a", "b"))
    assert isinstance(error, JobExecutionError)
    assert "lost" in str(error).splitlines()[0] and "0_par_0000000" in str(error).splitlines()[0]
    assert "2 of 4 units failed: 0_par_0000000, 0_par_0000001" in str(error)
    assert names(saved(tmp_path / "run")["images"]) == ["a", "b", "c", "d", "from c"]
    assert (tmp_path / "another ran").exists()
    assert ended(tmp_path / "a.pid") and ended(tmp_path / "b.pid")


@pytest.mark.parametrize("how", ["child", "session", "double_fork", "no_environment"])
def test_when_the_supervisor_is_killed_nothing_is_left_running(tmp_path: Path, how: str) -> None:
    do = [[how, str(tmp_path / "daemon.pid")], ["pid", str(tmp_path / "a.pid")], ["hang"]]
    act = lambda: _kill_supervisor(tmp_path, "a")  # noqa: E731
    error = _while_running(tmp_path / "run", [non_parallel(do)], "a", act)
    assert isinstance(error, JobExecutionError)
    assert ended(tmp_path / "a.pid")
    assert ended(tmp_path / "daemon.pid")


def test_what_an_earlier_unit_left_goes_too_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    tasks = [
        non_parallel([["double_fork", str(tmp_path / "daemon.pid")]]),
        non_parallel([["pid", str(tmp_path / "a.pid")], ["hang"]]),
    ]
    _while_running(tmp_path / "run", tasks, "a", lambda: _kill_supervisor(tmp_path, "a"))
    assert ended(tmp_path / "daemon.pid")


def test_when_the_guard_of_the_supervisor_is_killed_the_run_goes_on_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    do = [
        ["stubborn", str(tmp_path / "daemon")],
        ["pid", str(tmp_path / "unit")],
        ["wait", str(tmp_path / "go")],
    ]
    supervisor: list[int] = []

    def act() -> None:
        pid_in(tmp_path / "unit")
        supervisor.extend(supervisors())
        (guard,) = guards()
        os.kill(guard, signal.SIGKILL)
        (tmp_path / "go").touch()

    result = _while_running(tmp_path / "run", [non_parallel(do), non_parallel()], "a", act)
    assert not isinstance(result, BaseException) and statuses(result) == ["done", "done"]
    assert ended(tmp_path / "daemon")
    assert eventually(lambda: not any(map(is_alive, supervisor)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_when_the_runner_is_ended_nothing_it_started_is_left(tmp_path: Path, number: signal.Signals) -> None:
    kinds = ["child", "session", "double_fork", "no_environment"]
    earlier = [[kind, str(tmp_path / f"earlier {kind}")] for kind in kinds[1:]]
    do = [*([kind, str(tmp_path / kind)] for kind in kinds), ["pid", str(tmp_path / "unit")], ["hang"]]
    request = {
        "folder": str(tmp_path / "run"),
        "tasks": [non_parallel([*earlier, updates({"zarr_url": "new"})]), non_parallel(do)],
        "images": ["a"],
    }
    with started_apart(request) as runner:
        started = [pid_in(tmp_path / "unit"), *children_of(runner.pid)]
        started += [pid_in(tmp_path / name) for name in (*kinds, *(f"earlier {kind}" for kind in kinds[1:]))]
        assert all(map(is_alive, started))
        runner.send_signal(number)
        assert eventually(lambda: not any(map(is_alive, started)))
        runner.communicate()
    assert saved(tmp_path / "run")["images"] == [image("a"), image("new")]


JUNK = [*range(256)]
LOGS: dict[str, Steps] = {
    "20 MB": [["fill_log", 20_000], ["print_out", "\nthe end"]],
    "binary junk": [["print_bytes", JUNK, 200], ["print_out", "\nthe end"]],
    "long lines": [["print_out", ("x" * 100_000 + "\n") * 3 + "the end"]],
    "half a character": [["print_bytes", [0xE6, 0x97] * 5000], ["print_out", "\nthe end"]],
    "terminal codes": [["print_out", "\x1b[31m\x1b]0;title\x07" * 1000 + "\nthe end"]],
}


@pytest.mark.parametrize("what", LOGS)
@pytest.mark.parametrize("end", [["exit_with", 1], ["kill_self", 9]], ids=["exit", "killed"])
def test_whatever_is_in_the_log_its_end_is_in_a_short_error(
    tmp_path: Path, what: str, end: list[Any]
) -> None:
    with pytest.raises((TaskExecutionError, JobExecutionError)) as caught:
        run(tmp_path / "run", [non_parallel([*LOGS[what], end])])
    message = str(caught.value)
    assert "the end" in message
    assert len(message) < 20_000
    message.encode()
    assert (tmp_path / "run" / "workflow.log").stat().st_size < 200_000
    if isinstance(caught.value, JobExecutionError):
        assert "the end" in caught.value.assemble_error()
        assert len(caught.value.assemble_error()) < 100_000


@pytest.mark.parametrize("what", LOGS)
def test_whatever_is_in_the_log_a_good_unit_is_good(tmp_path: Path, what: str) -> None:
    result = run(tmp_path / "run", [step("parallel", LOGS[what])], "a")
    assert statuses(result) == ["done"]
    assert (tmp_path / "run" / "0_task" / "0_par_0000000.log").read_bytes().endswith(b"the end")
