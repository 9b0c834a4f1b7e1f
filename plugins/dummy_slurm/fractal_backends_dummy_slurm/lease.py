"""A controller for as long as somebody needs it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from .cluster import START, client
from .cluster.config import ClusterConfig, ConfigError, parse, read

COMMANDS = ("sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo", "srun", "dummyctl")
FOLDER_VARIABLE = "DUMMY_SLURM_DIR"
CONFIG_VARIABLE = "DUMMY_SLURM_CONFIG"
_START_DEADLINE_S = 30.0
_RETRY_S = 0.01
_MOST_STARTS = 3
_PAUSE_S = 1.0
_HERE = Path(__file__).parent


class DummySlurmError(Exception):
    """The controller does not start; the message says why."""


def default_folder() -> Path:
    """Where this user's cluster is, unless a variable says otherwise."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else _unnamed_folder()


def _unnamed_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"fractal-dummy-slurm-{os.geteuid()}"


def _must_be_ours(folder: Path) -> None:
    """A folder that nobody named is where others may make one, with commands that we would run.
    Raises DummySlurmError."""
    if os.environ.get(FOLDER_VARIABLE) or folder != _unnamed_folder():
        return
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(folder)
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if not ours:
            raise DummySlurmError(
                f"{folder} is no folder of yours that only you can write; another user may have made it."
                f" Let {FOLDER_VARIABLE} name a folder of your own."
            )


def has_recorded_users(folder: Path) -> bool:
    """Whether other users are only names to the cluster in this folder, or to the one that would be started
    there: it is the caller's own, who is not root and cannot become them."""
    owner = os.geteuid()
    with contextlib.suppress(OSError):
        owner = folder.stat().st_uid
    return owner == os.geteuid() != 0


def configuration() -> dict[str, Any]:
    """What the file that a variable names has; without one, nothing. Raises ConfigError."""
    path = os.environ.get(CONFIG_VARIABLE)
    return read(path) if path else {}


def ensure_running(
    folder: Path, config: Mapping[str, Any] | None = None, *, keep: bool = False
) -> socket.socket:
    """Connect to the controller of a folder; start one if there is none. `keep`: its log and journal stay.

    `config` counts for a controller that is started. Raises DummySlurmError, ConfigError.
    """
    folder = Path(os.path.abspath(folder))
    values = dict(config or {})
    parse(values)
    starts = 0
    deadline = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < deadline:
        _must_be_ours(folder)
        with contextlib.suppress(OSError):
            return client.connect(str(folder / "controller"))
        lock = _take_lock(folder)
        if lock is not None:
            try:
                if starts == _MOST_STARTS:
                    raise DummySlurmError(_why_it_ends(folder))
                starts += 1
                _start(folder, values, lock, keep)
            except (OSError, ConfigError) as error:
                why = str(error).rstrip(".")
                raise DummySlurmError(f"The controller in {folder} cannot be started: {why}.") from error
            finally:
                os.close(lock)
        time.sleep(_RETRY_S)
    raise DummySlurmError(f"The controller in {folder} does not answer; see {folder / 'log'}.")


def _why_it_ends(folder: Path) -> str:
    lines = [""]
    with contextlib.suppress(OSError):
        lines += (folder / "log").read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
    return f"The controller in {folder} ends as soon as it is started: {last}. See {folder / 'log'}."


def _take_lock(folder: Path) -> int | None:
    """The right to start a controller, which has the lock while it lives."""
    shared = os.geteuid() == 0
    _make_folder(folder, 0o711 if shared else 0o700)
    _must_be_ours(folder)
    mark = folder / "controller.lock"
    try:
        if os.stat(folder).st_uid != os.geteuid():
            raise DummySlurmError(f"{folder} belongs to another user.")
        if (names := os.listdir(folder)) and mark.name not in names:
            raise DummySlurmError(f"{folder} holds files of others; name a folder that is new or empty.")
        lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # a controller that ends removes the folder
        return None
    except NotADirectoryError as error:
        raise DummySlurmError(f"{folder} is no folder; {FOLDER_VARIABLE} has to name one.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(mark)):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _make_folder(folder: Path, mode: int) -> None:
    """If it is not there; whatever the umask. Raises DummySlurmError."""
    try:
        folder.mkdir(0o700, parents=True)
        with contextlib.suppress(FileNotFoundError):  # a controller that ends removes it
            folder.chmod(mode)
    except FileExistsError:
        pass
    except OSError as error:
        raise DummySlurmError(f"{folder} cannot be made: {error.strerror}.") from error


def _start(folder: Path, values: dict[str, Any], lock: int, keep: bool) -> None:
    config = _configure(folder, values)
    if keep or config.keep:
        (folder / "keep").touch()
    _install_commands(folder, config)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    with open(folder / "log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DETACH, str(_HERE), str(folder), str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            env=env,
            cwd="/",
            umask=0o022,
            start_new_session=True,
        ).wait()  # its child goes on


def _configure(folder: Path, values: dict[str, Any]) -> ClusterConfig:
    """By these settings, but for a cluster that was there: its jobs are on its own nodes."""
    file = folder / "config.json"
    if file.exists() and (not values or (folder / "journal").exists()):
        return parse(read(str(file)))
    new = folder / "config.json.new"
    new.write_text(json.dumps(values))
    new.rename(file)
    return parse(values)


_DETACH = f"import os\nif os.fork(): os._exit(0)\n{START}"


def _install_commands(folder: Path, config: ClusterConfig) -> None:
    """Small programs, in one folder, that know where their controller is."""
    target = folder / "bin"
    _make_folder(target, 0o755)
    shutil.copyfile(client.__file__, target / ".client.py")
    os.chmod(target / ".client.py", 0o644)
    python = _python(config.is_shared)
    for name in COMMANDS:
        words = [python, "-I", "-S", str(target / ".client.py"), str(folder), f"{config.contact_s:g}", name]
        quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
        file = target / f".{name}.new"
        file.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
        file.chmod(0o755)
        file.rename(target / name)


def _python(shared: bool) -> str:
    """This Python, or, if others use the commands too and cannot reach it, the system's."""
    system = "/usr/bin/python3"
    path = Path(sys.executable).resolve()
    reachable = all(os.stat(parent).st_mode & 0o001 for parent in [path, *path.parents])
    return system if shared and not reachable and os.path.exists(system) else sys.executable


class Lease:
    """A controller that stays up, and is started again should it be killed, until `release`."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, *, keep: bool = False) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._config = config
        self._keep = keep
        self._leaving = threading.Event()
        self._end = self._take()
        self._thread = threading.Thread(target=self._hold, name="dummy-slurm-lease", daemon=True)
        self._thread.start()

    @property
    def commands(self) -> Path:
        """The folder of sbatch and the others."""
        return self.folder / "bin"

    def settings(self) -> Any:
        """Those that the controller was started with."""
        return json.loads((self.folder / "config.json").read_text())

    def _take(self) -> socket.socket:
        deadline = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < deadline:
            end = ensure_running(self.folder, self._config, keep=self._keep)
            try:
                end.sendall(client.pack([b"lease"]))
                client.receive(end)
                return end
            except OSError:  # it was about to end
                end.close()
        raise DummySlurmError(f"The controller in {self.folder} ends again and again; see its log.")

    def _hold(self) -> None:
        while True:
            try:
                while self._end.recv(1 << 10):
                    if self._leaving.is_set():
                        return
            except OSError:
                pass
            if self._leaving.is_set():
                return
            self._end.close()
            try:
                self._end = self._take()
            except DummySlurmError:
                self._leaving.wait(_PAUSE_S)  # such as a disk that is full now
            if self._leaving.is_set():  # and was told so to the one before
                self._leave()

    def release(self) -> None:
        """If this was the last one and no job is left, the controller is gone when this returns."""
        if self._leaving.is_set():
            return
        self._leaving.set()
        self._leave()
        self._thread.join()
        self._end.close()

    def _leave(self) -> None:
        with contextlib.suppress(OSError):
            self._end.sendall(client.pack([b"leave"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
