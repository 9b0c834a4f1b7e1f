"""What units wait for, as `run` shows it."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from fractal_backends import Cause, Outcome, TaskInfo, Unit, UnitEvent, UnitState
from fractal_backends.cli.progress import Counts, Lines
from slurm_lab import SlurmLab
from tests.cli_helpers import Result, Terminal, cli, install, write_json
from tests.helpers.workflows import dataset, parallel

TASK = TaskInfo(0, "Measure", "parallel", 4)


def unit(number: int) -> Unit:
    return Unit(0, number, f"/run/0_measure/0_par_{number:07}", ("true",))


def queued(number: int, info: str) -> UnitEvent:
    return UnitEvent(unit(number), UnitState.QUEUED, info=info)


def started(number: int) -> UnitEvent:
    return UnitEvent(unit(number), UnitState.STARTED)


def ended(number: int) -> UnitEvent:
    return UnitEvent(unit(number), UnitState.ENDED, Outcome(Cause.DONE, exit_code=0))


def counted(*events: UnitEvent) -> Counts:
    counts = Counts()
    counts.task_started(TASK)
    counts.task_changed(TASK)
    for event in events:
        counts.unit_changed(event)
    return counts


# Counting


def test_the_reason_of_most_is_shown() -> None:
    events = [queued(0, "Priority"), queued(1, "Resources"), queued(2, "Resources")]
    assert counted(*events).waiting_for == "waiting: Resources"
    assert counted(*events, queued(1, "Priority")).waiting_for == "waiting: Priority"


def test_who_starts_or_ends_does_not_wait_any_more() -> None:
    events = [queued(0, "Resources"), queued(1, "Resources"), queued(2, "Priority")]
    counts = counted(*events, started(0), ended(1))
    assert counts.waiting_for == "waiting: Priority"
    counts.unit_changed(ended(2))
    assert counts.waiting_for == ""
    assert counts.now == {"done": 2, "failed": 0, "running": 1, "left": 1}


@pytest.mark.parametrize("events", [[], [queued(0, "")], [queued(0, "Resources"), queued(0, "")]])
def test_nothing_is_shown_where_no_reason_is_known(events: list[UnitEvent]) -> None:
    assert counted(*events, started(1)).waiting_for == ""


def test_who_runs_does_not_wait() -> None:
    assert counted(started(0), queued(0, "Resources")).waiting_for == ""


def test_the_next_task_begins_without_reasons() -> None:
    counts = counted(queued(0, "Resources"))
    counts.task_started(TASK)
    assert counts.waiting_for == ""


def test_a_reason_is_harmless_and_keeps_to_one_line() -> None:
    shown = counted(queued(0, "\x1b]0;title\x07 two\nlines " + "x" * 100_000)).waiting_for
    assert shown.isprintable()
    assert shown.endswith("x…")
    assert len(shown) < 120


def test_many_reasons_are_not_all_kept() -> None:
    counts = counted(*(queued(number, f"job {number}") for number in range(1000)))
    assert counts.waiting_for == "waiting: other reasons"
    for number in range(1000):
        counts.unit_changed(ended(number))
    assert counts.waiting_for == ""


def test_a_hundred_thousand_units_are_counted_in_no_time() -> None:
    """Each with a reason of its own, which is looked at all the time."""
    lines = Lines(Console(file=io.StringIO()), counts := Counts())
    counts.task_started(TASK)
    begin = time.process_time()
    with lines:
        for number in range(100_000):
            for event in (queued(number, f"job {number}"), started(number), ended(number)):
                counts.unit_changed(event)
                lines.unit_changed(TASK, event)
    assert time.process_time() - begin < 10


# As users see it


def files(folder: Path, **task: str) -> list[str]:
    write_json(folder / "workflow.json", {"task_list": [parallel(task={"name": "Measure", **task})]})
    write_json(folder / "dataset.json", dataset(["a", "b"]))
    return ["run", "workflow.json", "--dataset", "dataset.json", "--run-dir", "run"]


LATER = ("--option", 'extra_lines=["#SBATCH --begin=now+4"]', "--option", "poll_interval=0.3")
LINE = "Task 0 Measure: 0 done, 0 failed, 0 running, 2 left (waiting: BeginTime)"


def later(folder: Path, backend: str) -> Result:
    given = files(folder, command_parallel="/bin/true")
    return cli(*given, "--backend", backend, *LATER, cwd=folder, DUMMY_SLURM_DIR=folder / "cluster")


def test_lines_tell_what_units_wait_for(tmp_path: Path) -> None:
    result = later(tmp_path, "dummy_slurm")
    assert result.code == 0, result.err
    first, *between, last = result.err.splitlines()
    assert first == "Task 0 Measure: started"
    assert LINE in between
    assert last.startswith("Task 0 Measure: done, 2 units, ")


def test_lines_tell_what_slurm_says(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    result = later(tmp_path, "slurm")
    assert result.code == 0, result.err
    assert LINE in result.err.splitlines()


def test_a_terminal_shows_it_below_the_bars(tmp_path: Path) -> None:
    given = files(tmp_path, command_parallel="/bin/true")
    more = ("--backend", "dummy_slurm", *LATER)
    with Terminal(*given, *more, cwd=tmp_path, DUMMY_SLURM_DIR=tmp_path / "cluster") as terminal:
        assert terminal.shows(r"\n0 Measure +━+ +0 +0 +0 +2 [^\n]*\nwaiting: BeginTime *\n?"), terminal.text
        assert terminal.end() == 0
    _, _, last = terminal.text.rpartition("\ntask ")
    assert "waiting" not in last


CHATTY = """
    import time
    from pathlib import Path

    from fractal_backends import Backend, Cause, Outcome, UnitEvent, UnitExecutor, UnitState

    class Executor(UnitExecutor):
        def run(self, units, options):
            for unit in units:
                yield UnitEvent(unit, UnitState.QUEUED, info="\\x1b]0;title\\x07\\n" + "full " * 1000)
            time.sleep(1.5)
            for unit in units:
                yield UnitEvent(unit, UnitState.ENDED, Outcome(Cause.DONE))

        def cancel(self):
            pass

    class Chatty(Backend):
        name = "chatty"
        interface_version = 1

        def open(self, run):
            return Executor()
"""


@pytest.mark.parametrize("columns", [60, 200])
def test_a_reason_gives_the_terminal_no_orders_and_keeps_to_a_line(tmp_path: Path, columns: int) -> None:
    install(tmp_path / "site", "chatty", {"chatty": "chatty:Chatty"}, chatty=CHATTY)
    given = (*files(tmp_path), "--backend", "chatty")
    with Terminal(*given, cwd=tmp_path, columns=columns, PYTHONPATH=tmp_path / "site") as terminal:
        assert terminal.end() == 0
    assert b"\x1b]" not in terminal.raw
    shown = set(re.findall(r"^waiting: .*full.*$", terminal.text, re.MULTILINE))
    assert len(shown) == 1
    assert len(shown.pop()) <= columns
    result = cli(*given[:-3], "again", *given[-2:], cwd=tmp_path, PYTHONPATH=tmp_path / "site")
    (line,) = [each for each in result.err.splitlines() if "full" in each]
    assert line.isprintable()
    assert len(line) < 200
