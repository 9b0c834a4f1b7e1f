"""Which jobs and nodes commands mean, and which jobs wait for others: as with a real SLURM."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.helpers.slurm_fixtures import Same
from tests.helpers.slurm_sites import ACCOUNTED, Site

_DEPENDENCY = re.compile(" Dependency=(.*)")
_FORM = "--format=%j|%N"
_OF_PARTITIONS = "--format=%P|%N|%D|%t|%T|%c|%X|%Y|%m|%l|%a|%f|%G|%C|%E"


@pytest.mark.slurm(ACCOUNTED)
def test_jobs_of_nodes_and_accounts(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        first, second, _, last = site.nodes
        jobs = {
            name: site.submit("exec sleep 60", f"--nodelist={nodes}", f"--job-name={name}")
            for name, nodes in (("a", first), ("b", second), ("both", f"{first},{second}"))
        }
        for job in jobs.values():
            site.wait_for_state(job, "RUNNING")
        jobs["held"] = site.submit("exec sleep 60", "--hold", "--job-name=held")
        seen: list[Any] = []

        def left(*words: str) -> None:
            answer = site.call("squeue", "--noheader", _FORM, "--states=PENDING,RUNNING", *words)
            seen.append([answer.code, sorted(answer.out.splitlines()), answer.err])

        for nodes in (first, f"{first},{second}", last, "nope", f"{first[:-1]}[1-2]", f"{first[:-1]}[x]"):
            left(f"--nodelist={nodes}")
        for words in (["--me"], ["--me", "--user=daemon"], ["--account=root"], ["--account=nope"]):
            left(*words)
        for words in (
            ["--nodelist=nope"],
            ["--nodelist=nope", "--me"],
            [f"--nodelist={first}", jobs["b"]],
            [f"--nodelist={second}", "--me"],
            [f"--nodelist={first}"],
        ):
            seen.append(site.call("scancel", *words))
            left()
        site.call("scancel", *jobs.values())
        return seen

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_partitions_of_nodes(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        first, second, *_ = site.nodes
        seen = []
        for nodes in (first, second, f"{first},{second}", "nope", f"{first[:-1]}[x]"):
            for more in ([], ["--Node"], ["--partition=main"]):
                answer = site.call("sinfo", "--noheader", _OF_PARTITIONS, f"--nodes={nodes}", *more)
                # The partitions of one node come in any order.
                seen.append([answer.code, sorted(answer.out.splitlines()), answer.err])
        return seen

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_one_of_several_dependencies_and_one_at_a_time(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        running = site.submit("exec sleep 60", "--job-name=one")
        held = site.submit("true", "--hold")
        failed = site.submit("exit 1")
        good = site.submit("true")
        site.wait_for_state(running, "RUNNING")
        for job in (failed, good):
            site.wait_for_end(job)
        waiting = {
            "singleton": site.submit("true", "--dependency=singleton", "--job-name=one"),
            "either": site.submit("true", f"--dependency=afterok:{running}?afterok:{held}"),
            "one failed": site.submit("true", f"--dependency=afterok:{failed}?afterok:{held}"),
            "all failed": site.submit("true", f"--dependency=afterok:{failed}?afternotok:{good}"),
            "corr": site.submit("true", f"--dependency=aftercorr:{running}", "--array=0-1"),
        }
        for job in waiting.values():
            site.wait_for_reason(job)
        seen: list[Any] = [site.queue(job) for job in waiting.values()]
        for job in waiting.values():
            seen.append(_DEPENDENCY.findall(site.call("scontrol", "show", "job", job).out)[0])
        met = {
            "another": site.submit("true", "--dependency=singleton", "--job-name=another"),
            "one is met": site.submit("true", f"--dependency=afterok:{good}?afterok:{held}"),
        }
        seen.append(site.ended(met))
        site.call("scancel", running)
        site.wait_for_end(waiting["singleton"])
        seen.append(site.ended({"singleton": waiting["singleton"]}))
        site.wait_for_reason(waiting["corr"], "DependencyNeverSatisfied")
        seen += [site.queue(waiting["corr"]), site.queue(waiting["either"])]
        site.call("scancel", held, *waiting.values())
        return seen

    same(scenario)
