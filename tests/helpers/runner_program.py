"""Runs a workflow with the backend `local`, as the JSON file that it is given says, in a process of its own.

`limits` are set (see `resource.setrlimit`) once everything is imported. All `signals` can be
"ignored" or "blocked". An error goes to stderr, type first.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from tests.helpers.workflows import run


def main(request: dict[str, Any]) -> None:
    for name, value in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))
    numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    if request.get("signals") == "ignored":
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
    elif request.get("signals") == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        run(Path(request["folder"]), request["tasks"], request["images"])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


main(json.loads(Path(sys.argv[1]).read_text()))
