"""The suite itself is tested: each broken backend is caught, by the requirement that is named for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from queue import SimpleQueue

import pytest

from conftest import MARK
from fractal_backends.conformance.requirements import areas, requirements
from tests.conformance.broken import Defect, defects
from tests.conformance.broken.hygiene import SHARED_MEMORY
from tests.helpers.plugins import install, open_folder

DEFECTS = list(defects())
AT_ONCE = 2
Servers = SimpleQueue[subprocess.Popen[str]]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Those that are free to check a backend (see `check_server`)."""
    folder = tmp_path_factory.mktemp("broken") / "installed"
    env = install(folder, {defect.name: defect.entry_point for defect in DEFECTS})
    env.pop(MARK, None)  # it goes on from one test to the next
    command, pipe = [sys.executable, "-m", "tests.conformance.check_server"], subprocess.PIPE
    free: Servers = SimpleQueue()
    with ExitStack() as ends:
        for _ in range(AT_ONCE):
            server = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
            free.put(ends.enter_context(server))  # leaving it closes its stdin: its sign to end
        yield free


def check(servers: Servers, defect: Defect, folder: Path) -> tuple[int, str, list[str]]:
    """The exit code, what was printed, and what failed."""
    folder.mkdir()
    found, options, printed = (folder / name for name in ("report.json", "options.json", "printed"))
    options.write_text(json.dumps({"arguments": defect.arguments}))
    arguments = [defect.name, "--only", defect.requirement, "--json", str(found), "--deadline", "10"]
    server = servers.get()
    assert server.stdin and server.stdout
    with open_folder() if "slurm_user" in defect.arguments else nullcontext(folder) as temporary:
        request = {
            "arguments": [*arguments, "--options", str(options)],
            "folder": str(temporary),
            "printed": str(printed),
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
    servers.put(server)
    for path in SHARED_MEMORY.glob(f"{defect.name}-*"):
        path.unlink()
    report = json.loads(found.read_text()) if found.exists() else {"judgements": []}
    failed = [entry for entry in report["judgements"] if entry["verdict"] == "failed"]
    return code, printed.read_text(), [entry["requirement"]["id"] for entry in failed]


@pytest.mark.long
@pytest.mark.parametrize("requirement", requirements())
def test_those_that_break_it_are_caught(servers: Servers, requirement: str, tmp_path: Path) -> None:
    """They wait more than they work, so a few are checked at a time."""
    broken = [defect for defect in DEFECTS if defect.requirement == requirement]
    if requirement == "CAP-006" and os.getuid() != 0:
        pytest.skip("only root can run units as another user")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        checks = list(pool.map(lambda defect: check(servers, defect, tmp_path / defect.name), broken))
    for defect, (code, printed, failed) in zip(broken, checks, strict=True):
        assert (code, failed) == (1, [requirement]), f"{defect.name}: {defect.text}\n{printed}"


def test_there_are_enough_of_them() -> None:
    caught = Counter(defect.requirement for defect in DEFECTS)
    assert len(DEFECTS) >= 50
    assert set(caught) == set(requirements())
    for area in areas():
        assert sum(caught[requirement.id] for requirement in area.requirements) >= 4, area.name
