"""What a unit costs beyond its own process: thousands of units that do nothing, two at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from compared import python_with_fractal_server
from measuring import Row, Settings, dataset, fresh, native_no_op, new_folder, parallel_workflow

UNITS = 4_000
AT_ONCE = 2
ROUNDS = 5


def measure(settings: Settings) -> Iterator[Row]:
    """Both sides again and again in turn, each in a fresh interpreter: the best of each is compared."""
    command = native_no_op(settings.folder)
    urls = [f"/data/{number}" for number in range(UNITS)]
    request: dict[str, Any] = {
        "command": command,
        "zarr_urls": urls,
        "workflow": parallel_workflow(command, parallel_tasks_per_job=AT_ONCE),
        "dataset": dataset(urls),
    }
    sides: dict[str, tuple[str, dict[str, str]]] = {
        "a bare loop": ("run_bare.py", {}),
        "local": ("run_backend.py", {}),
    }
    if settings.fractal_server:
        sides["fractal-server"] = ("run_fractal_server.py", {"python": python_with_fractal_server()})
    walls: dict[str, list[float]] = {side: [] for side in sides}
    peaks: dict[str, float] = {}
    for _ in range(settings.rounds or ROUNDS):
        for side, (script, how) in sides.items():
            with new_folder(settings.folder) as folder:
                answer = fresh(script, {**request, "folder": f"{folder}/run"}, **how)
            walls[side].append(answer["wall_s"])
            peaks[side] = max(peaks.get(side, 0), answer.get("peak_mb", 0))
    best = {side: min(times) for side, times in walls.items()}
    for side, times in walls.items():
        yield Row(
            f"{UNITS:,} units, {side}", best[side], "s", note=f"median {statistics.median(times):.2f} s"
        )
    bare = statistics.median(walls["a bare loop"])
    note = f"of medians {statistics.median(walls['local']) / bare:.2f}"
    yield Row("local / a bare loop", best["local"] / best["a bare loop"], "x", 1.5, note)
    yield Row("peak memory, local", peaks["local"], "MB", 70)
    if settings.fractal_server:
        yield Row("local / fractal-server", best["local"] / best["fractal-server"], "x", 0.5)
        yield Row("peak memory, fractal-server", peaks["fractal-server"], "MB")
