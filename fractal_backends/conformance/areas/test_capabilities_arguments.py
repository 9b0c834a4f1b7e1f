"""Capabilities: another folder, another user, an account."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..expectations import Subject, must, must_equal, not_judged, requirement
from ..subject import read_json
from ..traces import Gate
from ..workflows import TASK_PROGRAM, Json, Steps, image, parallel, updates, url

_GIVE = 'the suite knows no {}: give one with --options FILE, {{"arguments": {{"{}": …}}}}'


@requirement("CAP-005")
def test_remote_folder(subject: Subject) -> None:
    """Runs two tasks with a `workflow_dir_remote`; looks into both folders while the second one runs."""
    local, remote = subject.folder / "local", subject.folder / "remote"
    described, gate = subject.folder / "described", Gate(subject)
    output = {"image_list_updates": [{"zarr_url": url("a"), "attributes": {"seen": True}}]}
    do: Steps = [["print_out", "said by the unit\n"], ["describe", str(described)], ["output", output]]
    tasks = [parallel(do, task={"name": "First Task"}), parallel(gate.steps("the second task"))]
    run = subject.start(tasks, ["a"], folder=local, workflow_dir_remote=remote)
    gate.must_come("the second task")
    stem = "0_first_task/0_par_0000000"
    arguments = ["--args-json", f"{remote}/{stem}.args.json", "--out-json", f"{remote}/{stem}.metadiff.json"]
    must_equal(read_json(described)["argv"][-4:], arguments, "what the unit was called with")
    expected = {"zarr_url": url("a"), "do": do}
    must_equal(read_json(local / f"{stem}.args.json"), expected, f"{stem}.args.json in workflow_dir_local")
    must_equal(read_json(local / f"{stem}.metadiff.json"), output, "the output in workflow_dir_local")
    must_equal(_text(local / f"{stem}.log"), "said by the unit\n", "the log in workflow_dir_local")
    gate.let("the second task")
    run.wait().must_succeed()
    must_equal(run.wait().images, [image("a", seen=True)], "the images")


@requirement("CAP-005")
def test_failures_in_a_remote_folder(subject: Subject) -> None:
    """Runs, with a `workflow_dir_remote`, a unit that fails and one that succeeds."""
    do: Json = {"a": [["print_err", "the reason"], ["exit_with", 3]], "b": [updates({"zarr_url": "new"})]}
    remote = subject.folder / "remote"
    ended = subject.run([parallel(do)], ["a", "b"], folder="local", workflow_dir_remote=remote)
    ended.failure.must_be("TaskExecutionError", "the reason")
    log = _text(ended.folder / "0_task/0_par_0000000.log")
    must_equal(log, "the reason", "the failed unit's log in workflow_dir_local")
    must_equal(ended.images, [image("a"), image("b"), image("new")], "the images")


def _text(path: Path) -> str:
    must(path.exists(), f"the file {path.name} to be there", f"there is no {path}")
    return path.read_text()


@requirement("CAP-006")
def test_another_user(subject: Subject) -> None:
    """Runs a unit with a `slurm_user`, in folders that anybody may enter; it makes files there."""
    user = subject.arguments.get("slurm_user")
    if user is None:
        not_judged(_GIVE.format("other user", "slurm_user"))
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        not_judged(f"this machine knows no user {user}")
    if uid == os.getuid():
        not_judged(f"{user} is the user that the suite runs as")
    with _open_folder() as place:
        made, described = place / "made", place / "described"
        do = [["touch", str(made)], ["describe", str(described)], updates({"zarr_url": "new"})]
        remote: Json = {"workflow_dir_remote": place / "remote"} if _has(subject, "remote_dir") else {}
        task = parallel(do, task={"command_parallel": _open_command(place)})
        ended = subject.run([task], ["a"], folder=place / "local", slurm_user=user, **remote)
        ended.must_succeed()
        must_equal(read_json(described)["user"], uid, f"the id of the user that the unit ran as ({user})")
        must_equal(made.stat().st_uid, uid, f"the owner of a file that the unit made ({user})")
        must_equal(ended.images, [image("a"), image("new")], "the images")


@contextmanager
def _open_folder() -> Iterator[Path]:
    """A folder that anybody may enter and write to, as the folders of tests are not."""
    place = Path(tempfile.mkdtemp(prefix="fractal-check-"))
    place.chmod(0o1777)
    try:
        if not _is_open(place):
            not_judged(f"other users may not enter {place}; set TMPDIR to a folder that they may enter")
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _open_command(place: Path) -> str:
    """The task's command in a form that anybody may call."""
    program = place / "task.py"
    program.write_bytes(TASK_PROGRAM.read_bytes())
    program.chmod(0o644)
    pythons = [Path(sys.executable), Path("/usr/bin/python3")]
    python = next((python for python in pythons if _is_open(python) and python.exists()), None)
    if python is None:
        not_judged(f"other users may not call {sys.executable}, and there is no /usr/bin/python3")
    return shlex.join([str(python), "-I", "-S", str(program)])


def _is_open(path: Path) -> bool:
    """Whether anybody may enter all folders above a path."""
    folders = {*path.parents, *path.resolve().parents}
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


def _has(subject: Subject, capability: str) -> bool:
    return capability in subject.declared.capabilities


@requirement("CAP-007")
def test_account(subject: Subject) -> None:
    """Runs a unit with a `slurm_account` and looks at its environment."""
    account = subject.arguments.get("slurm_account")
    if account is None:
        not_judged(_GIVE.format("account", "slurm_account"))
    described = subject.folder / "described"
    ended = subject.run([parallel([["describe", str(described)]])], ["a"], slurm_account=account)
    ended.must_succeed()
    environment: Json = read_json(described)["environment"]
    found = {name: value for name, value in environment.items() if name.endswith("ACCOUNT")}
    must(account in found.values(), f"a variable whose name ends in ACCOUNT to be {account!r}", found)
