"""What a site offers: the limits of its partitions, and the kinds of their nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

from .calls import ASK_S, SchedulerError
from .packing import Node, SiteLimits
from .scheduler import Scheduler, rows_of
from .values import seconds

_USABLE = ("idle", "mixed", "allocated", "completing", "planned")
"""States of nodes that jobs can be given."""
_POWER = "~#%@+^-"
"""Marks of a node that sleeps, wakes or is watched; none of them keeps jobs away."""


class Site:
    """Asks for the limits of each partition once."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._limits: dict[str | None, SiteLimits] = {}

    def limits(self, partition: str | None) -> SiteLimits:
        """What is allowed in a partition, or in the default one. Raises SchedulerError."""
        if partition not in self._limits:
            self._limits[partition] = self._asked_for(partition)
        return self._limits[partition]

    def _asked_for(self, partition: str | None) -> SiteLimits:
        # Without --exact, nodes of several kinds are told as one, with what all of them have.
        question = self._scheduler.ask_of_nodes("%P|%l|%L|%c|%m|%X|%Y", "--exact", *_in(partition))
        with closing(question) as call:  # while the configuration is asked for
            config = self._scheduler.config()
            rows = rows_of(call.answer(ASK_S, stop=self._scheduler.hurry), 7)
        if partition is None:
            rows = [row for row in rows if row[0].endswith("*")] or rows
        elif not rows:
            raise SchedulerError(f"This cluster has no partition {partition!r}", may_pass=False)
        return SiteLimits(
            max_array_size=_max_array_size(config),
            nodes=_kinds(row[3:] for row in rows),
            time_s=_largest(_seconds(row[1]) for row in rows),
            default_time_s=min(filter(None, (_seconds(row[2]) for row in rows)), default=None),
        )

    def kinds_of_nodes(self, partition: str | None) -> tuple[set[str], set[str]]:
        """Of the nodes of a partition, or of all, what can be asked for: of those that are here, and of those
        that jobs cannot be given now. Raises SchedulerError."""
        here: set[str] = set()
        away: set[str] = set()
        with closing(self._scheduler.ask_of_nodes("%a|%T|%f|%G|%c|%m", "--Node", *_in(partition))) as call:
            for of_partition, state, kind in rows_of(call.answer(ASK_S, stop=self._scheduler.hurry), 3):
                is_here = of_partition == "up" and state.rstrip(_POWER) in _USABLE
                (here if is_here else away).add(kind)
        return here, away


def _in(partition: str | None) -> list[str]:
    return [f"--partition={partition}"] if partition else []


def _max_array_size(config: Mapping[str, str]) -> int:
    most = SiteLimits.max_array_size
    tasks = re.search(r"\bmax_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    return min(
        *(_number(config.get(key, "")) or most for key in ("MaxArraySize", "MaxJobCount")),
        int(tasks[1]) if tasks else most,
    )


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def _seconds(time: str) -> int | None:
    try:
        return seconds(time)
    except ValueError:  # infinite
        return None


def _kinds(rows: Iterable[Sequence[str]]) -> list[Node]:
    """Of CPUs, memory, sockets and cores of each; nothing where the first two of one are not known."""
    kinds = set()
    for cpus, memory, sockets, cores in rows:
        if not (cpus.isdigit() and memory.isdigit()):
            return []
        are_known = sockets.isdigit() and cores.isdigit()
        # Some sites have SLURM count cores, whatever threads these have.
        threads = int(cpus) // max(1, int(sockets) * int(cores)) if are_known else 1
        kinds.add(Node(int(cpus), int(memory), max(1, threads)))
    return sorted(kinds)


def _largest(values: Iterable[int | None]) -> int | None:
    """None where one of them is not known, or has no bound."""
    known = list(values)
    return max(value for value in known if value is not None) if known and None not in known else None
