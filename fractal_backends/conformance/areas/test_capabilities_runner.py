"""Capabilities: what becomes of units when the process that runs the workflow is killed."""

from __future__ import annotations

from collections.abc import Callable

from ..expectations import Run, Subject, must, must_equal, not_judged, requirement
from ..traces import Gate
from ..workflows import Json, in_part, parallel

_GRACE_S = 10


@requirement("CAP-010")
def test_readopt(subject: Subject) -> None:
    """Kills the runner of two units; one of them ends; both are given to an executor of another runner."""
    if not subject.declared.takes_units:
        not_judged("the backend has no executors that units could be given to")
    trace, over, gate = subject.folder / "trace", subject.folder / "over", Gate(subject)
    first = subject.new_runner()
    do: Json = {
        "a": [["append", str(trace), "a"], *gate.steps("a"), ["touch", str(over)], ["exit_with", 3]],
        "b": [["append", str(trace), "b"], *gate.steps("b")],
    }
    run = subject.start([parallel(do)], ["a", "b"], runner=first, observe=True, **subject.room_for(2))
    gate.must_come("a", "b")
    units = _with_handles(subject, run)
    first.kill()
    gate.let("a")
    subject.eventually(over.exists, "a unit to go on although its runner was killed")
    adopted = subject.adopt(units, run.folder, subject.new_runner())
    subject.eventually(
        lambda: _ends(adopted) != {} or adopted.is_over, "to be told of the end of the unit that had ended"
    )
    gate.let("b")
    ended = adopted.wait()
    must(ended.succeeded, "the executor to say how the units ended", ended.summary)
    must_equal(sorted(trace.read_text().split()), ["a", "b"], "what units wrote down when they started")
    expected = {"0_par_0000000": ["task error", 3], "0_par_0000001": ["done", 0]}
    must_equal(_ends(adopted), expected, "the causes and exit codes")


def _with_handles(subject: Subject, run: Run) -> list[Json]:
    """The run's units with the handles of their starts."""

    def known() -> list[Json]:
        units = {
            event["label"]: {**event["unit"], "handle": event["handle"]}
            for event in run.events
            if event["handle"]
        }
        return [units[label] for label in sorted(units)]

    subject.before_the_end(lambda: len(known()) == 2, "events with the handles of both units' starts")
    return known()


def _ends(run: Run) -> Json:
    ended = [event for event in run.events if event["state"] == "ended"]
    return {event["label"]: [event["cause"], event["exit_code"]] for event in ended}


@requirement("CAP-011")
def test_ends_with_runner(subject: Subject) -> None:
    """Kills the runner of a unit that has a daemon, and of one that ignores SIGTERM."""
    do: Json = {"a": [["double_fork", str(subject.folder / "daemon")]], "b": [["ignore_term"]]}
    _must_end(subject, do, lambda steps: [parallel(steps)])


@requirement("CAP-011")
def test_single_units_end_with_runner(subject: Subject) -> None:
    """Kills the runner of two runs: of a non-parallel task's unit, and of an init."""
    _must_end(
        subject,
        {"init": [], "non_parallel": []},
        lambda steps: [in_part(part, steps[part]) for part in ("init", "non_parallel")],
    )


def _must_end(subject: Subject, do: Json, tasks: Callable[[Json], list[Json]]) -> None:
    """Kill the runner of units that wait, each task a run of its own."""
    runner, gate = subject.new_runner(), Gate(subject)
    locks = {name: subject.folder / f"{name}-lock" for name in do}
    steps = {name: [["alive", str(locks[name])], *do[name], *gate.steps(name)] for name in do}
    for task in tasks(steps):
        subject.start([task], ["a", "b"], runner=runner, **subject.room_for(2))
    gate.must_come(*do)
    runner.kill()
    for lock in locks.values():
        subject.must_be_dead(lock, f"{_GRACE_S} s after its runner was killed", _GRACE_S)
