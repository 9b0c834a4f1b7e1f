"""Where the files of units are: in the run's folder, or in another one that may belong to another user."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import stat
import subprocess
import tarfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, cast

from fractal_backends import Unit

from .calls import AsUser, as_user, with_hint

RECEIPT = ".receipt"
_NO_RECEIPTS = ("units", "job.sh", "*.out", "*.step", "*cancelled", f"*{RECEIPT}.*")
"""What else is in their folder."""
_MODE = 0o600
_CHUNK_BYTES = 1 << 16
_MOST_BYTES = 1 << 20
"""Of a receipt at once; the rest is read the next time."""
_KEEP = ("--skip-old-files", "--keep-directory-symlink")
"""What is there stays as it is: folders and their modes, links to them, and a file that is in the way."""
_MOST_OUTPUT_BYTES = 1 << 30
"""Of an output; a larger one is not valid, whatever is in it."""
_AS_FILES = ("--dereference", "--hard-dereference", "--sparse", "--no-recursion", "--ignore-failed-read")
"""How the files of units are read: through links, without what is no file."""
_MANY = 500
"""Files that are named in one call of tar at most."""


class PlaceError(Exception):
    """Files cannot be brought to where units are, or back; the message says why."""


class Place(ABC):
    """Where the files of a run's units are, as the compute nodes see them."""

    user: str | None = None
    """The user that units run as and their files belong to, if that is not the runner's own."""
    takes_calls = False
    """Whether other programs are called to get at the files."""

    def __init__(self, local: Path, remote: Path) -> None:
        self._local = local
        self.remote = remote

    def folder_of(self, unit: Unit) -> Path:
        """The folder of a unit's files."""
        folder = Path(unit.stem).parent
        return folder if self.remote == self._local else self.remote / folder.relative_to(self._local)

    @property
    def obstacle(self) -> str | None:
        """What is already where the files of this run are to be, if something is."""
        return None

    @abstractmethod
    def put(self, folder: Path, files: Mapping[str, bytes], units: Sequence[Unit]) -> None:
        """Make a folder with these files, and bring units' arguments to their places. Raises PlaceError."""

    @abstractmethod
    def receipts(self, folder: Path, skip: Collection[str] = ()) -> Iterable[tuple[str, bytes]]:
        """What was added to the receipts in a folder since the last call: names and texts.

        Those to `skip`, by name, are left out.
        """

    @abstractmethod
    def text(self, path: Path) -> str:
        """A small file, as far as it can be read."""

    @abstractmethod
    def fetch(self, units: Sequence[Unit]) -> None:
        """Bring logs and outputs of units that ended to the run's folder. Raises PlaceError."""

    @abstractmethod
    def remove(self, folder: Path) -> None:
        """Remove a folder, and its parent if nothing else is in that."""


class SharedPlace(Place):
    """The run's folder itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder)
        self._read: dict[str, int] = {}

    def put(self, folder: Path, files: Mapping[str, bytes], units: Sequence[Unit]) -> None:
        """See `Place.put`."""
        try:
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            for name, content in files.items():
                _write(folder / name, functools.partial(_add_all, content))
        except OSError as error:
            raise PlaceError(f"Cannot write {error.filename or folder}: {error.strerror}.") from error

    def receipts(self, folder: Path, skip: Collection[str] = ()) -> Iterable[tuple[str, bytes]]:
        """See `Place.receipts`."""
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(RECEIPT) and entry.name not in skip:
                    text = self._added(entry.path)
                    if text:
                        yield entry.name, text

    def _added(self, path: str) -> bytes:
        # Opened each time: that is when a network file system looks for what is new.
        begin = self._read.get(path, 0)
        try:
            fd = _opener(path, os.O_RDONLY)
            try:
                text = os.pread(fd, _MOST_BYTES, begin)
            finally:
                os.close(fd)
        except OSError:
            return b""
        self._read[path] = begin + len(text)
        return text

    def text(self, path: Path) -> str:
        """See `Place.text`."""
        try:
            with open(path, "rb", opener=_opener) as file:
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def fetch(self, units: Sequence[Unit]) -> None:
        """See `Place.fetch`."""

    def remove(self, folder: Path) -> None:
        """See `Place.remove`."""
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


class OtherPlace(Place):
    """Another folder, reached with `tar`, as another user if one is named."""

    takes_calls = True

    def __init__(self, local: Path, remote: Path, user: str | None, as_user: AsUser = as_user) -> None:
        super().__init__(local, remote)
        self.user = user
        self._as_user = as_user
        self._read: dict[str, int] = {}

    @property
    def obstacle(self) -> str | None:
        """See `Place.obstacle`."""
        names = self._listed(self.remote, "--exclude=./*/*", ".")
        if names is not None:
            is_empty = names.strip() in (b"", b"./")
            return None if is_empty else f"{self.remote} holds files, maybe of another run"
        there = self._listed(self.remote.parent, "--no-recursion", "--", self.remote.name)
        return None if there is None else f"{self.remote} is not a folder that can be read{self._as_whom()}"

    def _listed(self, folder: Path, *which: str) -> bytes | None:
        """Names of what is in a folder; None where any of that is not there, or cannot be read."""
        command = self._tar("--create", "--file=/dev/null", "--verbose", f"--directory={folder}", *which)
        try:
            ended = subprocess.run(command, capture_output=True, check=False)
        except OSError:  # there is no sudo: `put` says so
            return None
        return None if ended.returncode else ended.stdout

    def put(self, folder: Path, files: Mapping[str, bytes], units: Sequence[Unit]) -> None:
        """See `Place.put`."""
        archive = io.BytesIO()
        try:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                places = [self.remote, *map(self.folder_of, units), folder.parent, folder]
                for path in dict.fromkeys(places):
                    _add(tar, path, None)
                for name, content in files.items():
                    _add(tar, folder / name, content)
                for unit in units:
                    source = Path(unit.args_file)
                    _add(tar, self.folder_of(unit) / source.name, source.read_bytes())
        except OSError as error:
            raise PlaceError(f"Cannot read {error.filename}: {error.strerror}.") from error
        command = self._tar("--extract", "--file=-", "--directory=/", *_KEEP)
        problem = f"Cannot write to {self.remote}{self._as_whom()}"
        try:
            ended = subprocess.run(command, input=archive.getvalue(), capture_output=True, check=False)
        except OSError as error:
            raise PlaceError(f"{problem}: {error}.") from error
        if ended.returncode:
            raise PlaceError(f"{problem}: {_reason(ended.stderr)}")

    def receipts(self, folder: Path, skip: Collection[str] = ()) -> Iterable[tuple[str, bytes]]:
        """See `Place.receipts`."""
        found: list[tuple[str, bytes]] = []

        def take(member: tarfile.TarInfo, file: IO[bytes] | None) -> None:
            if file is None:
                return
            name = member.name.removeprefix("./")
            text = file.read()[self._read.get(f"{folder}/{name}", 0) :]
            if text:
                self._read[f"{folder}/{name}"] = self._read.get(f"{folder}/{name}", 0) + len(text)
                found.append((name, text))

        left_out = [f"--exclude={name}" for name in (*_NO_RECEIPTS, *skip)]
        with contextlib.suppress(PlaceError):
            self._unpack(take, folder, *left_out, ".")
        return found

    def text(self, path: Path) -> str:
        """See `Place.text`."""
        found: list[bytes] = []

        def take(_: tarfile.TarInfo, file: IO[bytes] | None) -> None:
            found.append(file.read() if file else b"")

        with contextlib.suppress(PlaceError):
            self._unpack(take, path.parent, "--", path.name)
        return b"".join(found).decode(errors="replace")

    def fetch(self, units: Sequence[Unit]) -> None:
        """See `Place.fetch`."""
        waiting = iter(units)
        while some := list(islice(waiting, _MANY)):
            logs = {Path(unit.log_file).name: unit.log_file for unit in some}
            outputs = {Path(unit.output_file).name: unit.output_file for unit in some}
            take = functools.partial(_take_home, logs, outputs)
            self._unpack(take, self.folder_of(some[0]), *_AS_FILES, "--", *logs, *outputs)

    def remove(self, folder: Path) -> None:
        """See `Place.remove`."""
        gone = ["--create", "--file=/dev/null", "--remove-files"]
        for path, how in ((folder, "--recursion"), (folder.parent, "--no-recursion")):
            command = self._tar(*gone, how, f"--directory={path.parent}", "--", path.name)
            with contextlib.suppress(OSError):
                subprocess.run(command, capture_output=True, check=False)

    def _unpack(
        self, take: Callable[[tarfile.TarInfo, IO[bytes] | None], None], folder: Path, *which: str
    ) -> None:
        """Hand over what is below a folder, with the contents of files. Raises PlaceError, as `take` may."""
        command = self._tar("--create", "--file=-", f"--directory={folder}", *which)
        problem = f"Cannot read {folder}{self._as_whom()}"
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise PlaceError(f"{problem}: {error}.") from error
        cut_off = ""
        with process:
            assert process.stdout is not None and process.stderr is not None
            said: list[bytes] = []
            listener = threading.Thread(target=lambda: said.append(process.stderr.read()))  # type: ignore[union-attr]
            listener.start()
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                    for member in tar:
                        take(member, tar.extractfile(member) if member.isfile() else None)
            except (tarfile.TarError, OSError) as error:
                cut_off = str(error)
            finally:
                process.stdout.close()
                listener.join()
        if cut_off or process.returncode not in (0, 1):  # 1: a file changed meanwhile
            raise PlaceError(f"{problem}: {_reason(b''.join([*said, cut_off.encode()]))}")

    def _tar(self, *arguments: str) -> list[str]:
        return [*self._as_user(self.user), "tar", *arguments]

    def _as_whom(self) -> str:
        return f" as the user {self.user}" if self.user else ""


def _reason(said: bytes) -> str:
    """The first line that is no warning: more of them follow from it."""
    lines = said.decode(errors="replace").strip().split("\n")
    return with_hint(next((line for line in lines if ": Warning: " not in line), ""), "tar")


def _opener(path: str, flags: int) -> int:
    """What a unit put in the place of a file is not waited for, or endless. Raises OSError."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return fd


def _add_all(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """A whole file or nothing; what fills it may read this very file, by another path. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        with open(fd, "wb") as file:
            fill(file)
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _copy(member: tarfile.TarInfo, content: IO[bytes] | None, file: IO[bytes]) -> None:
    """With its holes, or, without content, nothing but a hole."""
    if content is not None:
        source = content.raw  # type: ignore[attr-defined]  # it can skip forwards in a stream
        ranges = cast("list[tuple[int, int]] | None", member.sparse)
        for begin, size in ranges or [(0, member.size)]:
            source.seek(begin)
            file.seek(begin)
            left = size
            while left and (chunk := source.read(min(_CHUNK_BYTES, left))):
                left -= file.write(chunk)
    file.truncate(member.size)


def _take_home(
    logs: Mapping[str, str], outputs: Mapping[str, str], member: tarfile.TarInfo, content: IO[bytes] | None
) -> None:
    """Write a log, or an output; a folder is as little an output as whatever is none. Raises PlaceError."""
    name = member.name
    path = Path(logs.get(name) or outputs[name])
    try:
        if name in logs and content is not None:
            _write(path, functools.partial(_copy, member, content))
        elif name in outputs and content is None and not os.path.lexists(path):
            path.mkdir(mode=0o700)
        elif name in outputs and content is not None:
            is_too_large = member.size > _MOST_OUTPUT_BYTES
            _write(path, functools.partial(_copy, member, None if is_too_large else content))
    except OSError as error:
        raise PlaceError(f"Cannot write {path}: {error.strerror}.") from error


def _add(tar: tarfile.TarFile, path: Path, content: bytes | None) -> None:
    """A file, or, with no content, a folder; both their owner's alone."""
    member = tarfile.TarInfo(str(path).lstrip("/"))
    member.mtime = time.time()
    if content is None:
        member.type, member.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(member)
    else:
        member.size, member.mode = len(content), _MODE
        tar.addfile(member, io.BytesIO(content))
