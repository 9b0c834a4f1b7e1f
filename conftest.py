"""What all tests share: nothing may be left behind by any of them."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["slurm_lab.fixtures", "tests.helpers.slurm_fixtures", "tests.helpers.local_fixtures"]

MARK = "FRACTAL_BACKENDS_TEST"
DEADLINE_S = 10.0


def pytest_configure() -> None:
    """Signals that who started the tests ignores (nohup, a shell's background) would be ignored by all."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def eventually(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> bool:
    """Whether a condition comes true before a deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _marked_processes(mark: str) -> dict[int, str]:
    """Living processes, wherever they are in the tree, that were started by the test."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def _open_files() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {os.readlink(entry)}")
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def no_leftovers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fails a test that leaves a process, a thread, an open file or a temporary file behind."""
    if request.node.get_closest_marker(
        "requirement"
    ):  # the conformance suite's own; its tests share processes
        yield
        return
    mark = uuid.uuid4().hex
    temporary = tmp_path_factory.mktemp("leftovers")
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    threads, files = set(threading.enumerate()), _open_files()
    yield
    gc.collect()
    assert eventually(lambda: not _marked_processes(mark)), f"processes: {_marked_processes(mark)}"
    assert eventually(lambda: set(threading.enumerate()) <= threads), f"threads: {threading.enumerate()}"
    assert eventually(lambda: _open_files() <= files), f"files: {_open_files() - files}"
    assert not list(temporary.iterdir()), f"temporary files: {list(temporary.iterdir())}"
