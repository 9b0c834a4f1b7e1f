"""How units become array tasks: tables, and what holds for any numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fractal_backends_slurm.options import SlurmOptions
from fractal_backends_slurm.packing import Node, SiteLimits, pack
from hypothesis import given, settings, strategies as st

from fractal_backends import InvalidInputError

FMI = {
    **{"target_cpus_per_job": 10, "max_cpus_per_job": 12},
    **{"target_mem_per_job": 10_000, "max_mem_per_job": 12_000},
    **{"target_num_jobs": 5, "max_num_jobs": 10},
}


def packed(units: int, limits: SiteLimits | None = None, **options: Any) -> tuple[int, int, int]:
    packing = pack(units, SlurmOptions(**options), limits or SiteLimits())
    return packing.array_tasks, packing.units, packing.at_once


@pytest.mark.parametrize(
    ("units", "options", "expected"),
    [
        (1, {}, (1, 1, 1)),
        (7, {}, (7, 1, 1)),
        (250, {}, (250, 1, 1)),
        (251, {}, (126, 2, 1)),
        (1_000, {}, (250, 4, 1)),
        (20_000, {}, (250, 80, 1)),
        (1_000_000, {}, (250, 4_000, 1)),
        # long units are not put one behind the other for weeks
        (20_000, {"time": "01:00:00"}, (834, 24, 1)),
        (20_000, {"time": "2-0"}, (4_000, 5, 1)),
        # what is given wins
        (10, {"tasks_per_job": 4}, (3, 4, 1)),
        (10, {"parallel_tasks_per_job": 4}, (3, 4, 4)),
        (10, {"tasks_per_job": 6, "parallel_tasks_per_job": 2}, (2, 6, 2)),
        (2, {"tasks_per_job": 6, "parallel_tasks_per_job": 4}, (1, 2, 2)),
        (10, {**FMI, "tasks_per_job": 1}, (10, 1, 1)),
        # the site's largest number of jobs holds all the same
        (100, {**FMI, "tasks_per_job": 1}, (10, 10, 1)),
        # as many as should be in a job; else as many as may be; else one after the other
        (4, {**FMI, "mem": 1_000}, (1, 4, 4)),
        (20, {**FMI, "mem": 1_000}, (2, 10, 10)),
        (50, {**FMI, "mem": 1_000}, (5, 10, 10)),
        (60, {**FMI, "mem": 1_000}, (5, 12, 12)),
        (120, {**FMI, "mem": 1_000}, (10, 12, 12)),
        (1_000, {**FMI, "mem": 1_000}, (10, 100, 12)),
        (20, {**FMI, "mem": 6_000}, (10, 2, 2)),
        (11, {**FMI, "mem": 12_000}, (6, 2, 1)),
        (6, {**FMI, "cpus_per_task": 12}, (6, 1, 1)),
        # a few of these numbers are enough
        (100, {"target_num_jobs": 10}, (10, 10, 1)),
        (5, {"max_num_jobs": 2}, (2, 3, 1)),
        (10, {"target_cpus_per_job": 4}, (3, 4, 4)),
        (1_000, {"max_cpus_per_job": 4}, (250, 4, 4)),
        # GPUs are not shared
        (20, {**FMI, "needs_gpu": True}, (10, 2, 1)),
        (20, {"gres": "gpu:1", "target_cpus_per_job": 4}, (20, 1, 1)),
    ],
)
def test_table(units: int, options: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert packed(units, **options) == expected


def test_a_small_array_size_takes_a_handful_of_submissions() -> None:
    assert packed(1_000, SiteLimits(max_array_size=10)) == (40, 25, 1)


def test_nodes_limit_what_runs_at_once() -> None:
    limits = SiteLimits(nodes=[Node(8, 5_000)])
    assert packed(10, limits, target_cpus_per_job=64) == (2, 5, 5)
    assert packed(10, limits, target_cpus_per_job=64, mem="1G") == (3, 4, 4)


def test_what_runs_at_once_fits_on_one_node() -> None:
    """Not on one that had the cores of this kind, and the memory of that."""
    limits = SiteLimits(nodes=[Node(2, 64_000), Node(8, 8_000)])
    assert packed(8, limits, cpus_per_task=8) == (8, 1, 1)
    assert packed(8, limits, target_cpus_per_job=64, mem=4_000) == (4, 2, 2)
    assert packed(8, limits, target_cpus_per_job=64, mem=1_000) == (1, 8, 8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"time": "00:00:02"}, "0:02:00"),
        ({"time": "00:10:00"}, "0:12:00"),
        ({"time": "00:10:00", "tasks_per_job": 5, "parallel_tasks_per_job": 2}, "0:32:00"),
        ({"time": "2-0"}, "48:02:00"),
    ],
)
def test_time_of_an_array_task(options: dict[str, Any], expected: str | None) -> None:
    assert pack(5, SlurmOptions(**options), SiteLimits()).time == expected


def test_units_beside_each_other_have_whole_cores() -> None:
    """Where SLURM counts threads, a step takes all those of its cores."""
    limits = SiteLimits(nodes=[Node(16, 64_000, threads=2)])
    assert packed(8, limits, parallel_tasks_per_job=8) == (1, 8, 8)
    assert pack(8, SlurmOptions(parallel_tasks_per_job=8), limits).cpus == 16
    assert pack(8, SlurmOptions(parallel_tasks_per_job=4, cpus_per_task=3), limits).cpus == 16
    assert pack(8, SlurmOptions(cpus_per_task=3), limits).cpus == 3
    assert packed(20, limits, target_cpus_per_job=16) == (3, 7, 7)
    assert pack(9, SlurmOptions(parallel_tasks_per_job=9), limits).cpus == 16  # all that there is
    assert pack(8, SlurmOptions(parallel_tasks_per_job=8, max_cpus_per_job=12), limits).cpus == 12


def test_units_behind_each_other_have_the_time_that_each_would_have_alone() -> None:
    """Of a partition that gives a time to jobs that ask for none."""
    limits = SiteLimits(default_time_s=3_600, time_s=4 * 3_600)
    assert pack(750, SlurmOptions(), limits).time == "3:02:00"
    assert pack(1_000, SlurmOptions(), limits).time == "4:00:00"
    assert packed(1_000, limits) == (250, 4, 1)
    assert pack(1_000, SlurmOptions(tasks_per_job=2), limits).time == "2:02:00"
    assert pack(250, SlurmOptions(), limits).time is None
    line = {"extra_lines": ["#SBATCH --time=60"]}
    assert pack(1_000, SlurmOptions(**line), limits).time is None


def test_the_slack_never_goes_beyond_the_partition() -> None:
    assert pack(1, SlurmOptions(time="24:00:00"), SiteLimits(time_s=86_400)).time == "24:00:00"


def test_units_behind_each_other_fit_into_the_partitions_time() -> None:
    limits = SiteLimits(time_s=7_200)
    assert packed(1_000, limits, time="01:00:00", tasks_per_job=10) == (1_000, 1, 1)
    assert packed(1_000, limits, time="00:59:00", tasks_per_job=10) == (500, 2, 1)
    assert packed(1_000, limits, time="01:00:00", max_num_jobs=500) == (500, 2, 1)  # there is no other way


KINDS = SiteLimits(nodes=[Node(2, 9_000), Node(8, 3_000)])


@pytest.mark.parametrize(
    ("options", "limits", "told"),
    [
        ({"cpus_per_task": 9}, SiteLimits(nodes=[Node(8, 5_000)]), ["cpus_per_task=9", "8"]),
        ({"mem": "4G"}, SiteLimits(nodes=[Node(8, 4_000)]), ["mem=4096", "4000"]),
        ({"cpus_per_task": 13, "mem": 13_000, **FMI}, SiteLimits(), ["max_cpus_per_job: 12", "mem=13000"]),
        (
            {"cpus_per_task": 4, "mem": 4_000},
            KINDS,
            ["=4 and mem=4000 fit", "2 cores and 9000 MB; 8 cores and"],
        ),
        (
            {"parallel_tasks_per_job": 3, "mem": 2_000},
            KINDS,
            ["3 units at once with cpus_per_task=1 and mem"],
        ),
        ({"time": "2:00:00"}, SiteLimits(time_s=3_600), ["7200 s", "3600 s"]),
        ({"parallel_tasks_per_job": 9}, SiteLimits(nodes=[Node(8, 5_000)]), ["9 units at once", "8"]),
        ({"time": "60", "max_num_jobs": 2}, SiteLimits(time_s=3_600), ["max_num_jobs=2", "3600 s"]),
    ],
)
def test_what_cannot_be(options: dict[str, Any], limits: SiteLimits, told: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        pack(20, SlurmOptions(**options), limits)
    for text in told:
        assert text in str(caught.value)


small = st.integers(1, 64)
memory = st.integers(1, 100_000)
option_values = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("cpus_per_task", "tasks_per_job", "parallel_tasks_per_job"), small),
        **dict.fromkeys(("target_cpus_per_job", "max_cpus_per_job"), small),
        **{name: st.integers(1, 500) for name in ("target_num_jobs", "max_num_jobs")},
        **dict.fromkeys(("mem", "target_mem_per_job", "max_mem_per_job"), memory),
        "time": st.integers(1, 3_000),
        "needs_gpu": st.booleans(),
    },
)
site_limits = st.builds(
    SiteLimits,
    max_array_size=st.integers(2, 2_000),
    nodes=st.lists(st.builds(Node, small, memory, threads=st.sampled_from([1, 2, 4])), max_size=3),
    time_s=st.none() | st.integers(60, 1_000_000),
)


@settings(max_examples=500, deadline=None)
@given(units=st.integers(1, 50_000), values=option_values, limits=site_limits)
def test_all_units_are_placed_and_no_ceiling_is_exceeded(
    units: int, values: dict[str, Any], limits: SiteLimits
) -> None:
    options = SlurmOptions(**values)
    try:
        packing = pack(units, options, limits)
    except InvalidInputError:
        return
    assert (packing.array_tasks - 1) * packing.units < units <= packing.array_tasks * packing.units
    assert 1 <= packing.at_once <= packing.units
    threads = max((node.threads for node in limits.nodes), default=1)
    least = packing.at_once * options.cpus_per_task
    assert least <= packing.cpus < least + packing.at_once * threads
    assert packing.cpus == least or packing.at_once > 1
    assert packing.cpus <= (options.max_cpus_per_job or packing.cpus)
    mem_mb = packing.mem_mb or 0
    if options.mem:
        assert mem_mb == packing.at_once * options.mem
        assert mem_mb <= (options.max_mem_per_job or mem_mb)
    holding = [node for node in limits.nodes if node.cpus >= packing.cpus and node.mem_mb >= mem_mb]
    assert holding or not limits.nodes
    assert packing.array_tasks <= (options.max_num_jobs or packing.array_tasks)
    if options.time_s:
        hours, minutes, rest = map(int, (packing.time or "").split(":"))
        limit_s = hours * 3_600 + minutes * 60 + rest
        waves = math.ceil(packing.units / packing.at_once)
        if limits.time_s is None:
            assert limit_s > waves * options.time_s
        else:
            assert waves * options.time_s <= limits.time_s >= limit_s
            assert limit_s > waves * options.time_s or waves == 1 or options.max_num_jobs
    if not options.tasks_per_job and not options.parallel_tasks_per_job and not limits.time_s:
        jobs = max(options.max_num_jobs or 0, options.target_num_jobs or 0)
        assert packing.array_tasks <= max(jobs, 4 * limits.max_array_size)
