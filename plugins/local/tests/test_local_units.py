"""Units of the local backend: what is measured of them, and what they find."""

from __future__ import annotations

import json
import os
import resource
import signal
from typing import Any

import pytest

from fractal_backends import InvalidInputError, Outcome, UnitState
from tests.helpers.local_lab import Lab

# What is measured


def _one(lab: Lab, source: str) -> Outcome:
    lab.run(lab.task(source))
    (outcome,) = lab.watcher.outcomes
    return outcome


def _between(low: float, value: float | None, high: float) -> bool:
    return value is not None and low <= value <= high


BURN = "while sum(os.times()[:2]) < 0.3: pass"


def test_the_peak_memory_of_a_unit(lab: Lab) -> None:
    outcome = _one(lab, "block = b'x' * (200 << 20)")
    assert _between(200, outcome.peak_mb, 300)


@pytest.mark.parametrize(
    ("source", "expected"), [("time.sleep(0.3)", (0, 0.25)), (BURN, (0.3, 1.5))], ids=["asleep", "busy"]
)
def test_the_time_of_a_unit(lab: Lab, source: str, expected: tuple[float, float]) -> None:
    outcome = _one(lab, source)
    assert _between(0.3, outcome.wall_s, 10)
    assert _between(expected[0], outcome.cpu_s, expected[1])


def test_children_of_a_unit_are_measured_too(lab: Lab) -> None:
    child = f"import os; block = b'x' * (150 << 20); exec({BURN!r})"
    outcome = _one(lab, f"os.spawnl(os.P_WAIT, sys.executable, 'python', '-c', {child!r})")
    assert _between(0.3, outcome.cpu_s, 3)
    assert _between(150, outcome.peak_mb, 250)


def test_a_failed_unit_is_measured_too(lab: Lab) -> None:
    with pytest.raises(RuntimeError):
        lab.run(lab.task(f"block = b'x' * (100 << 20)\n{BURN}\nos.kill(os.getpid(), {signal.SIGKILL:d})"))
    (outcome,) = lab.watcher.outcomes
    assert outcome.signal == signal.SIGKILL
    assert _between(0.3, outcome.wall_s, 10)
    assert _between(0.3, outcome.cpu_s, 1.5)
    assert _between(100, outcome.peak_mb, 200)


def test_a_tiny_program_has_a_small_peak_however_large_the_runner_is(lab: Lab) -> None:
    ballast = b"x" * (300 << 20)
    task = {"name": "Tiny", "type": "non_parallel", "command_non_parallel": "true"}
    lab.run({"task": task})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > len(ballast) >> 10
    (outcome,) = lab.watcher.outcomes
    assert _between(0.1, outcome.peak_mb, 32)
    assert _between(0, outcome.cpu_s, 0.2)


def test_the_report_of_a_task_adds_up(lab: Lab) -> None:
    source = """
        block = b"x" * (int(args["zarr_url"][-1]) * 40 << 20)
        while sum(os.times()[:2]) < 0.1: pass
    """
    task = {"name": "Sum", "type": "parallel", "command_parallel": lab.command(source)}
    lab.run({"task": task}, images=4)
    (report,) = lab.watcher.reports
    outcomes = lab.watcher.outcomes
    assert (report.units, report.failed) == (4, 0)
    assert report.cpu_s == pytest.approx(sum(outcome.cpu_s or 0 for outcome in outcomes))
    assert _between(0.4, report.cpu_s, 4)
    assert _between(120, report.peak_mb, 200)
    assert _between(max(outcome.wall_s or 0 for outcome in outcomes), report.wall_s, 20)


def test_observers_are_told_the_units_process(lab: Lab) -> None:
    folder = lab.run(lab.task("print(os.getpid())"))
    states = [event.state for event in lab.watcher.events]
    assert states == [UnitState.QUEUED, UnitState.STARTED, UnitState.ENDED]
    assert lab.watcher.events[1].handle == (folder / "0_solo" / "0.log").read_text().strip()


# What a unit finds


def _found(lab: Lab, expression: str, **arguments: Any) -> Any:
    """What an expression is inside a unit."""
    folder = lab.run(lab.task(f"print(json.dumps({expression}))"), **arguments)
    return json.loads((folder / "0_solo" / "0.log").read_text())


def test_the_cache_folder_is_in_the_units_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRACTAL_CACHE_DIR", "/somewhere/else")
    expression = "os.environ['FRACTAL_CACHE_DIR']"
    assert _found(lab, expression, user_cache_dir="/cache of/mine") == "/cache of/mine"
    assert _found(lab, expression) == "/somewhere/else"
    monkeypatch.delenv("FRACTAL_CACHE_DIR")
    assert _found(lab, "'FRACTAL_CACHE_DIR' in os.environ") is False


def test_a_relative_cache_folder_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidInputError, match="user_cache_dir must be an absolute path, not 'cache'"):
        lab.run(lab.task("pass"), user_cache_dir="cache")


@pytest.mark.parametrize("user_cache_dir", [None, "/cache"])
def test_the_environment_is_the_runners(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, user_cache_dir: str | None
) -> None:
    monkeypatch.delenv("FRACTAL_CACHE_DIR", raising=False)
    monkeypatch.setenv("ODD_VARIABLE", "a=b\nc \udcff ü")
    monkeypatch.setenv("EMPTY_VARIABLE", "")
    before = dict(os.environ)
    found = _found(lab, "{k: v for k, v in os.environ.items()}", user_cache_dir=user_cache_dir)
    assert {key: found.get(key) for key in before} == before


def test_the_environment_is_that_of_the_runs_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("CHANGING", value)
        assert _found(lab, "os.environ['CHANGING']") == value


def test_a_unit_leads_a_process_group_of_its_own(lab: Lab) -> None:
    group, pid = _found(lab, "[os.getpgid(0), os.getpid()]")
    assert group == pid
    assert group != os.getpgid(0)


def test_stdin_is_empty(lab: Lab) -> None:
    assert _found(lab, "[os.readlink('/proc/self/fd/0'), sys.stdin.read()]") == [os.devnull, ""]


def test_no_file_of_the_runner_is_open_in_a_unit(lab: Lab) -> None:
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        assert _found(lab, "[fd for fd in range(100) if os.path.exists(f'/proc/self/fd/{fd}')]") == [0, 1, 2]


def test_stdout_and_stderr_share_the_log_in_order(lab: Lab) -> None:
    source = "\n".join(f"os.write({1 + n % 2}, b'{n} ')" for n in range(10))
    folder = lab.run(lab.task(source))
    assert (folder / "0_solo" / "0.log").read_text() == "0 1 2 3 4 5 6 7 8 9 "
