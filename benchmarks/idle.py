"""What waiting costs: the CPU time of a run whose units do nothing but sleep."""

from __future__ import annotations

from collections.abc import Iterator

from measuring import Row, Settings, dataset, fresh, new_folder, parallel_workflow, script

ASLEEP_S = 2
ROUNDS = 3


def measure(settings: Settings) -> Iterator[Row]:
    """User and system time of the runner and all its children, after a first run that imported everything."""
    sleeper = script(settings.folder, "sleeper", f"exec sleep {ASLEEP_S}")
    brief = script(settings.folder, "brief", "exit 0")
    costs = []
    for _ in range(settings.rounds or ROUNDS):
        with new_folder(settings.folder) as folder:
            request = {
                "workflow": parallel_workflow(sleeper, parallel_tasks_per_job=2),
                "dataset": dataset(["/data/one", "/data/two"]),
                "folder": f"{folder}/run",
            }
            warm_up = {**request, "workflow": parallel_workflow(brief)}
            costs.append(fresh("run_backend.py", {**request, "warm_up": warm_up})["cpu_s"])
    yield Row(f"CPU time, two units asleep for {ASLEEP_S} s", min(costs), "s", 0.05)
