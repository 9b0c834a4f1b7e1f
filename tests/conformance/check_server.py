"""Checks backends as the command line does, each in a fork of a process that has imported everything.

A request is a line of JSON on stdin: `arguments` of the command `check`, the `folder` for temporary files and
a file for what is `printed`. The answer is a line with the exit code. A check ends with the first test that
fails: that is proof enough.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import tempfile
from typing import Any

import pytest

from fractal_backends.cli import main
from fractal_backends.conformance import areas

_main = pytest.main


def check(request: dict[str, Any]) -> int:
    """The exit code."""
    os.environ["TMPDIR"] = request["folder"]
    tempfile.tempdir = None
    with open(request["printed"], "wb") as printed, open(os.devnull, "rb") as nothing:
        for theirs, ours in ((nothing, 0), (printed, 1), (printed, 2)):
            os.dup2(theirs.fileno(), ours)
    pytest.main = lambda arguments, **more: _main([*arguments, "-x"], **more)
    sys.argv = ["fractal-backends", "check", *request["arguments"]]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
    return 0


def serve() -> None:
    """Until stdin ends."""
    for module in pkgutil.iter_modules(areas.__path__):
        importlib.import_module(f"{areas.__name__}.{module.name}")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = check(json.loads(line))
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
