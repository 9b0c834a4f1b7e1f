"""Whether a slow unit keeps free slots idle: four at a time, every fourth twenty times as long."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from compared import python_with_fractal_server
from measuring import Row, Settings, dataset, fresh, new_folder, parallel_workflow, script

UNITS = 40
AT_ONCE = 4
SHORT_S, LONG_S = 0.05, 1.0
ROUNDS = 3


def greedy(durations: list[float], at_once: int) -> float:
    """How long it takes when every slot that is free takes the next unit at once."""
    free_at = [0.0] * at_once
    for duration in durations:
        heapq.heappush(free_at, heapq.heappop(free_at) + duration)
    return max(free_at)


def measure(settings: Settings) -> Iterator[Row]:
    """The best of a few runs, against what greedy scheduling makes of the same durations."""
    urls = [f"/data/{'long' if number % 4 == 3 else 'short'}{number}" for number in range(UNITS)]
    ideal = greedy([LONG_S if "long" in url else SHORT_S for url in urls], AT_ONCE)
    program = f"""exec < "$2"
read -r _; read -r line
case "$line" in *long*) exec sleep {LONG_S};; esac
exec sleep {SHORT_S}"""
    command = script(settings.folder, "straggler", program)
    request: dict[str, Any] = {
        "workflow": parallel_workflow(command, parallel_tasks_per_job=AT_ONCE),
        "dataset": dataset(urls),
    }
    yield Row("greedy scheduling", ideal, "s")
    yield Row("local", _best(settings, request), "s", 1.05 * ideal, "1.05 x greedy")
    if settings.fractal_server:
        yield Row("fractal-server", _best(settings, request, python_with_fractal_server()), "s")


def _best(settings: Settings, request: dict[str, Any], python: str | None = None) -> float:
    walls = []
    for _ in range(settings.rounds or ROUNDS):
        with new_folder(settings.folder) as folder:
            whole = {**request, "folder": f"{folder}/run"}
            if python is None:
                walls.append(fresh("run_backend.py", whole)["wall_s"])
            else:
                walls.append(fresh("run_fractal_server.py", whole, python)["wall_s"])
    return float(min(walls))
