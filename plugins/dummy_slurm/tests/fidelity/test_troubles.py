"""Jobs that wait, are ended or are given up: the dummy tells of them what a real SLURM tells."""

from __future__ import annotations

from typing import Any

import pytest

from slurm_lab import SlurmLab
from tests.helpers.slurm_fixtures import Begun, Same
from tests.helpers.slurm_sites import ACCOUNTED, PATIENT, Site

# What a shell says of its children's ends is a matter of chance: they may all end at the same time.
# So is which of them gets the signal first: a shell whose child is gone waits for another one.
_WAIT = "echo ready; while :; do sleep 60 & wait; done"
_STUBBORN = f"exec 2>&-; trap 'echo told; trap \"\" TERM; exec sleep 61' TERM; {_WAIT}"
_TOLD = ["echo ready; exec sleep 60", f"trap 'echo told; exit 7' TERM; {_WAIT}", _STUBBORN]
_OFF = "reason=test"


@pytest.mark.slurm(PATIENT)
def test_cancelling_what_runs(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        jobs = {script: site.submit(script) for script in _TOLD}
        site.wait(lambda: all("ready" in site.output(job) for job in jobs.values()))
        answer = site.call("scancel", *jobs.values())
        site.wait(lambda: "COMPLETING" in site.states(jobs[_STUBBORN]))
        completing = site.control(jobs[_STUBBORN])
        seen = site.ended(jobs)
        return [answer, completing, site.call("scancel", *jobs.values()), seen]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_cancelling_parts_of_an_array(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        job = site.submit("exec sleep 60", "--array=0-6%2")
        site.wait(lambda: site.states(job).count("RUNNING") == 2)
        site.wait_for_reason_of_waiting(job)
        seen: list[Any] = [site.queue(job), site.control(job)]
        for tasks in ("5", "0", "99", "[3-4]"):
            seen.append(site.call("scancel", f"{job}_{tasks}"))
            site.wait(lambda: "COMPLETING" not in site.states(job) and site.states(job).count("RUNNING") == 2)
        site.wait_for_reason_of_waiting(job)
        seen += [site.queue(job), site.control(job), site.call("scancel", job)]
        site.wait_for_end(job)  # of tasks that never ran real accounting has different things to say
        return [*seen, site.queue(job), site.control(job), site.output(job)]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_cancelling_what_waits(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        single = site.submit("true", "--hold")
        some = site.submit("true", "--hold", "--array=0-3")
        every = site.submit("true", "--hold", "--array=0-3")
        named = site.submit("true", "--hold", "--array=0-3", "--job-name=named")
        answers: list[Any] = [
            site.call("scancel", single),
            site.call("scancel", f"{some}_1"),
            site.queue(some),
            site.call("scancel", f"{some}_[0,2-3]"),
            site.call("scancel", every),
            site.call("scancel", "--name=named"),
        ]
        return [answers, site.ended({"single": single, "some": some, "every": every, "named": named})]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_what_jobs_wait_for(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        whole = ("--cpus-per-task=8", f"--nodelist={site.nodes[0]}")
        running = site.submit("exec sleep 60", *whole)
        failed = site.submit("exit 1")
        site.wait_for_state(running, "RUNNING")
        site.wait_for_end(failed)
        never = f"--dependency=afterok:{failed}"
        waiting = {
            "Resources": site.submit("true", *whole),
            "PartitionTimeLimit": site.submit("true", "--partition=small", "--time=10"),
            "PartitionNodeLimit": site.submit("true", "--nodes=5"),
            "PartitionConfig": site.submit("true", "--cpus-per-task=99", "--array=0-1"),
            "JobHeldUser": site.submit("true", "--hold"),
            "BeginTime": site.submit("true", "--begin=now+1hour"),
            "Dependency": site.submit("true", f"--dependency=afterok:{running}"),
            "DependencyNeverSatisfied": site.submit("true", never),
        }
        ended = site.submit("true", never, "--kill-on-invalid-dep=yes")
        site.wait_for_end(ended)
        for reason, job in waiting.items():
            site.wait_for_reason(job, reason)
        seen = {reason: [site.queue(job), site.control(job)] for reason, job in waiting.items()}
        released = site.call("scontrol", "release", waiting["JobHeldUser"])
        site.wait_for_end(waiting["JobHeldUser"])
        site.call("scancel", running, *waiting.values())
        return [seen, released, site.ended({**waiting, "in vain": ended})]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_limits_of_a_user(same: Same, slurm_lab: SlurmLab, request: pytest.FixtureRequest) -> None:
    def scenario(site: Site) -> list[Any]:
        first = site.submit("exec sleep 60")
        site.wait_for_state(first, "RUNNING")
        second = site.submit("true")
        site.wait_for_reason(second)
        refused = [site.call("sbatch", *words, script="#!/bin/sh\n") for words in ([], ["--array=0-3"])]
        seen = [site.queue(second), *refused]
        site.call("scancel", first, second)
        return seen

    root = ("modify", "user", "root", "set")
    slurm_lab.sacctmgr(*root, "maxjobs=1", "maxsubmitjobs=2")
    request.addfinalizer(lambda: slurm_lab.sacctmgr(*root, "maxjobs=-1", "maxsubmitjobs=-1"))
    same(scenario, users={"*": {"max_jobs": 1, "max_submit": 2}})


@pytest.mark.slurm(ACCOUNTED)
def test_a_job_is_requeued(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        job = site.submit("exec sleep 60", "--requeue")
        fixed = site.submit("exec sleep 60", "--no-requeue")
        for each in (job, fixed):
            site.wait_for_state(each, "RUNNING")
        answers = [site.call("scontrol", "requeue", each) for each in (job, fixed)]
        site.wait_for_reason(job, "BeginTime")
        site.wait(lambda: len(site.accounted(job, "--duplicates")) == 2)
        seen = [site.view(job, "--duplicates"), site.output(job)]
        site.call("scancel", job, fixed)
        return [*answers, *seen]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_a_node_is_drained(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        node = site.nodes[1]
        job = site.submit("until [ -e go ]; do sleep 0.1; done", f"--nodelist={node}")
        site.wait_for_state(job, "RUNNING")
        seen: list[Any] = [site.call("scontrol", "update", f"nodename={node}", "state=drain", _OFF)]
        waits = site.submit("true", f"--nodelist={node}")
        site.wait_for_reason(waits)
        seen += [_states_of_nodes(site), site.queue(job), site.queue(waits), site.control(waits)]
        (site.folder / "go").touch()
        site.wait_for_end(job)
        site.wait(lambda: "drained" in _states_of_nodes(site))
        seen += [_states_of_nodes(site), site.queue(waits)]
        seen.append(site.call("scontrol", "update", f"nodename={node}", "state=resume"))
        return [*seen, site.ended({"job": job, "waits": waits})]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_a_node_is_down(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        node = site.nodes[1]
        once = site.submit("exec sleep 60", f"--nodelist={node}", "--no-requeue")
        again = site.submit("exec sleep 60", f"--nodelist={node}", "--requeue")
        for job in (once, again):
            site.wait_for_state(job, "RUNNING")
        seen: list[Any] = [site.call("scontrol", "update", f"nodename={node}", "state=down", _OFF)]
        site.wait_for_state(once, "NODE_FAIL")
        site.wait_for_state(again, "PENDING")
        site.wait_for_reason(again)
        site.wait(lambda: len(site.accounted(again, "--duplicates")) == 2)
        seen += [site.view(again, "--duplicates"), site.output(again), site.call("scancel", again)]
        site.call("scontrol", "update", f"nodename={node}", "state=resume")  # the real one is up by itself
        return [*seen, site.ended({"once": once})]

    same(scenario)


def _states_of_nodes(site: Site) -> str:
    return site.call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N|%P|%T|%E").out


def test_records_vanish(begun: Begun) -> None:
    def scenario(site: Site, job: str) -> list[Any]:
        other = site.submit("sleep 90", "--array=0")
        both = ("squeue", "--noheader", "--states=all", f"--jobs={job},{other}", "--format=%F|%T|%j")
        site.wait(lambda: site.call("squeue", "--states=all", f"--jobs={job}").code != 0, 90)
        site.wait_for_state(other, "RUNNING")
        seen = [site.view(job), site.call(*both), site.call("scancel", job)]
        site.call("scancel", other)
        return seen

    begun.must_be_the_same("forgotten", scenario)


def test_the_time_limit(begun: Begun) -> None:
    def scenario(site: Site, job: str) -> dict[str, Any]:
        site.wait(lambda: "TIMEOUT" in site.states(job), 120)
        return site.ended({"": job})

    begun.must_be_the_same("overdue", scenario)
