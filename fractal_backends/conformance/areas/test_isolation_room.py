"""Isolation: what runs at the same time are given, and what runs one after the other use up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ...interface import Support
from ..expectations import Subject, must, must_equal, not_judged, requirement
from ..subject import read_json
from ..traces import Gate
from ..workflows import Json, compound, non_parallel, parallel

_KINDS = ("a non-parallel unit", "a parallel unit", "an init", "a compute unit")
_SAME_OBJECT, _TWO_OBJECTS = ("shared", "shared"), ("one", "two")


@requirement("ISO-008")
@pytest.mark.parametrize("objects", [_SAME_OBJECT, _TWO_OBJECTS], ids=["one object", "two objects"])
def test_arguments(subject: Subject, objects: tuple[str, str]) -> None:
    """Runs tasks of three types in two runs, whose units meet, with other values of the arguments that are
    honoured; units write down what they find."""
    given = {run: _arguments(subject, run) for run in ("one", "two")}
    if not given["one"]:
        not_judged("the backend honours no argument of which the suite knows two values")
    usual = _accounts(_found_alone(subject)) if "slurm_account" in given["two"] else {}
    runs = {}
    for (name, arguments), on in zip(given.items(), objects, strict=True):
        request = {"object": on, "what": f"with {arguments}", **subject.room_for(2), **arguments}
        runs[name] = subject.start(_describing(subject, name), ["a"], **request)
    for name, arguments in given.items():
        runs[name].wait().must_succeed()
        for kind in _KINDS:
            unit, what = read_json(subject.folder / name / kind), f"{kind} of {runs[name].name}"
            _must_have(unit, arguments, what)
            if name == "two" and "slurm_account" in arguments:
                must_equal(_accounts(unit), usual, f"the account of {what}, which was given none,")


def _arguments(subject: Subject, run: str) -> Json:
    """A value for each argument that is honoured; the suite knows one account, which the first run has."""
    account = subject.arguments.get("slurm_account")
    values: Json = {
        "workflow_dir_remote": str(subject.folder / f"remote-{run}"),
        "user_cache_dir": f"{subject.arguments.get('user_cache_dir', subject.folder / 'cache')}-{run}",
        "worker_init": f"export CONFORMANCE_RUN={run}",
        **({"slurm_account": account if run == "one" else None} if account else {}),
    }
    honoured = {name for name, what in subject.declared.arguments.items() if what == Support.HONOURED}
    return {name: value for name, value in values.items() if name in honoured}


def _describing(subject: Subject, run: str) -> list[Json]:
    """Tasks whose units meet those of the other run, and then write down what they find."""
    (subject.folder / run).mkdir()
    steps: list[list[list[Any]]] = []
    for number, kind in enumerate(_KINDS):
        meeting = subject.folder / f"meeting-{number}"
        meeting.mkdir(exist_ok=True)
        steps.append([["gather", str(meeting), 2], ["describe", str(subject.folder / run / kind)]])
    one, each, init, compute = steps
    return [non_parallel(one), parallel(each), compound(["a"], compute, init)]


def _found_alone(subject: Subject) -> Json:
    """What a unit finds in a run without arguments."""
    place = subject.folder / "alone"
    subject.run([parallel([["describe", str(place)]])], ["a"], what="without arguments").must_succeed()
    found: Json = read_json(place)
    return found


def _accounts(unit: Json) -> Json:
    """What a unit is told of accounts."""
    return {name: value for name, value in unit["environment"].items() if name.endswith("ACCOUNT")}


def _must_have(unit: Json, arguments: Json, kind: str) -> None:
    """A unit has to have the cache folder, the initial lines and the files of its own run."""
    environment = unit["environment"]
    if "user_cache_dir" in arguments:
        expected = arguments["user_cache_dir"]
        must_equal(environment.get("FRACTAL_CACHE_DIR"), expected, f"FRACTAL_CACHE_DIR of {kind}")
    if "worker_init" in arguments:
        expected = arguments["worker_init"].partition("=")[2]
        must_equal(environment.get("CONFORMANCE_RUN"), expected, f"what worker_init exports, for {kind},")
    if arguments.get("slurm_account"):
        expected = arguments["slurm_account"]
        must(
            expected in _accounts(unit).values(), f"{kind} to have the account {expected!r}", _accounts(unit)
        )
    if "workflow_dir_remote" in arguments:
        remote = Path(arguments["workflow_dir_remote"])
        args_file = Path(unit["argv"][-3])
        must(remote in args_file.parents, f"the files of {kind} to be in {remote}", str(args_file))


_MANY = 24
"""More units than most have room for."""
_STEADY_S = 0.4
_ROUNDS = 2
_LIMIT = 3


@requirement("ISO-009")
@pytest.mark.parametrize("limit", [None, _LIMIT], ids=["no limit", "a limit"])
def test_room(subject: Subject, limit: int | None) -> None:
    """Counts how many units run at once; twice lets twice as many fail, and a run of as many be cancelled,
    on one backend object, and counts again."""
    room = subject.room_for(limit) if limit else {}
    if limit and not room:
        not_judged("the capability concurrency_limit is not declared")
    room = {**room, "object": "shared"}
    units = _count_and_cancel(subject, "at first", limit or 0, room)
    names = [f"image-{i}" for i in range(2 * units)]
    failing = {name: [["exit_with", 3] if i % 2 else ["kill_self", 9]] for i, name in enumerate(names)}
    for _ in range(_ROUNDS):
        subject.run([parallel(failing)], names, what="units fail", **room).must_fail()
        _count_and_cancel(subject, "after failures and cancels, as at first,", units, room)


def _count_and_cancel(subject: Subject, when: str, expected: int, room: Json) -> int:
    """How many units of a run wait at the same time: as many as expected, if that is known."""
    gate = Gate(subject, f"gate-{len(subject.runs)}")
    names = [f"image-{i}" for i in range(max(2 * expected, _MANY))]
    do = {name: gate.steps(name) for name in names}
    run = subject.start([parallel(do)], names, what=f"units wait, {when} and are cancelled", **room)
    units = expected or _steady(subject, gate)
    gate.must_hold_at_least(units, when)
    run.cancel()
    run.wait().failure.must_be("CancelledError")
    return units


def _steady(subject: Subject, gate: Gate) -> int:
    """How many units wait at the gate once no more come."""
    subject.before_the_end(lambda: bool(gate.waiting()), "a unit to run")
    count, since = 0, time.monotonic()
    while time.monotonic() < since + _STEADY_S:
        if len(gate.waiting()) != count:
            count, since = len(gate.waiting()), time.monotonic()
        time.sleep(0.01)
    return count
