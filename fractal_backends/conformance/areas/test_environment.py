"""Environment: what a unit finds when it starts."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from ...interface import Support
from .. import processes
from ..expectations import Subject, must, must_contain, must_equal, not_judged, requirement
from ..subject import read_json
from ..workflows import Json, compound, non_parallel, parallel

_KINDS = ("a non-parallel unit", "a parallel unit", "an init", "a compute unit")


def _tasks(step: str, folder: Path) -> list[Json]:
    """Tasks of three types, of which a unit of each kind takes a step, with a path of its own."""
    one, each, init, compute = ([[step, str(folder / kind)]] for kind in _KINDS)
    return [non_parallel(one), parallel(each), compound(["a"], compute, init)]


def _found(subject: Subject, **arguments: Any) -> dict[str, Json]:
    """What a unit of each kind finds around it, by kind."""
    folder = subject.folder / f"found-{len(subject.runs)}"
    folder.mkdir()
    subject.run(_tasks("describe", folder), ["a"], **arguments).must_succeed()
    return {kind: read_json(folder / kind) for kind in _KINDS}


def _cache_dir(subject: Subject) -> str:
    folder = subject.folder / "the user's cache é"
    folder.mkdir(exist_ok=True)
    return str(subject.arguments.get("user_cache_dir", folder))


@requirement("ENV-001")
def test_cache_dir(subject: Subject) -> None:
    """Runs tasks of three types with a cache folder; units write down their environment."""
    given = _cache_dir(subject)
    for kind, found in _found(subject, user_cache_dir=given).items():
        must_equal(
            found["environment"].get("FRACTAL_CACHE_DIR"),
            given,
            f"FRACTAL_CACHE_DIR in the environment of {kind}",
        )


_INIT_LINES = """\
# what a site asks of its users
export CONFORMANCE_ONE='two  words'
CONFORMANCE_OWN="not exported"; export CONFORMANCE_TWO="$CONFORMANCE_ONE, and \\"more\\""
if true
then export CONFORMANCE_THREE=`echo é`
fi
"""
_EXPORTED = {
    "CONFORMANCE_ONE": "two  words",
    "CONFORMANCE_TWO": 'two  words, and "more"',
    "CONFORMANCE_THREE": "é",
}


@requirement("ENV-002")
def test_worker_init(subject: Subject) -> None:
    """Runs tasks of three types with lines of shell that export variables; then another run, without them."""
    for kind, found in _found(subject, worker_init=_INIT_LINES).items():
        exported = {name: found["environment"].get(name) for name in _EXPORTED}
        must_equal(exported, _EXPORTED, f"what the lines export, in the environment of {kind},")
    place = subject.folder / "without"
    subject.run([parallel([["describe", str(place)]])], ["a"], worker_init=None).must_succeed()
    left = {name: value for name, value in read_json(place)["environment"].items() if name in _EXPORTED}
    must_equal(left, {}, "what the lines of an earlier run leave in the environment of a unit")


@requirement("ENV-003")
def test_working_folder(subject: Subject) -> None:
    """Runs tasks of three types; units ask for their working folder and list it."""
    for kind, found in _found(subject).items():
        folder = Path(found["folder"])
        if found["machine"] == processes.machine():
            must(folder.is_dir(), f"the working folder of {kind} to be there", f"there is no {folder}")


_VARIABLES = {
    "CONFORMANCE_SPACES": "  two  words ",
    "CONFORMANCE_QUOTES": 'it\'s "quoted" `id` $HOME \\ ; & | # %s',
    "CONFORMANCE_LINES": "first\nsecond=2\n\nlast\n",
    "CONFORMANCE_EQUALS": "a=b=c",
    "CONFORMANCE_LETTERS": "é 漢字 😀",
    "CONFORMANCE_EMPTY": "",
    "conformance_small": "as in http_proxy",
}
_SEARCHED = "/conformance/programs"


@requirement("ENV-004")
def test_the_runners_environment(subject: Subject) -> None:
    """Runs tasks of three types, with a cache folder, in a process with odd variables; units note theirs."""
    refused = subject.declared.arguments.get("user_cache_dir") == Support.REFUSED
    arguments = {} if refused else {"user_cache_dir": _cache_dir(subject)}
    home = subject.folder / "home"
    home.mkdir()
    variables = {**_VARIABLES, "HOME": str(home)}
    runner = subject.new_runner(env={**variables, "PATH": f"{os.environ['PATH']}:{_SEARCHED}"})
    for kind, found in _found(subject, runner=runner, **arguments).items():
        environment = found["environment"]
        got = {name: environment.get(name) for name in variables}
        must_equal(got, variables, f"the runner's variables in the environment of {kind}")
        must_contain(environment.get("PATH", ""), _SEARCHED, f"the PATH of {kind}")


@requirement("ENV-005")
def test_standard_input(subject: Subject) -> None:
    """Runs tasks of three types in a process with something in its standard input; units read theirs."""
    read, write = os.pipe()
    try:
        os.write(write, b"typed where the server runs\n" * 100)
        for kind, found in _found(subject, runner=subject.new_runner(stdin=read)).items():
            must(
                not found["stdin"],
                f"{kind} to find its standard input at its end",
                f"it read {found['stdin']!r}",
            )
    finally:
        os.close(read)
        os.close(write)


@requirement("ENV-006")
def test_descriptors(subject: Subject) -> None:
    """Runs tasks of three types, and three units at once; units list what they have open."""
    places = {name: subject.folder / f"found-by-{name}" for name in "abc"}
    task = parallel({name: [["describe", str(place)]] for name, place in places.items()})
    subject.run([task], list(places)).must_succeed()
    found = {f"the unit for image {name}": read_json(place) for name, place in places.items()}
    found.update(_found(subject))
    for kind, report in found.items():
        opened = {int(n): target for n, target in report["descriptors"].items()}
        stray = [
            f"{number}: {target}"
            for number, target in opened.items()
            if number > 2 and _is_ours(subject, target)
        ]
        must(not stray, f"{kind} to have nothing of the run open but 0, 1 and 2", "; ".join(stray))


def _is_ours(subject: Subject, target: str) -> bool:
    return target.startswith(("pipe:", "socket:", str(subject.folder)))


_ENDED_BY = {signal.SIGKILL, signal.SIGSTOP}  # whatever a process wants
_ALL = {number for number in signal.Signals if number not in _ENDED_BY}
_IGNORED = {
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE, signal.SIGALRM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGXFSZ),
}
"""Not SIGCHLD: where it is ignored nobody can know how a child ended."""
_SET_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
_SET_BY_SHELLS = {signal.SIGCHLD}


@requirement("ENV-007")
@pytest.mark.parametrize(
    ("ignored", "blocked"), [(_IGNORED, set()), (set(), _ALL)], ids=["ignored", "blocked"]
)
def test_signals(subject: Subject, ignored: set[signal.Signals], blocked: set[signal.Signals]) -> None:
    """Runs tasks of three types, and a shell script, in a process that ignores or blocks most signals; units
    tell what they inherit."""
    runner = subject.new_runner(
        ignored_signals=[number.name for number in ignored],
        blocked_signals=[number.name for number in blocked],
    )
    for kind, found in _found(subject, runner=runner).items():
        _must_be_at_defaults(found["signals"], _SET_BY_PYTHON, kind)
    script, copy = subject.folder / "script", subject.folder / "status"
    script.write_text(f"exec cat /proc/self/status > {shlex.quote(str(copy))}\n")
    task = {"command_parallel": shlex.join(["/bin/sh", str(script)])}
    subject.run([parallel(task=task)], ["a"], runner=runner).must_succeed()
    must(copy.is_file(), "the script to run", "it did not")
    lines = (line.partition(":") for line in copy.read_text().splitlines())
    _must_be_at_defaults({name: value for name, _, value in lines}, _SET_BY_SHELLS, "a shell script")


def _must_be_at_defaults(status: Json, own: set[signal.Signals], kind: str) -> None:
    """No signal may be blocked or ignored, but for those that the unit's own program sets."""
    for mask, what in (("SigBlk", "blocked"), ("SigIgn", "ignored")):
        bits = int(status[mask], 16)
        found = [number.name for number in signal.Signals if bits >> (number - 1) & 1 and number not in own]
        must(not found, f"no signal to be {what} when {kind} starts", f"{what}: {', '.join(found)}")


@requirement("ENV-008")
def test_process_groups(subject: Subject) -> None:
    """Runs two units that write down their process groups."""
    places = {name: subject.folder / f"found-{name}" for name in "ab"}
    subject.run(
        [parallel({name: [["describe", str(place)]] for name, place in places.items()})], list(places)
    ).must_succeed()
    first, second = (read_json(place) for place in places.values())
    runners = os.getpgid(subject.runner.pid)
    here = [unit for unit in (first, second) if unit["machine"] == processes.machine()]
    must(
        runners not in [unit["group"] for unit in here],
        f"the units to be in other process groups than the runner, which is in {runners}",
        f"the groups of the units are {first['group']} and {second['group']}",
    )
    if first["machine"] == second["machine"]:
        must(
            first["group"] != second["group"],
            "each unit to have a process group of its own",
            f"both are in the group {first['group']}",
        )
    elif not here:
        not_judged("the units ran on other machines than the runner, and each on one of its own")


@requirement("ENV-009")
def test_umask(subject: Subject) -> None:
    """Runs tasks of three types in a process with the umask 027; units make a folder with a file in it."""
    runner = subject.new_runner(umask=0o027)
    subject.run(_tasks("record", subject.folder), ["a"], runner=runner).must_succeed()
    for folder in (subject.folder / kind for kind in _KINDS):
        (file,) = folder.iterdir()
        modes = [oct(path.stat().st_mode & 0o777) for path in (folder, file)]
        must_equal(modes, ["0o750", "0o640"], f"the modes of folder and file that {folder.name} made")
