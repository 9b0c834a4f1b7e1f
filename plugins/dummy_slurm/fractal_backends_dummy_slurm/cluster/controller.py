"""The controller's mind: jobs, and what becomes of them. Sockets are the server's."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from . import hostlist, jobs as states
from .arguments import Refused
from .book import Book
from .config import ClusterConfig
from .dependencies import Dependencies
from .job_env import of_job
from .jobs import Job, Submission
from .node_side import NodeSide
from .nodes import Node
from .sbatch import Reader
from .sbatch_words import Asked, Caller, failed
from .timers import Timers

QUEUE_FULL_RETRY_S = 1.0
_NO_NODES = "Node count specification invalid"


class QueueFull(Exception):  # noqa: N818
    """sbatch is to try again later."""


class Controller(Book):
    """What becomes of the jobs in the book."""

    def __init__(self, folder: str, config: ClusterConfig, node_side: NodeSide, timers: Timers) -> None:
        super().__init__(folder, config)
        self.folder = folder
        self.node_side = node_side
        self.timers = timers
        self.owner = os.geteuid()
        self.booted = time.time()
        self.on_start: Callable[[Job], dict[str, object]] = lambda _: {}
        self.on_end: Callable[[str], None] = lambda _: None
        self.dependencies = Dependencies(self.jobs, self.submissions, self.tasks)
        os.makedirs(os.path.join(folder, "scripts"), mode=0o700, exist_ok=True)

    # Submitting

    def submit(self, asked: Asked, caller: Caller) -> Submission:
        """Raises Refused, or QueueFull."""
        submission = Reader(asked, caller, self.config).submission(self.next_id)
        if self.count() + max(1, len(submission.waiting)) > self.config.max_job_count:
            raise QueueFull
        most = self.config.limits_of(submission.user).max_submit
        if most is not None and self.count_of(submission.user) + max(1, len(submission.waiting)) > most:
            why = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
            refusal = failed(why, asked.options)
            raise Refused(f"sbatch: error: AssocMaxSubmitJobLimit\n{refusal.message}")
        impossible = self._impossible(submission, asked)
        self.next_id += 1
        if "test-only" in asked.options:
            raise self._test_only(submission)
        submission.script = os.path.join(self.folder, "scripts", f"{submission.id}-{time.time_ns()}")
        with open(submission.script, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(asked.script)
        self._accept(submission, impossible is not None)
        if impossible is not None:
            raise Refused(impossible)
        return submission

    def _impossible(self, submission: Submission, asked: Asked) -> str | None:
        """Why it can never run, though its record stays, as sbatch says it."""
        if submission.nodes == 0:
            return failed(_NO_NODES, asked.options).message
        why = self.cluster.unsatisfiable(submission)
        refusal = failed("Requested node configuration is not available", asked.options)
        return None if why is None else why + refusal.message

    def _test_only(self, submission: Submission) -> Refused:
        if submission.nodes == 0 and submission.array is not None:
            return Refused(f"allocation failure: {_NO_NODES}\n")
        fitting = self.cluster.fitting(submission)
        if fitting is None:
            return Refused("allocation failure: Requested node configuration is not available\n")
        partition, nodes = fitting
        when = time.strftime("%Y-%m-%dT%H:%M:%S")
        return Refused(
            f"sbatch: Job {submission.id} to start at {when} using {submission.given_cpus} processors"
            f" on nodes {hostlist.compress(nodes)} in partition {partition}\n",
            0,
        )

    def _accept(self, submission: Submission, impossible: bool) -> None:
        self.submissions[submission.id] = submission
        self.tasks[submission.id] = {}
        self.save_submission(submission)
        self.timers.at(submission.begin or submission.submitted + self.config.start_delay_s, lambda: None)
        if submission.array is None or impossible:
            job = Job(submission.id, submission.id, held=submission.held, begin=submission.begin)
            submission.waiting = []
            self.add(job)
            if impossible:
                job.partition = submission.partitions[-1]
                self.end(job, states.FAILED, "BadConstraints")
            self.save(job)

    def restore(self) -> None:
        """What the journal of an earlier controller has."""
        self.replay()
        for node in self.cluster.nodes.values():
            self._node_up_later(node)
        for submission in self.submissions.values():
            if submission.cancelled:
                self._forget_submission_later(submission)
        for job in list(self.jobs.values()):
            if job.state == states.RUNNING or job.completing:
                self._find_again(job)
            elif job.is_over:
                self._forget_later(job)
            elif job.begin is not None:
                self.timers.at(job.begin, lambda: None)
        for key in self.node_side.links.keys() - self.by_spool.keys():
            self.log(f"the processes of {key} belong to no job that is known")
            self.journal.write(stray=key)
            self.node_side.tell(key, do="die")

    def _find_again(self, job: Job) -> None:
        """Its stepd runs on, or left its result, or is gone with all that it did."""
        asked = self.submissions[job.array_id]
        for name in job.nodes:
            self.cluster.nodes[name].used[job.spool] = (asked.cpus, asked.memory, asked.gpus)
        if job.spool in self.node_side.links:
            self._limit_time(job, asked)
            return
        if self.node_side.result(job.spool) is None:
            self.log(f"job {job.name} is missing from its node")
            self.end(job, states.NODE_FAIL, "NodeDown")
        self.stepd_gone(job.spool)

    def _forget_later(self, job: Job) -> None:
        ended = job.ended

        def forget() -> None:  # unless it was requeued, and ended again
            if self.jobs.get(job.id) is job and job.is_over and job.ended == ended:
                self.forget(job)

        self.timers.at((job.ended or time.time()) + self.config.min_job_age_s, forget)

    # Starting and ending

    def start(self, job: Job, asked: Submission, partition: str, nodes: list[str], key: str) -> None:
        """On nodes of a partition that were taken for it under this key."""
        job.partition = partition
        job.state, job.reason, job.nodes, job.spool = states.RUNNING, "None", nodes, key
        job.started, job.ended, job.begin, job.cancelled_by = time.time(), None, None, None
        job.code = job.signal = 0
        self.save(job)
        self.node_side.start(key, {**self._order(job, asked, key), **self.on_start(job)})
        self._limit_time(job, asked)

    def _limit_time(self, job: Job, asked: Submission) -> None:
        limits = [asked.minutes, self.cluster.partitions[job.partition].max_minutes]
        minutes = next((limit for limit in limits if limit is not None), None)
        if minutes is not None and job.started is not None:
            key = job.spool
            self.timers.at(job.started + minutes * self.config.minute_s, lambda: self._time_is_up(job, key))

    def _time_is_up(self, job: Job, key: str) -> None:
        if self.jobs.get(job.id) is job and job.state == states.RUNNING and job.spool == key:
            self.kill(job, states.TIMEOUT, "TimeLimit", " DUE TO TIME LIMIT")

    def _order(self, job: Job, asked: Submission, key: str) -> dict[str, Any]:
        script = os.path.join(self.node_side.path(key), "slurm_script")
        config = self.config
        memory = asked.memory or self.cluster.nodes[job.nodes[0]].memory
        return {
            "id": job.id,
            "node": job.nodes[0],
            "uid": asked.uid if os.geteuid() == 0 else os.geteuid(),
            "gid": asked.gid if os.geteuid() == 0 else os.getegid(),
            "user": asked.user,
            "copy": asked.script,
            "script": script,
            "words": (asked.command or "").split(" ")[1:],
            "env": of_job(
                job,
                asked,
                config.cluster_name,
                os.path.join(self.folder, "bin"),
                os.path.join(self.node_side.path(key), "stepd"),
            ),
            "workdir": asked.workdir,
            "stdout": self.file_name(asked.stdout, job, asked),
            "stderr": self.file_name(asked.stderr, job, asked),
            "append": asked.append,
            "cpus": asked.cpus,
            "memory_mb": memory,
            "memory_kill": config.memory_kill,
            "memory_interval_s": config.memory_interval_s,
            "kill_wait_s": config.kill_wait_s,
        }

    def file_name(self, pattern: str, job: Job, asked: Submission) -> str:
        """`%A`, `%a`, `%j` and so on, filled in; a backslash anywhere makes all stand for itself."""
        if "\\" in pattern:
            return re.sub(r"\\(.?)", r"\1", pattern)
        values = {
            "A": str(job.array_id),
            "a": str(job.index if job.index is not None else 4294967294),
            "j": str(job.id),
            "J": str(job.id),
            "x": asked.name,
            "u": asked.user,
            "N": job.nodes[0] if job.nodes else "",
            "n": "0",
            "t": "0",
            "%": "%",
        }
        result, rest = "", pattern
        while "%" in rest:
            start, _, rest = rest.partition("%")
            result += start + values.get(rest[:1], "%" + rest[:1])
            rest = rest[1:]
        return result + rest

    def end(self, job: Job, state: str, reason: str) -> None:
        """Its state is an end now."""
        job.state, job.reason, job.ended = state, reason, time.time()
        job.started = job.started or job.ended
        self.save(job)
        self._forget_later(job)

    def kill(self, job: Job, state: str, reason: str, why: str) -> None:
        """End a job that runs: its processes go on for a while."""
        job.completing = True
        for name in job.nodes:
            self.cluster.nodes[name].completing.add(job.spool)
        self.end(job, state, reason)
        self.node_side.tell(job.spool, do="terminate", why=why)

    def requeue(self, job: Job, reason: str, why: str | None) -> None:
        """Once more, later. `why`: what its processes are told; None: they cannot be reached."""
        if why is not None:
            self.node_side.tell(job.spool, do="terminate", why=why)
        job.restarts += 1
        job.state, job.reason, job.nodes, job.started, job.spool = states.PENDING, reason, [], None, ""
        job.partition = ""
        self.save(job)
        job.begin = time.time() + self.config.requeue_delay_s
        job.reason = "BeginTime"
        self.save(job)
        self.timers.at(job.begin, lambda: None)

    def stepd_gone(self, key: str) -> None:
        """All of a run's processes have ended."""
        result = self.node_side.result(key)
        self.node_side.remove(key)
        self.on_end(key)
        self.cluster.release(key, list(self.cluster.nodes))
        job = self.by_spool.pop(key, None)
        if job is None or job.spool != key or self.jobs.get(job.id) is not job:
            self.log(f"the processes of {key}, which belong to no job, have ended")
            return
        job.spool = ""
        if result is not None:
            job.code, job.signal = result["code"], result["signal"]
        if job.completing:
            job.completing = False
            self.save(job)
        elif job.state == states.RUNNING:
            self.end(job, *_verdict(result))

    def node_down(self, name: str, reason: str, processes: str, back_s: float | None) -> None:
        """`processes`: "told" to end, "die" at once, or "live" on, unreachable."""
        node = self.cluster.nodes[name]
        node.state, node.reason, node.since = "DOWN", reason, time.time()
        node.back_at = None if back_s is None else time.time() + back_s
        self.save_node(name)
        self._node_up_later(node)
        for job in [job for job in self.jobs.values() if name in job.nodes and job.state == states.RUNNING]:
            why = " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"
            if processes == "die":
                self.node_side.tell(job.spool, do="die")
            elif processes == "told":
                self.node_side.tell(job.spool, do="terminate", why=why)
            self.cluster.release(job.spool, job.nodes)
            if self.submissions[job.array_id].requeue:
                self.requeue(job, "NodeDown", None)
            else:
                job.spool = ""
                self.end(job, states.NODE_FAIL, "NodeDown")

    def _node_up_later(self, node: Node) -> None:
        """Unless something else becomes of it before."""
        back_at = node.back_at
        if back_at is not None:
            self.timers.at(back_at, lambda: self.node_up(node.name) if node.back_at == back_at else None)

    def node_up(self, name: str) -> None:
        """It takes jobs again."""
        node = self.cluster.nodes[name]
        node.state, node.reason, node.back_at = "UP", "", None
        self.save_node(name)

    def vanish(self, job: Job, processes: str) -> None:
        """The record goes; its processes die, or live on."""
        if processes == "die":
            self.node_side.tell(job.spool, do="die")
        self.cluster.release(job.spool, job.nodes)
        self.forget(job)

    # Cancelling

    def cancel(self, job: Job, uid: int) -> None:
        """One job."""
        if job.is_over:
            return
        job.cancelled_by = uid
        if job.state == states.RUNNING:
            self.kill(job, states.CANCELLED, "None", "")
        else:
            self.end(job, states.CANCELLED, job.reason)

    def cancel_waiting(self, submission: Submission, indices: Iterable[int] | None, uid: int | None) -> None:
        """Tasks that are no jobs of their own: some of them leave no trace, all of them one record."""
        wanted = set(submission.waiting if indices is None else indices)
        chosen = [index for index in submission.waiting if index in wanted]
        if not chosen:
            return
        submission.waiting = left = [index for index in submission.waiting if index not in wanted]
        if not left:
            submission.cancelled = chosen if indices is None else [-1]
            submission.cancelled_by, submission.ended = uid, time.time()
            self._forget_submission_later(submission)
        self.save_submission(submission)
        self.log(f"tasks {chosen} of {submission.id} are CANCELLED")

    def _forget_submission_later(self, submission: Submission) -> None:
        def forget() -> None:
            if self.submissions.get(submission.id) is submission and submission.cancelled:
                submission.cancelled = None
                self.save_submission(submission)
                self.drop(submission.id)

        self.timers.at((submission.ended or time.time()) + self.config.min_job_age_s, forget)

    # Asking

    @property
    def owner_name(self) -> str:
        """Whose processes these are."""
        return Caller(self.owner, 0, "", []).user

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing that waits can start by itself."""
        waits = [job.reason for job in self.jobs.values() if job.state == states.PENDING]
        waits += [item.reason for item in self.submissions.values() if item.waiting]
        never = (
            "JobHeldUser",
            "JobHeldAdmin",
            "DependencyNeverSatisfied",
            "PartitionConfig",
            "PartitionTimeLimit",
            "PartitionNodeLimit",
        )
        at_work = any(job.spool == key for key, job in self.by_spool.items() if key in self.node_side.links)
        return not at_work and all(reason in never for reason in waits)


def _verdict(result: dict[str, Any] | None) -> tuple[str, str]:
    if result is None:  # its stepd was killed
        return states.NODE_FAIL, "NodeDown"
    if result["signal"] == 125:
        return states.OUT_OF_MEMORY, "OutOfMemory"
    if result["signal"]:
        return states.FAILED, "JobLaunchFailure"
    if result["code"]:
        return states.FAILED, "NonZeroExitCode"
    return states.COMPLETED, "None"
