"""Start a job's script, and the programs of its steps."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

_OUTPUT_FAILED = 53
"""The "signal" of a job whose output file cannot be opened."""
_LATE_FD = 250
"""Shells use others for themselves."""
_UMASK = "SLURM_UMASK"
_LOGIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):  # noqa: N818
    """The job cannot start; `number` is what stands in place of a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class Launch:
    """A script that was started."""

    pid: int
    stderr: int
    node: str

    def say(self, line: str) -> None:
        """In the job's stderr."""
        with contextlib.suppress(OSError):
            os.write(self.stderr, os.fsencode(f"slurmstepd-{self.node}: error: {line}\n"))


def umask_of(env: Sequence[str]) -> int:
    """What sbatch or srun handed on."""
    values = [item.partition("=")[2] for item in env if item.startswith(f"{_UMASK}=")]
    return int(values[-1], 8) if values and re.fullmatch("[0-7]{1,4}", values[-1]) else 0o022


@contextmanager
def _as_user(order: dict[str, Any]) -> Iterator[None]:
    """Files are opened as the job's user would."""
    umask = os.umask(umask_of(order["env"]))
    try:
        with _with_ids(order["user"], order["uid"], order["gid"]):
            yield
    finally:
        os.umask(umask)


@contextmanager
def as_owner(uid: int, gid: int) -> Iterator[None]:
    """With the rights of one who owns a file."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    with _with_ids(name, uid, gid):
        yield


@contextmanager
def _with_ids(user: str, uid: int, gid: int) -> Iterator[None]:
    if uid == os.geteuid():
        yield
        return
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user, gid))
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _open_output(order: dict[str, Any]) -> tuple[int, int]:
    how = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if order["append"] else os.O_TRUNC)
    with _as_user(order):
        try:
            out = os.open(order["stdout"], how, 0o666)
            err = out if order["stderr"] == order["stdout"] else os.open(order["stderr"], how, 0o666)
        except OSError:
            raise Failed(_OUTPUT_FAILED) from None
    return out, err


def _copy_script(order: dict[str, Any]) -> None:
    with open(order["copy"], "rb") as file:
        text = file.read()
    with open(order["script"], "wb") as file:
        file.write(text)
    os.chmod(order["script"], 0o700)
    if order["uid"] != os.geteuid():
        os.chown(order["script"], order["uid"], order["gid"])


def _make_receipt_late(order: dict[str, Any]) -> None:
    """A link that leads only those anywhere who inherit the file: the job's processes."""
    fd = os.open(order["late_file"], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    if order["uid"] != os.geteuid():
        os.chown(fd, order["uid"], order["gid"])
    os.dup2(fd, _LATE_FD)
    os.close(fd)
    with contextlib.suppress(OSError), _as_user(order):
        if os.path.exists(order["late_receipt"]):  # of an earlier run of the job
            with open(order["late_receipt"], "rb") as earlier:
                os.write(_LATE_FD, earlier.read())
            os.unlink(order["late_receipt"])
        os.symlink(f"/proc/self/fd/{_LATE_FD}", order["late_receipt"])


def launch_batch(order: dict[str, Any]) -> Launch:
    """Raises Failed."""
    out, err = _open_output(order)
    _copy_script(order)
    if "late_file" in order:
        _make_receipt_late(order)
    null = os.open(os.devnull, os.O_RDONLY)
    argv = [order["script"], *order["words"]]
    env = [item for item in order["env"] if not item.startswith(f"{_UMASK}=")]
    pid = start(order, argv, env, (null, out, err), order["workdir"], umask_of(order["env"]))
    if out != err:
        os.close(out)
    os.close(null)
    return Launch(pid, err, order["node"])


def start(
    order: dict[str, Any],
    argv: list[str],
    env: list[str],
    files: tuple[int, int, int],
    workdir: str,
    umask: int,
) -> int:
    """A process of the job's user, in a session of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.umask(umask)
        _become(order, argv, env, files, workdir)
    finally:
        os._exit(2)


def _become(
    order: dict[str, Any], argv: list[str], env: list[str], files: tuple[int, int, int], workdir: str
) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for place, fd in enumerate([os.dup(fd) for fd in files]):
        os.dup2(fd, place)
    os.closerange(3, 64)
    if order["uid"] != os.geteuid():
        os.initgroups(order["user"], order["gid"])
        os.setgid(order["gid"])
        os.setuid(order["uid"])

    def say(line: str) -> None:
        os.write(2, os.fsencode(f"slurmstepd-{order['node']}: error: {line}\n"))

    try:
        os.chdir(workdir)
    except OSError as error:
        for _ in ("stepd", "script"):  # SLURM tries it once for each
            say(f"couldn't chdir to `{workdir}': {error.strerror}: going to /tmp instead")
        os.chdir("/tmp")  # noqa: S108 - as SLURM does
    variables = dict(item.split("=", 1) for item in env if "=" in item)
    variables |= {"SLURM_TASK_PID": str(os.getpid()), "PWD": os.getcwd()}
    _execute(argv, variables, say)


def _execute(argv: list[str], env: dict[str, str], say: Callable[[str], None]) -> NoReturn:
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606
    except OSError as error:
        if "/" in argv[0] and os.path.exists(argv[0]):
            with contextlib.suppress(OSError), open(argv[0], "rb") as file:
                first = file.readline()[2:].strip().decode(errors="replace")
                say(f"execve(): bad interpreter({first}): {error.strerror}")
        else:
            say(f"execve(): {argv[0]}: {error.strerror}")
    os._exit(2)


def login_env(user: str) -> dict[str, str]:
    """What a job without the submitter's environment starts from."""
    entry = pwd.getpwnam(user)
    return {
        "HOME": entry.pw_dir,
        "LOGNAME": user,
        "USER": user,
        "SHELL": entry.pw_shell or "/bin/sh",
        "PATH": _LOGIN_PATH,
    }
