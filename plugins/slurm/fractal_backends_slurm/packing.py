"""How units are packed into the array tasks of a job."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fractal_backends import InvalidInputError

from .options import SlurmOptions

_TARGET_JOBS = 250
"""Array tasks that the site is assumed to want where its batching_config says nothing."""
_HANDFUL = 4
"""Submissions, at most, that one task part becomes where the site sets no limit on jobs."""
_TARGET_TIME_S = 24 * 3_600
"""No array task gets more units than this much time is enough for, where there is a choice."""
_SLACK_S = 60
_SLACK_OF_WAVE_S = 5


class Node(NamedTuple):
    """What a node has."""

    cpus: int
    mem_mb: int
    threads: int = 1
    """Of its `cpus`, those of one core."""

    def fitting(self, cpus: int, mem_mb: int | None) -> int:
        """Units that fit on it beside each other."""
        return min(self.cpus // cpus, self.mem_mb // mem_mb) if mem_mb else self.cpus // cpus


@dataclass(frozen=True)
class SiteLimits:
    """What the site allows; None where it is not known."""

    max_array_size: int = 1001
    """Array tasks of one submission."""
    nodes: Sequence[Node] = ()
    """The kinds of nodes of the partition; empty where they are not known."""
    time_s: int | None = None
    """The partition's time limit for a job."""
    default_time_s: int | None = None
    """The time limit that it gives to jobs that ask for none."""


@dataclass(frozen=True)
class Packing:
    """How the units of a task part are spread over array tasks."""

    units: int
    """Units of one array task at most."""
    at_once: int
    """Of these, the ones that run at the same time."""
    array_tasks: int
    """Array tasks in all; the caller splits them where a job array cannot have that many."""
    cpus: int
    """Cores of one array task."""
    mem_mb: int | None
    """Memory of one array task."""
    time: str | None
    """SLURM's time limit of one array task: a backstop, as each unit's own is kept by the job's script."""


def pack(units: int, options: SlurmOptions, limits: SiteLimits) -> Packing:
    """Spread `units` over array tasks. Raises InvalidInputError, with numbers, where that cannot be done."""
    room = _Room(options, limits)
    if problems := list(room.problems()):
        raise InvalidInputError("A unit cannot run on this cluster", problems)
    explicit = options.tasks_per_job or options.parallel_tasks_per_job
    size, at_once = _explicit(options) if explicit else _worked_out(units, options, limits, room)
    size, at_once = min(size, units), min(at_once, size, units)
    room.check_at_once(at_once)
    size = _within_limits(units, size, at_once, options, room)
    array_tasks = math.ceil(units / size)
    return Packing(
        units=size,
        at_once=at_once,
        array_tasks=array_tasks,
        cpus=room.cpus(at_once),
        mem_mb=None if options.mem is None else at_once * options.mem,
        time=_time_limit(options, limits, math.ceil(size / at_once)),
    )


class _Room:
    """What one array task may have."""

    def __init__(self, options: SlurmOptions, limits: SiteLimits) -> None:
        self._options = options
        self._unit_s = options.time_s
        self._nodes = limits.nodes
        self.time_s = limits.time_s
        threads = max((node.threads for node in limits.nodes), default=1)
        self._whole_cpus = math.ceil(options.cpus_per_task / threads) * threads
        """What a step takes: cores of its own, with all their threads."""

    def cpus(self, at_once: int) -> int:
        """Those of an array task; as many as so many steps take, if there are so many."""
        options = self._options
        if at_once == 1:
            return options.cpus_per_task
        fitting = [n.cpus for n in self._nodes if n.fitting(options.cpus_per_task, options.mem) >= at_once]
        most = [*([max(fitting)] if fitting else []), *filter(None, [options.max_cpus_per_job])]
        return max(at_once * options.cpus_per_task, min([at_once * self._whole_cpus, *most]))

    def _ceilings(self, cpus: int) -> list[tuple[str, int, str, int]]:
        """What a unit takes, with so many cores, and what there is: name and number, what and how much."""
        options = self._options
        largest_cpus = max((node.cpus for node in self._nodes), default=None)
        largest_mb = max((node.mem_mb for node in self._nodes), default=None)
        ceilings = [
            ("cpus_per_task", cpus, "max_cpus_per_job", options.max_cpus_per_job),
            ("cpus_per_task", cpus, "the largest node's cores", largest_cpus),
            ("mem", options.mem, "max_mem_per_job", options.max_mem_per_job),
            ("mem", options.mem, "the largest node's MB", largest_mb),
        ]
        return [
            (name, unit, what, there)
            for name, unit, what, there in ceilings
            if unit is not None and there is not None
        ]

    def problems(self) -> Iterator[str]:
        """Why not even one unit fits."""
        above = [
            f"{name}={unit}{self._options.told_origin(name)} is more than {what}: {ceiling}"
            for name, unit, what, ceiling in self._ceilings(self._options.cpus_per_task)
            if unit > ceiling
        ]
        yield from above or self._problems_of_nodes(1)
        if self._unit_s is not None and self.time_s is not None and self._unit_s > self.time_s:
            limit = f"the partition's limit: {self.time_s} s"
            source = self._options.told_origin("time")
            yield f"time={self._options.time} ({self._unit_s} s){source} is more than {limit}"

    def fitting(self, cpus: int | None = None, mem_mb: int | None = None) -> int:
        """Units that fit beside each other, in this room and in what is given; 1 where nothing is given."""
        given = [(self._whole_cpus, cpus), (self._options.mem, mem_mb)]
        counts = [there // unit for unit, there in given if unit is not None and there is not None]
        if not counts:
            return 1
        counts += [there // unit for _, unit, _, there in self._ceilings(self._whole_cpus)]
        counts += [self._on_a_node(self._whole_cpus)] if self._nodes else []
        return max(1, min(counts))

    def _on_a_node(self, cpus: int) -> int:
        """Units of so many cores that fit beside each other on the node that holds the most of them."""
        return max(node.fitting(cpus, self._options.mem) for node in self._nodes)

    def _problems_of_nodes(self, units: int) -> Iterator[str]:
        """Why some node has the cores for so many units at once and some the memory, but none has both."""
        cpus, mem = self._options.cpus_per_task, self._options.mem
        if mem is not None and self._nodes and units > self._on_a_node(cpus):
            have = "; ".join(f"{node.cpus} cores and {node.mem_mb} MB" for node in self._nodes)
            asked = f"cpus_per_task={cpus}{self._options.told_origin('cpus_per_task')}"
            asked += f" and mem={mem}{self._options.told_origin('mem')}"
            at_once = "" if units == 1 else f"{units} units at once with "
            yield f"{at_once}{asked} fit on no node; there are nodes with {have}"

    def check_at_once(self, at_once: int) -> None:
        """Raises InvalidInputError where so many units do not fit beside each other."""
        problems = [
            f"{at_once} units at once with {name}={unit} need {at_once * unit}, more than {what}: {ceiling}"
            for name, unit, what, ceiling in self._ceilings(self._options.cpus_per_task)
            if at_once * unit > ceiling
        ]
        if problems := problems or list(self._problems_of_nodes(at_once)):
            raise InvalidInputError("The units of an array task do not fit on a node", problems)

    def waves(self, *, with_slack: bool = True) -> int | None:
        """How often a unit's time fits into the time of a job; None: any number of times."""
        if self._unit_s is None or self.time_s is None:
            return None
        if not with_slack:
            return max(1, self.time_s // self._unit_s)
        return max(1, (self.time_s - _SLACK_S) // (self._unit_s + _SLACK_OF_WAVE_S))


def _explicit(options: SlurmOptions) -> tuple[int, int]:
    at_once = options.parallel_tasks_per_job or 1
    return options.tasks_per_job or at_once, at_once


def _worked_out(units: int, options: SlurmOptions, limits: SiteLimits, room: _Room) -> tuple[int, int]:
    """As the admins of Fractal know it: as many jobs as wanted, else larger jobs, else longer ones."""
    most = options.max_num_jobs
    wanted = options.target_num_jobs or min(most or _TARGET_JOBS, _HANDFUL * limits.max_array_size)
    share = not options.asks_for_gpus  # units of one array task would get each other's GPUs
    at_once = room.fitting(options.target_cpus_per_job, options.target_mem_per_job) if share else 1
    if math.ceil(units / at_once) <= wanted:
        return _evenly(units, at_once)
    at_once = max(at_once, room.fitting(options.max_cpus_per_job, options.max_mem_per_job) if share else 1)
    if math.ceil(units / at_once) <= (most or wanted):
        return _evenly(units, at_once)
    size = math.ceil(units / (most or wanted))
    if most is None and options.time_s is not None:
        waves = max(1, _TARGET_TIME_S // options.time_s)
        largest_number = _HANDFUL * limits.max_array_size
        size = max(min(size, waves * at_once), math.ceil(units / largest_number))
    return size, min(at_once, size)


def _evenly(units: int, at_once: int) -> tuple[int, int]:
    """Array tasks of one wave, none of them much smaller than the others."""
    size = math.ceil(units / math.ceil(units / at_once))
    return size, size


def _within_limits(units: int, size: int, at_once: int, options: SlurmOptions, room: _Room) -> int:
    """Units of an array task, so that neither its time nor the number of array tasks is above a limit."""
    waves, most = room.waves(), options.max_num_jobs
    if waves is not None:
        size = min(size, waves * at_once)
    if most is None or math.ceil(units / size) <= most:
        return size
    larger, waves = math.ceil(units / most), room.waves(with_slack=False)
    if waves is not None and larger > waves * at_once:
        raise InvalidInputError(
            f"{units} units do not fit into max_num_jobs={most}: an array task would have {larger} units,"
            f" {at_once} at a time, with time={options.time}; the partition's limit is {room.time_s} s"
        )
    return larger


def _time_limit(options: SlurmOptions, limits: SiteLimits, waves: int) -> str | None:
    unit_s = options.time_s
    if unit_s is None and waves > 1 and not options.has_line("time"):
        unit_s = limits.default_time_s  # each as much as in a job of its own
    if unit_s is None:
        return None
    total = waves * unit_s + _SLACK_S + waves * _SLACK_OF_WAVE_S
    if limits.time_s is not None:  # a job that asks for more would wait for ever
        total = min(total, limits.time_s // 60 * 60)
    hours, minutes = divmod(math.ceil(total / 60), 60)
    return f"{hours}:{minutes:02}:00"
