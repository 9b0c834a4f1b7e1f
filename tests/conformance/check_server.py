"""Checks backends as the command line does, each in a fork of a process that has imported everything.

A request is a line of JSON on stdin: the `arguments` of the command `check`, a `folder` for temporary files,
and a file for what is `printed`. The answer is a line with the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import fractal_backends_local

from fractal_backends.cli import app, check_report, main
from fractal_backends.conformance import areas, declared, suite
from fractal_backends.conformance.loading import Attempt
from fractal_backends.conformance.report import badge, page

IMPORTED = (app, check_report, suite, badge, page, fractal_backends_local)
"""What a check imports only when it gets there."""


def serve() -> None:
    """Until stdin ends."""
    for module in pkgutil.iter_modules(areas.__path__):
        importlib.import_module(f"{areas.__name__}.{module.name}")
    patch.object(declared, "try_to_load", _loaded).start()
    gc.freeze()  # no fork need go through it again
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


def _loaded(names: Sequence[str], _: float) -> list[Attempt]:
    """Their imports are not what is broken."""
    return [Attempt(None) for _ in names]


def check(request: dict[str, Any]) -> int:
    """The exit code."""
    os.environ["TMPDIR"] = request["folder"]
    tempfile.tempdir = None
    with open(request["printed"], "wb") as printed, open(os.devnull, "rb") as nothing:
        for theirs, ours in ((nothing, 0), (printed, 1), (printed, 2)):
            os.dup2(theirs.fileno(), ours)
    sys.argv = ["fractal-backends", "check", *request["arguments"]]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    serve()
