"""Runs a workflow with the backend `slurm` in a process of its own, and writes down what it is told of units.

It is given JSON: `arguments` of process_workflow, `options`, and the file `told`, one event a line;
and `backend` where it is another one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from fractal_backends import UnitEvent, get_backend, hookimpl


class Teller:
    """Writes each event's unit."""

    def __init__(self, told: Path) -> None:
        self._told = told

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        """See `ObserverHooks`."""
        unit = {**dataclasses.asdict(event.unit), "env": dict(event.unit.env), "handle": event.handle}
        cause = str(event.outcome.cause) if event.outcome else None
        info = event.outcome.info if event.outcome else event.info
        told = {"unit": unit, "state": str(event.state), "cause": cause, "info": info}
        with self._told.open("a") as file:
            file.write(json.dumps(told) + "\n")


def main(request: dict[str, Any]) -> None:
    """Run it; an error goes to stderr, type first."""
    arguments = request["arguments"]
    for name in ("workflow_dir_local", "workflow_dir_remote"):
        if name in arguments:
            arguments[name] = Path(arguments[name])
    observers = [Teller(Path(request["told"]))] if "told" in request else []
    try:
        backend = get_backend(
            request.get("backend", "slurm"), options=request["options"], observers=observers
        )
        asyncio.run(backend.process_workflow(**arguments))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
