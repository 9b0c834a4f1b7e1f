"""What all labs of a machine share: packages, users, their rights, munge, and who has which number."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .processes import eventually, run
from .settings import Place

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "munge",
    "sudo",
    "slurmdbd",
    "mariadb-server",
    "mawk",
    "gawk",
    "original-awk",
    "busybox",
)
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "sudo")
NEEDED_TO_ACCOUNT = ("slurmdbd", "mariadbd")
RUNNER = "fractal"
"""The user who may submit for the others."""
USERS = ("user1", "user2")
COMMANDS = ("sbatch", "scancel", "tar")
"""What `RUNNER` may run as one of `USERS`: no more than the plugin needs."""

_NUMBERS = Path("/run/slurm-lab")
_SUDOERS = Path("/etc/sudoers.d/slurm-lab")
_MUNGE_KEY = Path("/etc/munge/munge.key")
_DIRECTORIES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")


def program(name: str) -> str | None:
    """The path of a program of the system, also of one that only root has on PATH."""
    return shutil.which(name, path=os.pathsep.join(_DIRECTORIES))


def why_not(accounting: bool = False) -> str | None:
    """Why there can be no lab on this machine, for people to read; None if there can."""
    missing = [
        name for name in (*NEEDED, *(NEEDED_TO_ACCOUNT if accounting else ())) if program(name) is None
    ]
    if missing and program("apt-get"):
        return f"no {', '.join(missing)} here; as root, `python -m slurm_lab install` installs SLURM"
    if missing:
        return f"no {', '.join(missing)} here, and no apt-get to install SLURM with"
    if os.geteuid() != 0:
        return "a SLURM lab takes root"
    return None


def install() -> None:
    """Debian's packages; none of their own services is started."""
    if os.geteuid() != 0:
        raise PermissionError("installing packages takes root")
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", "-qq", env=env)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES, env=env)
    finally:
        if ours:
            policy.unlink()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keeps other processes from changing what is shared."""
    _NUMBERS.mkdir(mode=0o755, exist_ok=True)
    with (_NUMBERS / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare() -> None:
    """Users, their rights, and munge; leaves alone what is there."""
    with one_at_a_time():
        for name in (RUNNER, *USERS):
            if not _is_user(name):
                run("useradd", "-m", "-s", "/bin/bash", name)
        _write_sudoers()
        _start_munge()


def _is_user(name: str) -> bool:
    with suppress(KeyError):
        pwd.getpwnam(name)
        return True
    return False


def sudoers() -> str:
    """What the documentation asks administrators for; `!ALL`: no more than that, whatever else is said.

    Root may do all; its SLURM is the lab's too.
    """
    commands = ", ".join(f"/usr/bin/{name}" for name in COMMANDS)
    return (
        f'Defaults:root,{RUNNER} !requiretty, env_keep += "SLURM_CONF"\n'
        f"{RUNNER} ALL=({','.join(USERS)}) !ALL, NOPASSWD: {commands}\n"
    )


def _write_sudoers() -> None:
    if _SUDOERS.exists() and _SUDOERS.read_text() == sudoers():
        return
    draft = _SUDOERS.with_suffix(".draft")  # sudo ignores names with a dot
    draft.touch(0o440)
    draft.write_text(sudoers())
    run("visudo", "-qcf", str(draft))
    draft.rename(_SUDOERS)


def _munge_answers() -> bool:
    return (
        subprocess.run(["sh", "-c", "munge -n | unmunge"], check=False, capture_output=True).returncode == 0
    )


def _start_munge() -> None:
    if _munge_answers():
        return
    if not (_MUNGE_KEY.exists() and _MUNGE_KEY.stat().st_size):
        run("runuser", "-u", "munge", "--", "/usr/sbin/mungekey")
    shutil.chown(_MUNGE_KEY, "munge", "munge")
    _MUNGE_KEY.chmod(0o600)
    run("install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge")
    # Serves all labs, also the next ones: not to be found among what somebody's test left.
    run("runuser", "-u", "munge", "--", "/usr/sbin/munged", env={"PATH": os.pathsep.join(_DIRECTORIES)})
    eventually(_munge_answers, 10, "munged does not answer")


def take_place(folder: Path) -> Place:
    """A number that no other lab of this machine has, with its ports."""
    with one_at_a_time():
        for number in range(1, 150):
            mark, place = _NUMBERS / str(number), Place(folder, number)
            if mark.is_symlink() and not mark.exists():  # that lab's folder is gone
                mark.unlink()
            if not mark.is_symlink() and all(map(_is_free, place.ports)):
                mark.symlink_to(folder)
                return place
    raise RuntimeError("no number is left for another lab")


def place_of(folder: Path) -> Place | None:
    """The place of a lab that was made before."""
    return next((place for place in places() if place.folder == folder), None)


def places() -> list[Place]:
    """All labs of this machine."""
    marks = [mark for mark in _NUMBERS.glob("[0-9]*") if mark.exists()] if _NUMBERS.is_dir() else []
    return [Place(mark.readlink(), int(mark.name)) for mark in marks]


def give_back(place: Place) -> None:
    """The number may be somebody else's."""
    (_NUMBERS / str(place.number)).unlink(missing_ok=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
