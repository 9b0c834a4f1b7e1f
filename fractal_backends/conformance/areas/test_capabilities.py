"""Capabilities: what is declared, ignored and refused."""

from __future__ import annotations

import json

import pytest

from ...interface import OPTIONAL_ARGUMENTS, Support
from ..expectations import Subject, must, must_equal, not_judged, requirement
from ..requirements import capabilities
from ..subject import read_json
from ..workflows import Json, parallel, updates

_VALUES: Json = {
    "user_cache_dir": "/conformance/cache",
    "slurm_user": "conformance-user",
    "slurm_account": "conformance-account",
    "worker_init": "export CONFORMANCE_INIT=conformance-init",
}
_OPTIONS: Json = {"concurrency_limit": 2, "memory_limit": "1G", "time_limit": "00:10:00"}


@requirement("CAP-001")
def test_arguments(subject: Subject) -> None:
    """Reads `arguments` of the backend's class."""
    valid = [str(support) for support in Support]
    for argument in OPTIONAL_ARGUMENTS:
        declared = subject.declared.arguments.get(argument, "nothing")
        must(declared in valid, f"`arguments` to say of {argument} one of {', '.join(valid)}", declared)


@requirement("CAP-001")
def test_capabilities(subject: Subject) -> None:
    """Reads `capabilities` of the backend's class."""
    declared, known = subject.declared, capabilities()
    unknown = ", ".join(sorted(declared.own_capabilities - set(known)))
    must(not unknown, f"`capabilities` to name only {', '.join(known)}", unknown)
    for name in declared.own_capabilities:
        argument = known[name].argument
        if argument and declared.arguments.get(argument) != Support.HONOURED:
            must(
                False,
                f"{argument} to be honoured by a backend with the capability {name}",
                f"`arguments` says: {declared.arguments.get(argument)}",
            )


@requirement("CAP-001")
def test_options_of_capabilities(subject: Subject) -> None:
    """Looks among the backend's options for those with which users ask for its capabilities."""
    declared = subject.declared
    for name, known in capabilities().items():
        if known.option and name in declared.capabilities and declared.option_names is not None:
            (option,) = declared.asking_for(name, None)
            must(
                option in declared.option_names,
                f"the capability {name} to have an option, {option!r}",
                f"the options are {', '.join(declared.option_names) or 'none'}",
            )


@requirement("CAP-002")
def test_ignored(subject: Subject) -> None:
    """Runs a unit twice: with all arguments that are declared as ignored, and with none of them."""
    ignored = _given(subject, Support.IGNORED)
    if not ignored:
        not_judged("the backend ignores no argument")
    without = _seen(subject, "without")
    seen = _seen(subject, "with", **ignored)
    must_equal(seen["result"], without["result"], "the result")
    must_equal(seen["command"], without["command"], "the unit's command line")
    for argument, value in ignored.items():
        found = {name: text for name, text in seen["environment"].items() if value in text}
        must(not found, f"the unit's environment to hold nothing of {argument}={value!r}", found)
    names = sorted(without["environment"])
    must_equal(sorted(seen["environment"]), names, "the names in the unit's environment")
    remote = subject.folder / "remote"
    must(
        "workflow_dir_remote" not in ignored or not remote.exists(),
        "no folder workflow_dir_remote",
        "it was made",
    )


def _given(subject: Subject, support: Support) -> Json:
    """A value for each of the arguments that are declared like this."""
    values = {"workflow_dir_remote": str(subject.folder / "remote"), **_VALUES}
    return {name: value for name, value in values.items() if subject.declared.arguments.get(name) == support}


def _seen(subject: Subject, folder: str, **arguments: str) -> Json:
    """What a unit and its caller see; the run's folder is called RUN in it."""
    described = subject.folder / f"{folder}.json"
    task = parallel([["describe", str(described)], updates({"zarr_url": "new", "origin": "a"})])
    what = f"with {arguments}" if arguments else "with none of them"
    ended = subject.run([task], ["a"], folder=folder, what=what, **arguments)
    result, unit = ended.result, read_json(described)
    seen = {"result": result, "command": unit["argv"], "environment": unit["environment"]}
    found: Json = json.loads(json.dumps(seen).replace(str(subject.folder / folder), "RUN"))
    return found


@requirement("CAP-003")
def test_refused(subject: Subject) -> None:
    """Gives each argument that is declared as refused a value, one at a time."""
    refused = _given(subject, Support.REFUSED)
    if not refused:
        not_judged("the backend refuses no argument")
    for argument, value in refused.items():
        ran = subject.folder / argument
        task = parallel([["touch", str(ran)]])
        ended = subject.run([task], ["a"], what=f"{argument}={value}", **{argument: value})
        failure = ended.failure.must_be("NotImplementedError")
        must(not ran.exists(), "no unit to start", "one started")
        must(
            argument in failure.message or "support" in failure.message,
            f"a message that names {argument}, or says what is not supported",
            failure.message,
        )


@requirement("CAP-003")
def test_defaults_are_not_refused(subject: Subject) -> None:
    """Gives arguments that are declared as refused their defaults; workflow_dir_remote the local folder."""
    refused = _given(subject, Support.REFUSED)
    if not refused:
        not_judged("the backend refuses no argument")
    defaults: Json = dict.fromkeys(refused)
    if "workflow_dir_remote" in refused:
        defaults["workflow_dir_remote"] = str(subject.folder / "run-1")
    subject.run([parallel()], ["a"], folder="run-1", **defaults).must_succeed()


@requirement("CAP-004")
@pytest.mark.parametrize("capability", _OPTIONS)
def test_undeclared_options(subject: Subject, capability: str) -> None:
    """Asks with an option for a capability that the backend does not declare."""
    if capability in subject.declared.capabilities:
        not_judged(f"{capability} is declared, and need not be refused")
    ran = subject.folder / "ran"
    options = subject.declared.asking_for(capability, _OPTIONS[capability])
    ended = subject.run([parallel([["touch", str(ran)]])], ["a"], options=options, what=f"options: {options}")
    message = ended.failure.message
    must(not ran.exists(), "no unit to start", "one started")
    if subject.declared.option_names is not None:
        (option,) = options
        must(option in message, f"an error that names the option {option!r}", message)


@requirement("CAP-004")
def test_undeclared_readopt(subject: Subject) -> None:
    """Runs a unit, and gives it with the handle of its start to a new executor of the backend."""
    if "readopt" in subject.declared.capabilities:
        not_judged("readopt is declared, and need not be refused")
    if not subject.declared.takes_units:
        not_judged("the backend has no executors that units could be given to")
    trace = subject.folder / "trace"
    run = subject.start([parallel([["append", str(trace), "ran"]])], ["a"], observe=True)
    run.wait().must_succeed()
    handles = [event["handle"] for event in run.events if event["handle"]] or ["4711"]
    unit = {**run.events[0]["unit"], "handle": handles[-1]}
    adopted = subject.adopt([unit], run.folder)
    ended = adopted.wait()
    must_equal(trace.read_text().split(), ["ran"], "what the unit wrote down when it was started")
    causes = [event["cause"] for event in adopted.events if event["state"] == "ended"]
    must(
        not ended.succeeded or (len(causes) == 1 and causes[0] != "done"),
        "the unit to be refused: to end once, and not as done, or the executor to raise an error",
        f"ends: {causes}",
    )
