"""Whether backends load, tried in processes of their own: an import may do anything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

DEADLINE_S = 60.0
_PROGRAM = """
import json, sys
from fractal_backends.registry import get_backend_class
try:
    get_backend_class(sys.argv[1])
    reason = None
except Exception as error:
    reason = str(error)
print("\\nfractal-check:" + json.dumps({"reason": reason}), flush=True)
"""


@dataclass(frozen=True)
class Attempt:
    """How it went to load a backend."""

    reason: str | None
    """Why it does not load; None if it does."""
    came_to_an_end: bool = True
    """False if loading it took too long, or ended the process."""


def try_to_load(names: Sequence[str], deadline_s: float = DEADLINE_S) -> list[Attempt]:
    """Load backends, all at once, each in a process of its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for name in names
    ]
    try:
        return [_attempt(process, deadline_s) for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _attempt(process: subprocess.Popen[bytes], deadline_s: float) -> Attempt:
    try:
        output, errors = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Attempt(f"it did not load within {deadline_s:g} s", came_to_an_end=False)
    try:
        answer = output.decode(errors="replace").rpartition("\nfractal-check:")[2].splitlines()[0]
        return Attempt(json.loads(answer)["reason"])
    except (IndexError, ValueError, TypeError, KeyError):
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        reason = f"loading it ended the process (returncode={process.returncode}) {last}".rstrip()
        return Attempt(reason, came_to_an_end=False)
