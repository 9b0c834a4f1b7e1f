"""Run a workflow on a backend; what it took."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from fractal_backends import get_backend


def _cpu() -> float:
    """CPU time of this process and of all its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mb() -> float:
    """Not ru_maxrss, which begins with the memory of whoever started this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def _run(request: dict[str, Any], folder: str) -> float:
    backend = get_backend(request.get("backend", "local"), options=request.get("options", {}))
    begin = time.perf_counter()
    asyncio.run(
        backend.process_workflow(
            workflow=request["workflow"],
            dataset=request["dataset"],
            workflow_dir_local=Path(folder),
            logger_name="benchmark",
        )
    )
    return time.perf_counter() - begin


def main() -> None:
    request = json.load(sys.stdin)
    if "warm_up" in request:
        _run(request["warm_up"], request["folder"] + "-warm-up")
    cpu = _cpu()
    wall = _run(request, request["folder"])
    answer = {"wall_s": wall, "cpu_s": _cpu() - cpu, "peak_mb": peak_mb(), "cores": os.cpu_count()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
