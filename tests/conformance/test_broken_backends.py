"""The suite itself is tested: each broken backend is caught, by the requirement that is named for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from fractal_backends.conformance.requirements import areas, requirements
from tests.conformance.broken import Defect, defects
from tests.conformance.broken.hygiene import SHARED_MEMORY
from tests.helpers.plugins import install, open_folder
from tests.helpers.side_by_side import AT_ONCE, side_by_side

DEFECTS = {defect.name: defect for defect in defects()}
Check = tuple[int, str, list[str]]
"""The exit code, what was printed, and what failed."""
Servers = SimpleQueue[subprocess.Popen[str]]


@contextmanager
def started_servers(folder: Path) -> Iterator[Servers]:
    """Those that are free (see `check_server`), with every broken backend installed."""
    env = install(folder, {name: defect.entry_point for name, defect in DEFECTS.items()})
    command, pipe = [sys.executable, "-m", "tests.conformance.check_server"], subprocess.PIPE
    free: Servers = SimpleQueue()
    with ExitStack() as ends:
        for _ in range(AT_ONCE):
            server = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
            free.put(ends.enter_context(server))  # leaving it closes its stdin, at which it ends
        yield free


def served(free: Servers, **request: Any) -> int:
    """The exit code of a check by the next free server."""
    server = free.get()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    code = int(server.stdout.readline())
    free.put(server)
    return code


def check(free: Servers, defect: Defect, folder: Path) -> Check:
    """Judge a backend by the requirement that is named for it."""
    folder.mkdir()
    found, options, printed = (folder / name for name in ("report.json", "options.json", "printed"))
    options.write_text(json.dumps({"arguments": defect.arguments}))
    deadline_s = 40 if defect.requirement.startswith("RAND") else 10  # to make examples takes seconds
    arguments = [
        *(defect.name, "--only", defect.requirement, "--json", str(found), "--deadline", str(deadline_s)),
        *("--options", str(options)),
    ]
    code = served(free, arguments=arguments, folder=str(folder), printed=str(printed))
    for path in SHARED_MEMORY.glob(f"{defect.name}-*"):
        path.unlink()
    report = json.loads(found.read_text()) if found.exists() else {"judgements": []}
    failed = [entry for entry in report["judgements"] if entry["verdict"] == "failed"]
    return code, printed.read_text(), [entry["requirement"]["id"] for entry in failed]


@pytest.fixture(scope="module")
def checks(request: pytest.FixtureRequest) -> dict[str, Future[Check]]:
    with open_folder() as folder, started_servers(folder / "installed") as free:
        return side_by_side(request, "name", lambda name: check(free, DEFECTS[name], folder / name))


@pytest.mark.long
@pytest.mark.timeout(1800)  # the first one waits for all checks
@pytest.mark.parametrize("name", DEFECTS)
def test_it_is_caught(checks: dict[str, Future[Check]], name: str) -> None:
    if "slurm_user" in DEFECTS[name].arguments and os.getuid() != 0:
        pytest.skip("only root can run units as another user")
    code, printed, failed = checks[name].result()
    assert (code, failed) == (1, [DEFECTS[name].requirement]), printed


def test_there_are_enough_of_them() -> None:
    caught = Counter(defect.requirement for defect in DEFECTS.values())
    assert len(DEFECTS) >= 50
    assert set(caught) == set(requirements())
    for area in areas():
        assert sum(caught[requirement.id] for requirement in area.requirements) >= 4, area.name
